"""What a filter must pass before a store sees it: `check` types every comparison, `normalise` gives it one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shelflist.core.errors import InvalidFilter, WrongFieldType
from shelflist.core.fields import Fields, FieldType, shown_value, stored_value
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or, parts_of

MAX_DEPTH = 20
"""Deepest accepted change between and / or, once normalised. SQLite's parser gives up at 29 on older builds."""
_MAX_RAW_DEPTH = 100

_EQUALITY = {Operator.EQ, Operator.NE, Operator.IN, Operator.NOT_IN, Operator.EXISTS}
_ORDER = {Operator.LT, Operator.LE, Operator.GT, Operator.GE, Operator.BETWEEN}

OPERATORS_OF: Mapping[FieldType, frozenset[Operator]] = {
    FieldType.STR: frozenset(_EQUALITY | _ORDER | {Operator.STARTS_WITH}),
    FieldType.INT: frozenset(_EQUALITY | _ORDER),
    FieldType.FLOAT: frozenset(_EQUALITY | _ORDER),
    FieldType.BOOL: frozenset(_EQUALITY),
    FieldType.DATETIME: frozenset(_EQUALITY | _ORDER),
    FieldType.LIST: frozenset(_EQUALITY | {Operator.CONTAINS}),
}
"""Which operators make sense on which type of field."""

_ADVICE: Mapping[FieldType, str] = {
    FieldType.STR: "Compare it with text.",
    FieldType.INT: "Compare it with a whole number, without quotes.",
    FieldType.FLOAT: "Compare it with a finite number, without quotes.",
    FieldType.BOOL: "Compare it with true or false.",
    FieldType.DATETIME: "Compare it with a datetime that has a time zone, or text such as 2024-01-31T09:00:00+00:00.",
    FieldType.LIST: "Compare it with one text, which its members are compared with; for several, use in.",
}


def check(filter: Filter, fields: Fields) -> Filter:
    """The filter with every value in the stored form of its field (datetimes as int µs UTC).

    Raises UnknownField for a field that is not declared, and InvalidFilter for an operator that the field's type does
    not have, or a value of another type: 1, "1" and True are three things.
    """
    return _check(filter, fields, 0)


def _check(node: Filter, fields: Fields, depth: int) -> Filter:
    if depth > _MAX_RAW_DEPTH:
        raise _too_deep()
    match node:
        case Comparison():
            return _check_comparison(node, fields)
        case Not():
            return Not(_check(node.part, fields, depth + 1))
        case And():
            return And(tuple(_check(part, fields, depth + 1) for part in parts_of(node)))
        case Or():
            return Or(tuple(_check(part, fields, depth + 1) for part in parts_of(node)))
    raise _no_condition(node)


def _check_comparison(node: Comparison, fields: Fields) -> Comparison:
    name, operator = node.field, node.operator
    kind = fields.require(name)
    allowed = OPERATORS_OF[kind]
    if operator not in allowed:
        takes = ", ".join(each.value for each in Operator if each in allowed)
        hint = " Full text is found by keyword search." if operator is Operator.CONTAINS else ""
        raise InvalidFilter(
            f"Field {name!r} is {kind.value}, which has no {operator.value!r}. It takes: {takes}.{hint}"
        )
    match operator:
        case Operator.EXISTS:
            return Comparison(name, operator)
        case Operator.IN | Operator.NOT_IN:
            if not isinstance(node.value, (tuple, list, set, frozenset)):
                raise InvalidFilter(
                    f"{operator.value!r} on field {name!r} takes a list of values, "
                    f"got {type(node.value).__name__} {shown_value(node.value)}."
                )
            return Comparison(name, operator, tuple(_value(name, kind, each) for each in node.value))
        case Operator.BETWEEN:
            if not isinstance(node.value, (tuple, list)) or len(node.value) != 2:
                raise InvalidFilter(
                    f"'between' on field {name!r} takes two values, the lowest and the highest, "
                    f"got {type(node.value).__name__} {shown_value(node.value)}."
                )
            return Comparison(name, operator, tuple(_value(name, kind, each) for each in node.value))
    return Comparison(name, operator, _value(name, kind, node.value))


def _value(name: str, kind: FieldType, value: Any) -> Any:
    if value is None:
        raise InvalidFilter(
            f"Field {name!r} is compared with null, which equals nothing. Ask whether the field is there: "
            f'exists({name}) or not exists({name}); in Python F({name!r}).exists(); in JSON {{"$exists": false}}.'
        )
    if kind is FieldType.LIST and not isinstance(value, str):
        got = f"{type(value).__name__} {shown_value(value)}"
        raise InvalidFilter(f"Field {name!r} is list[str], got {got}. {_ADVICE[kind]}")
    try:
        return stored_value(name, kind, [value])[0] if kind is FieldType.LIST else stored_value(name, kind, value)
    except WrongFieldType as error:
        raise InvalidFilter(f"{str(error).rstrip('.')}. {_ADVICE[kind]}") from None


def _no_condition(node: object) -> InvalidFilter:
    return InvalidFilter(
        f"A filter holds {type(node).__name__} {shown_value(node)}, which is no condition. Use F, | & and ~."
    )


def _too_deep() -> InvalidFilter:
    return InvalidFilter(
        f"The filter nests and / or more than {MAX_DEPTH} levels deep. Write it flatter; for many values of one field "
        "use in."
    )


EVERYTHING = And(())
NOTHING = Or(())

_OPPOSITE = {
    Operator.EQ: Operator.NE,
    Operator.NE: Operator.EQ,
    Operator.IN: Operator.NOT_IN,
    Operator.NOT_IN: Operator.IN,
}


def normalise(filter: Filter) -> Filter:
    """The same meaning in one shape: hashable, and equal for filters that differ only in how they were written.

    And and Or are flat, sorted, without duplicates and have at least two parts; Not stands directly around a
    comparison only, and not around those whose opposite has an operator; the values of `in` are sorted and unique,
    and there are at least two. What matches always or never is `And(())` or `Or(())`, alone.
    Raises InvalidFilter if and / or alternate more than MAX_DEPTH levels deep.
    """
    return _normalise(filter, False, 0)


def _normalise(node: Filter, negated: bool, depth: int) -> Filter:
    if depth > _MAX_RAW_DEPTH:
        raise _too_deep()
    match node:
        case Comparison():
            return _normalise_comparison(node, negated)
        case Not():
            return _normalise(node.part, not negated, depth + 1)
        case And() | Or():
            parts = [_normalise(part, negated, depth + 1) for part in parts_of(node)]
            return _joined(parts, And if isinstance(node, And) != negated else Or)
    raise _no_condition(node)


def _normalise_comparison(node: Comparison, negated: bool) -> Filter:
    operator, value = node.operator, node.value
    if negated:
        if operator not in _OPPOSITE:
            return Not(node)
        operator = _OPPOSITE[operator]
    if operator in (Operator.IN, Operator.NOT_IN):
        value = tuple(sorted(dict.fromkeys(value), key=_value_order))
        if not value:
            return NOTHING if operator is Operator.IN else EVERYTHING
        if len(value) == 1:
            return Comparison(node.field, Operator.EQ if operator is Operator.IN else Operator.NE, value[0])
    return Comparison(node.field, operator, value)


def _joined(parts: list[Filter], kind: type[And] | type[Or]) -> Filter:
    neutral, absorbing = (EVERYTHING, NOTHING) if kind is And else (NOTHING, EVERYTHING)
    unique = dict.fromkeys(part for part in parts_of(kind(tuple(parts))) if part != neutral)
    if absorbing in unique:
        return absorbing
    if not unique:
        return neutral
    if len(unique) == 1:
        return next(iter(unique))
    joined = kind(tuple(sorted(unique, key=_order)))
    if _levels(joined) > MAX_DEPTH:
        raise _too_deep()
    return joined


def _levels(node: Filter) -> int:
    if isinstance(node, (And, Or)):
        return 1 + max(map(_levels, node.parts), default=0)
    return 0


def _order(node: Filter) -> tuple[Any, ...]:
    match node:
        case Comparison():
            values = node.value if isinstance(node.value, tuple) else (node.value,)
            return (0, node.field, node.operator.value, tuple(map(_value_order, values)))
        case Not():
            return (1, _order(node.part))
        case And() | Or():
            return (2 if isinstance(node, And) else 3, tuple(map(_order, node.parts)))
    raise AssertionError(node)


def _value_order(value: Any) -> tuple[str, Any]:
    # Values of other types do not compare with each other, and 1 stands before or after True, never equal to it.
    plain = isinstance(value, (bool, int, float, str))
    return (type(value).__name__, value if plain else repr(value))
