"""Filters as text, for command lines: `page_number < 10 and "api" in tags`.

    filter     = all { "or" all }
    all        = negation { "and" negation }
    negation   = "not" negation | "(" filter ")" | condition
    condition  = field comparing value | value comparing field
               | field [ "not" ] ( "in" list | "between" value "and" value | "contains" value
                                 | "starts" "with" value | "exists" )
               | value [ "not" ] "in" field
               | "exists" "(" field ")"
    comparing  = == | = | != | <> | < | <= | > | >=
    list       = "(" [ value { "," value } ] ")", or the same in [ ]
    value      = text in ' or ", number, true, false

Words may be in upper case. Field names stand without quotes; one that is a reserved word stands in backticks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from shelflist.core.errors import InvalidFilter
from shelflist.core.fields import Fields, shown_value
from shelflist.core.filters.json_form import written
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or, parts_of
from shelflist.core.filters.tokens import RESERVED, Token, complaint, quoted, tokens_of

_MAX_NESTING = 50
_COMPARING = {
    "==": Operator.EQ,
    "=": Operator.EQ,
    "!=": Operator.NE,
    "<>": Operator.NE,
    "<": Operator.LT,
    "<=": Operator.LE,
    ">": Operator.GT,
    ">=": Operator.GE,
}
_MIRRORED = {
    Operator.EQ: Operator.EQ,
    Operator.NE: Operator.NE,
    Operator.LT: Operator.GT,
    Operator.LE: Operator.GE,
    Operator.GT: Operator.LT,
    Operator.GE: Operator.LE,
}
_OPERATORS = ", ".join(operator.value for operator in Operator)
_FOREIGN_WORDS = {
    "like": "Use starts with for the beginning of text, or keyword search for words in it.",
    "ilike": "Use starts with for the beginning of text, or keyword search for words in it.",
    "is": "Use == for values; exists or not exists for null.",
    "startswith": "Write starts with, in two words.",
    "starts_with": "Write starts with, in two words.",
    "has": "Use contains.",
}


def from_text(text: str) -> Filter:
    """The filter that a text stands for. Raises InvalidFilter that points at the place it cannot read."""
    return _Reader(text).whole()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._index = 0
        self._nesting = 0

    def whole(self) -> Filter:
        if self._at_end:
            raise InvalidFilter("The filter is empty. Write a condition such as page_number < 10, or leave it out.")
        filter = self._filter()
        if not self._at_end:
            raise self._unfinished()
        return filter

    def _filter(self) -> Filter:
        parts = [self._all()]
        while self._took_word("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _all(self) -> Filter:
        parts = [self._negation()]
        while self._took_word("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Filter:
        negations = 0
        while self._took_word("not"):
            negations += 1
        filter = self._group() if self._here.is_symbol("(") else self._condition()
        return Not(filter) if negations % 2 else filter

    def _group(self) -> Filter:
        opening = self._advance()
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise self._complaint(opening, f"Parentheses are nested more than {_MAX_NESTING} deep.")
        filter = self._filter()
        if not self._here.is_symbol(")"):
            if self._at_end:
                raise self._complaint(opening, "This parenthesis is never closed.")
            raise self._unfinished()
        self._advance()
        self._nesting -= 1
        return filter

    def _condition(self) -> Filter:
        here, following = self._here, self._tokens[min(self._index + 1, len(self._tokens) - 1)]
        if here.is_word("exists") and following.is_symbol("("):
            return self._exists_call()
        if here.kind in ("text", "number") or here.is_word("true", "false", "null", "none"):
            return self._value_first()
        field = self._field()
        operator = self._advance()
        if operator.kind == "symbol" and operator.value in _COMPARING:
            return Comparison(field, _COMPARING[operator.value], self._value())
        if operator.is_word("not"):
            operator = self._advance()
            return Not(self._worded(field, operator, " not"))
        return self._worded(field, operator, "")

    def _worded(self, field: str, operator: Token, negation: str) -> Filter:
        word = operator.value.lower() if operator.kind == "word" else None
        match word:
            case "in":
                return Comparison(field, Operator.IN, self._list(field))
            case "between":
                low = self._value()
                if not self._took_word("and"):
                    raise self._complaint(
                        self._here,
                        f"Expected and, found {self._found(self._here)}.",
                        f"Write: {field} between 1 and 5.",
                    )
                return Comparison(field, Operator.BETWEEN, (low, self._value()))
            case "contains":
                return Comparison(field, Operator.CONTAINS, self._value())
            case "starts":
                if not self._took_word("with"):
                    raise self._complaint(
                        self._here,
                        f"Expected with, found {self._found(self._here)}.",
                        f'Write: {field} starts with "text".',
                    )
                return Comparison(field, Operator.STARTS_WITH, self._value())
            case "exists":
                return Comparison(field, Operator.EXISTS)
        advice = _FOREIGN_WORDS.get(word or "", f"Operators: {_OPERATORS}.")
        if operator.kind == "end" or operator.is_word("and", "or") or operator.is_symbol(")"):
            advice = f"Write for example: {field} == true, or exists({field})."
        raise self._complaint(
            operator, f"Expected an operator after {field}{negation}, found {self._found(operator)}.", advice
        )

    def _exists_call(self) -> Filter:
        self._advance()
        self._advance()
        field = self._field()
        if not self._here.is_symbol(")"):
            raise self._complaint(self._here, f"Expected ) after exists({field}, found {self._found(self._here)}.")
        self._advance()
        return Comparison(field, Operator.EXISTS)

    def _value_first(self) -> Filter:
        start = self._here
        value = self._value()
        operator = self._here
        if operator.kind == "symbol" and operator.value in _COMPARING:
            self._advance()
            return Comparison(self._field(), _MIRRORED[_COMPARING[operator.value]], value)
        negated = self._took_word("not")
        if self._took_word("in"):
            contains = Comparison(self._field(), Operator.CONTAINS, value)
            return Not(contains) if negated else contains
        if isinstance(value, bool):
            raise self._complaint(
                start,
                f"{start.value} alone is no condition.",
                "Compare a field with it, or leave the filter out to match everything.",
            )
        raise self._complaint(
            start,
            f"{self._found(start)} stands where a field is expected.",
            'Write: field == value, or "value" in field. Field names stand without quotes.',
        )

    def _field(self) -> str:
        token = self._here
        if token.kind == "field":
            self._advance()
            return str(token.value)
        if token.kind != "word":
            advice = "Field names stand without quotes." if token.kind == "text" else ""
            raise self._complaint(token, f"Expected the name of a field, found {self._found(token)}.", advice)
        if token.value.lower() in RESERVED:
            raise self._complaint(
                token,
                f"Expected the name of a field, found the word {token.value}.",
                f"Write a field of this name as `{token.value}`.",
            )
        self._advance()
        return str(token.value)

    def _value(self) -> Any:
        token = self._here
        if token.kind in ("text", "number"):
            self._advance()
            return token.value
        if token.is_word("true", "false"):
            self._advance()
            return token.value.lower() == "true"
        if token.is_word("null", "none"):
            raise self._complaint(
                token, f"Nothing compares with {token.value}.", "Write exists(field), or not exists(field)."
            )
        advice = ""
        if token.kind == "word" and token.value.lower() not in RESERVED:
            advice = f'Put text in quotes: "{token.value}".'
        raise self._complaint(token, f"Expected a value, found {self._found(token)}.", advice)

    def _list(self, field: str) -> tuple[Any, ...]:
        opening = self._here
        if not opening.is_symbol("(", "["):
            raise self._complaint(
                opening,
                f"Expected a list after in, found {self._found(opening)}.",
                f'Write: {field} in ("a", "b"), or for a list field: "a" in {field}.',
            )
        self._advance()
        closing = ")" if opening.value == "(" else "]"
        values: list[Any] = []
        while not self._here.is_symbol(closing):
            values.append(self._value())
            if self._here.is_symbol(","):
                self._advance()
            elif self._at_end:
                raise self._complaint(opening, "This list is never closed.")
            elif not self._here.is_symbol(closing):
                raise self._complaint(self._here, f"Expected , or {closing}, found {self._found(self._here)}.")
        self._advance()
        return tuple(values)

    def _unfinished(self) -> InvalidFilter:
        token = self._here
        if token.kind == "symbol" and token.value in _COMPARING:
            advice = "Comparisons cannot be chained. Write: x > 1 and x < 5, or x between 1 and 5."
        elif token.is_symbol(")"):
            advice = "No parenthesis is open here."
        elif token.kind == "text":
            advice = "A quote inside text is written \\\" or \\'."
        else:
            advice = "Join conditions with and, or."
        return self._complaint(token, f"Expected and, or, or the end, found {self._found(token)}.", advice)

    @property
    def _at_end(self) -> bool:
        return self._here.kind == "end"

    @property
    def _here(self) -> Token:
        return self._tokens[self._index]

    def _advance(self) -> Token:
        token = self._tokens[self._index]
        if token.kind != "end":
            self._index += 1
        return token

    def _took_word(self, word: str) -> bool:
        if self._here.is_word(word):
            self._index += 1
            return True
        return False

    def _found(self, token: Token) -> str:
        if token.kind == "end":
            return "the end"
        source = self._text[token.start : token.end]
        return source if len(source) <= 40 else source[:37] + "..."

    def _complaint(self, token: Token, problem: str, advice: str = "") -> InvalidFilter:
        return complaint(self._text, token.start, problem, advice)


def to_text(filter: Filter, fields: Fields | None = None) -> str:
    """The text form; `from_text` of it means the same.

    A checked filter holds datetimes as int µs; give `fields` to have them written as ISO 8601 text, which `check`
    takes again. Raises InvalidFilter for a filter without parts, for a value that text has no form for, and for a
    filter nested deeper than `from_text` reads.
    """
    return _text_of(filter, fields, 0)


def _text_of(filter: Filter, fields: Fields | None, depth: int) -> str:
    if depth > _MAX_NESTING:
        raise InvalidFilter(f"The filter is nested more than {_MAX_NESTING} levels deep. Write it flatter.")
    match filter:
        case Comparison():
            return _comparison(filter, fields)
        case Not(part=Comparison(operator=Operator.EXISTS)):
            return f"not {_text_of(filter.part, fields, depth + 1)}"
        case Not():
            return f"not ({_text_of(filter.part, fields, depth + 1)})"
        case And() | Or():
            parts = list(parts_of(filter))
            if not parts:
                raise InvalidFilter("A filter without conditions has no text form. Leave the filter out instead.")
            if len(parts) == 1:
                return _text_of(parts[0], fields, depth + 1)
            joined = (_part(part, fields, depth + 1) for part in parts)
            return (" and " if isinstance(filter, And) else " or ").join(joined)
    raise AssertionError(filter)


def _part(part: Filter, fields: Fields | None, depth: int) -> str:
    shown = _text_of(part, fields, depth)
    return f"({shown})" if isinstance(part, (And, Or)) and len(list(parts_of(part))) > 1 else shown


def _comparison(node: Comparison, fields: Fields | None) -> str:
    name = node.field if node.field.isidentifier() and node.field.lower() not in RESERVED else quoted(node.field, "`")
    kind = fields.get(node.field) if fields is not None else None
    match node.operator:
        case Operator.EXISTS:
            return f"exists({name})"
        case Operator.IN | Operator.NOT_IN:
            return f"{name} {node.operator.value} ({', '.join(_literals(node.value, kind))})"
        case Operator.BETWEEN:
            low, high = _literals(node.value, kind)
            return f"{name} between {low} and {high}"
    (value,) = _literals((node.value,), kind)
    return f"{name} {node.operator.value} {value}"


def _literals(values: Sequence[Any], kind: Any) -> list[str]:
    return [_literal(written(value, kind)) for value in values]


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value):
        return repr(float(value))
    if isinstance(value, str):
        return quoted(value)
    raise InvalidFilter(f"The value {shown_value(value)} ({type(value).__name__}) has no text form.")
