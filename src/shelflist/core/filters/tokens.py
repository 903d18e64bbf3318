"""The words of the text form of a filter, each with its place; and complaints that point at a place."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from shelflist.core.errors import InvalidFilter

RESERVED = frozenset({"and", "or", "not", "in", "true", "false", "null", "none"})
"""Words that cannot be a field name without backticks, in any case."""

_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SYMBOL = re.compile(r"==|!=|<>|<=|>=|[=<>()\[\],]")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "\\": "\\", '"': '"', "'": "'", "`": "`"}
_CODE = re.compile(r"[0-9a-fA-F]{4}")
_SHOWN_BEFORE, _SHOWN_AFTER = 60, 40
_MAX_DIGITS = 400

_ADVICE = {
    "&": "Join conditions with and.",
    "|": "Join conditions with or.",
    "!": "Write not, or != for unequal.",
    "\u201c": 'Use straight quotes: "text".',
    "\u201d": 'Use straight quotes: "text".',
    "\u2018": "Use straight quotes: 'text'.",
    "\u2019": "Use straight quotes: 'text'.",
    "$": "Operators with $ belong to the JSON form; here write ==, <, in, contains.",
    "{": "This is the text form of a filter; give JSON as an object, not as text.",
    "%": "Text is not matched by patterns; use starts with.",
    ".": "Fields have one name, without dots.",
}


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text: `value` is the decoded string or number, the word as written, or the symbol."""

    kind: Literal["word", "field", "text", "number", "symbol", "end"]
    value: Any
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.value.lower() in words

    def is_symbol(self, *symbols: str) -> bool:
        return self.kind == "symbol" and self.value in symbols


def tokens_of(text: str) -> list[Token]:
    """All tokens, the last of kind `end`. Raises InvalidFilter at what is no token."""
    tokens: list[Token] = []
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        token = _token_at(text, place)
        tokens.append(token)
        place = token.end
    tokens.append(Token("end", None, len(text), len(text)))
    return tokens


def _token_at(text: str, start: int) -> Token:
    first = text[start]
    if first in "\"'`":
        return _quoted(text, start)
    if found := _NUMBER.match(text, start):
        return _number(text, found)
    if first.isidentifier():
        end = start + 1
        while end < len(text) and _continues(text[end]):
            end += 1
        return Token("word", text[start:end], start, end)
    if found := _SYMBOL.match(text, start):
        return Token("symbol", found[0], start, found.end())
    raise complaint(text, start, f"{first!r} means nothing here.", _ADVICE.get(first, ""))


def _continues(character: str) -> bool:
    return ("a" + character).isidentifier()


def _number(text: str, found: re.Match[str]) -> Token:
    digits, start, end = found[0], found.start(), found.end()
    if end < len(text) and _continues(text[end]):
        raise complaint(text, end, f"{text[end]!r} follows the number {digits} directly.", "Put text in quotes.")
    if len(digits) > _MAX_DIGITS:
        raise complaint(text, start, f"A number of {len(digits)} characters is too long.")
    value: int | float = int(digits) if digits.lstrip("-").isdigit() else float(digits)
    if isinstance(value, float) and not math.isfinite(value):
        raise complaint(text, start, f"The number {digits} is too large.")
    return Token("number", value, start, end)


def _quoted(text: str, start: int) -> Token:
    quote = text[start]
    characters: list[str] = []
    place = start + 1
    while place < len(text):
        character = text[place]
        if character == quote:
            return Token("field" if quote == "`" else "text", "".join(characters), start, place + 1)
        if character != "\\":
            characters.append(character)
            place += 1
            continue
        decoded, place = _escape(text, place)
        characters.append(decoded)
    raise complaint(text, start, f"The quote {quote} is never closed.")


def _escape(text: str, place: int) -> tuple[str, int]:
    escaped = text[place + 1 : place + 2]
    if escaped == "u":
        code = _CODE.match(text, place + 2)
        if code is None:
            raise complaint(text, place, "\\u is followed by four hexadecimal digits.")
        if 0xD800 <= int(code[0], 16) <= 0xDFFF:
            raise complaint(text, place, "\\u cannot name half of a character.", "Write the character itself.")
        return chr(int(code[0], 16)), code.end()
    if escaped in _ESCAPES:
        return _ESCAPES[escaped], place + 2
    raise complaint(text, place, f"\\{escaped} is no escape.", "Write a backslash as \\\\.")


def quoted(value: str, quote: str = '"') -> str:
    """Text as a token: what the tokenizer reads back as the same text."""
    names = {character: f"\\{name}" for name, character in _ESCAPES.items() if name not in "\"'`"}
    names[quote] = f"\\{quote}"
    pieces = []
    for character in value:
        plain = f"\\u{ord(character):04x}" if unicodedata.category(character) in ("Cc", "Zl", "Zp") else character
        pieces.append(names.get(character, plain))
    return f"{quote}{''.join(pieces)}{quote}"


def complaint(text: str, place: int, problem: str, advice: str = "") -> InvalidFilter:
    """The error for a place in the text (0-based; shown from 1), with the line and a caret under the place."""
    line_start = text.rfind("\n", 0, place) + 1
    line_end = text.find("\n", place)
    line_end = len(text) if line_end < 0 else line_end
    begin, end = max(line_start, place - _SHOWN_BEFORE), min(line_end, place + _SHOWN_AFTER)
    before = ("..." if begin > line_start else "") + _printable(text[begin:place])
    after = _printable(text[place:end]) + ("..." if end < line_end else "")
    line = text.count("\n", 0, place) + 1
    where = f"column {place - line_start + 1}" + (f" of line {line}" if "\n" in text else "")
    sentence = f"The filter cannot be read at {where}: {problem}{' ' + advice if advice else ''}"
    return InvalidFilter(f"{sentence}\n  {before}{after}\n  {' ' * _width(before)}^")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _width(text: str) -> int:
    """Columns that a terminal gives the text."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)
