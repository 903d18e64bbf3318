"""The text form: `page_number < 10 and "api" in tags`. A small language, read by recursive descent.

    or      = and ("or" and)*
    and     = not ("and" not)*
    not     = "not" not | "(" or ")" | "exists" "(" NAME ")" | VALUE ["not"] "in" NAME | NAME condition
    condition = ("==" | "=" | "!=" | "<" | "<=" | ">" | ">=") VALUE | ["not"] "in" LIST | "between" VALUE "and" VALUE
              | "contains" VALUE | "starts" "with" VALUE | "exists"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shelflist.core.errors import InvalidFilter
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<word>[^\W\d]\w*)
    | (?P<sign>==|!=|<=|>=|[=<>()\[\],])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}
_COMPARISONS = {
    "==": Operator.EQ,
    "=": Operator.EQ,
    "!=": Operator.NE,
    "<": Operator.LT,
    "<=": Operator.LE,
    ">": Operator.GT,
    ">=": Operator.GE,
}
_WORDS = frozenset({"and", "or", "not", "in", "between", "contains", "starts", "with", "exists"})
_LITERALS = {"true": True, "false": False}
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def from_text(text: str) -> Filter:
    """A filter from its text form. Raises InvalidFilter that points at the place."""
    return _Parser(text).parse()


def to_text(filter: Filter) -> str:
    """The text form of a filter; `from_text` makes a filter of the same meaning of it."""
    match filter:
        case And(parts) if parts:
            return " and ".join(_inner(part) for part in parts)
        case Or(parts) if parts:
            return " or ".join(_inner(part) for part in parts)
        case Not(part):
            return f"not ({to_text(part)})"
        case Comparison(name, Operator.EXISTS, _):
            return f"exists({name})"
        case Comparison(name, Operator.BETWEEN, (low, high)):
            return f"{name} between {_literal(low)} and {_literal(high)}"
        case Comparison(name, (Operator.IN | Operator.NOT_IN) as operator, members):
            return f"{name} {operator.value} ({', '.join(_literal(member) for member in members)})"
        case Comparison(name, operator, value):
            return f"{name} {operator.value} {_literal(value)}"
    raise InvalidFilter(f"{filter!r} has no text form.")


def _inner(filter: Filter) -> str:
    return f"({to_text(filter)})" if isinstance(filter, (And, Or)) else to_text(filter)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\\0")
    return f'"{escaped}"'


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._tokenise()
        self._next = 0
        self._depth = 0

    def parse(self) -> Filter:
        if not self._tokens:
            raise InvalidFilter("An empty filter says nothing. Leave it out to match everything.")
        found = self._or()
        if self._peek() is not None:
            raise self._error("expected 'and', 'or' or the end")
        return found

    def _tokenise(self) -> list[_Token]:
        tokens = []
        at = 0
        end = len(self._text.rstrip())
        while at < end:
            match = _TOKEN.match(self._text, at)
            if match is None:
                while self._text[at].isspace():
                    at += 1
                quote = self._text[at] in "\"'"
                raise self._error("this quote is never closed" if quote else "this cannot be read", at)
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match.group(kind), match.start(kind)))
            at = match.end()
        return tokens

    def _error(self, what: str, at: int | None = None) -> InvalidFilter:
        if at is None:
            token = self._peek()
            at = token.at if token else len(self._text)
        return InvalidFilter(f"Filter, column {at + 1}: {what}.\n  {self._text}\n  {' ' * at}^")

    def _peek(self, ahead: int = 0) -> _Token | None:
        place = self._next + ahead
        return self._tokens[place] if place < len(self._tokens) else None

    def _is(self, *texts: str, ahead: int = 0) -> bool:
        token = self._peek(ahead)
        if token is None or token.kind not in ("word", "sign"):
            return False
        return (token.text.lower() if token.kind == "word" else token.text) in texts

    def _accept(self, *texts: str) -> bool:
        if self._is(*texts):
            self._next += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._error(f"expected {text!r}")

    def _or(self) -> Filter:
        return self._chain("or", self._and, Or)

    def _and(self) -> Filter:
        return self._chain("and", self._not, And)

    def _chain(self, word: str, part: Callable[[], Filter], kind: Callable[[tuple[Filter, ...]], Filter]) -> Filter:
        parts = [part()]
        while self._accept(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def _not(self) -> Filter:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error("nested too deeply")
        try:
            if self._accept("not"):
                return Not(self._not())
            if self._accept("("):
                inner = self._or()
                self._expect(")")
                return inner
            return self._condition()
        finally:
            self._depth -= 1

    def _condition(self) -> Filter:
        if self._is("exists") and self._is("(", ahead=1):
            self._next += 2
            name = self._name()
            self._expect(")")
            return Comparison(name, Operator.EXISTS)
        token = self._peek()
        if token is not None and (token.kind in ("string", "number") or token.text.lower() in _LITERALS):
            return self._member_of()
        name = self._name()
        token = self._peek()
        if token is not None and token.kind == "sign" and token.text in _COMPARISONS:
            self._next += 1
            return Comparison(name, _COMPARISONS[token.text], self._value())
        if self._accept("not"):
            self._expect("in")
            return Comparison(name, Operator.NOT_IN, self._list())
        if self._accept("in"):
            return Comparison(name, Operator.IN, self._list())
        if self._accept("between"):
            low = self._value()
            self._expect("and")
            return Comparison(name, Operator.BETWEEN, (low, self._value()))
        if self._accept("contains"):
            return Comparison(name, Operator.CONTAINS, self._value())
        if self._accept("starts"):
            self._expect("with")
            return Comparison(name, Operator.STARTS_WITH, self._value())
        if self._accept("exists"):
            return Comparison(name, Operator.EXISTS)
        raise self._error(
            "expected a comparison (== != < <= > >=, in, not in, between, contains, starts with, exists)"
        )

    def _member_of(self) -> Filter:
        value = self._value()
        negated = self._accept("not")
        if not self._accept("in"):
            raise self._error("expected 'in': a value on the left reads as VALUE in FIELD")
        found = Comparison(self._name(), Operator.CONTAINS, value)
        return Not(found) if negated else found

    def _name(self) -> str:
        token = self._peek()
        if token is None or token.kind != "word" or token.text.lower() in _WORDS | set(_LITERALS):
            raise self._error("expected a field name")
        self._next += 1
        return token.text

    def _list(self) -> tuple[Any, ...]:
        close = {"(": ")", "[": "]"}
        token = self._peek()
        if token is None or token.text not in close:
            raise self._error('expected a list of values, for example ("a", "b")')
        self._next += 1
        values: list[Any] = []
        while not self._is(close[token.text]):
            if values:
                self._expect(",")
                if self._is(close[token.text]):
                    break
            values.append(self._value())
        self._next += 1
        return tuple(values)

    def _value(self) -> Any:
        token = self._peek()
        if token is None:
            raise self._error("expected a value")
        word = token.text.lower()
        if token.kind == "number":
            self._next += 1
            return float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        if token.kind == "string":
            self._next += 1
            return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), token.text[1:-1], flags=re.DOTALL)
        if token.kind == "word" and word in _LITERALS:
            self._next += 1
            return _LITERALS[word]
        if token.kind == "word" and word in ("null", "none"):
            raise self._error("nothing compares with null; write exists(field) or not exists(field)")
        if token.kind == "word":
            raise self._error(f'expected a value; text needs quotes: "{token.text}"')
        raise self._error("expected a value")
