"""Typing and normalising: after `check` every value is in stored form, after `normalise` equal filters look equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from shelflist.core.errors import InvalidFilter, WrongFieldType
from shelflist.core.fields import Fields, FieldType, stored_value
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or

_ORDERED = frozenset({FieldType.STR, FieldType.INT, FieldType.FLOAT, FieldType.DATETIME})
_ALL = frozenset(FieldType)
_TYPES: Mapping[Operator, frozenset[FieldType]] = {
    Operator.EQ: _ALL,
    Operator.NE: _ALL,
    Operator.IN: _ALL,
    Operator.NOT_IN: _ALL,
    Operator.EXISTS: _ALL,
    Operator.LT: _ORDERED,
    Operator.LE: _ORDERED,
    Operator.GT: _ORDERED,
    Operator.GE: _ORDERED,
    Operator.BETWEEN: _ORDERED,
    Operator.CONTAINS: frozenset({FieldType.LIST}),
    Operator.STARTS_WITH: frozenset({FieldType.STR}),
}


def check(filter: Filter, fields: Fields) -> Filter:
    """The same filter with typed values. Raises UnknownField, or InvalidFilter naming field, type and value."""
    match filter:
        case And(parts):
            return And(tuple(check(part, fields) for part in parts))
        case Or(parts):
            return Or(tuple(check(part, fields) for part in parts))
        case Not(part):
            return Not(check(part, fields))
        case Comparison(name, operator, value):
            return _typed(name, operator, value, fields)
    raise InvalidFilter(f"{filter!r} is not a filter.")


def _typed(name: str, operator: Operator, value: Any, fields: Fields) -> Comparison:
    kind = fields.require(name)
    if kind not in _TYPES[operator]:
        able = ", ".join(sorted(one.value for one in _TYPES[operator]))
        hint = " Use contains, == or in." if kind is FieldType.LIST else ""
        raise InvalidFilter(
            f"{operator.value!r} does not work on the field {name!r}, which is {kind.value} (only on: {able}).{hint}"
        )
    if operator is Operator.EXISTS:
        return Comparison(name, operator)
    one = FieldType.STR if kind is FieldType.LIST else kind
    if operator in (Operator.IN, Operator.NOT_IN):
        return Comparison(name, operator, tuple(_value(name, operator, one, member) for member in _many(name, value)))
    if operator is Operator.BETWEEN:
        ends = _many(name, value)
        if len(ends) != 2:
            raise InvalidFilter(f"'between' on {name!r} takes two values, got {len(ends)}.")
        return Comparison(name, operator, tuple(_value(name, operator, one, end) for end in ends))
    return Comparison(name, operator, _value(name, operator, one, value))


def _many(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(value)
    raise InvalidFilter(f"The field {name!r} needs a list of values here, got {value!r}.")


def _value(name: str, operator: Operator, kind: FieldType, value: Any) -> Any:
    if value is None:
        raise InvalidFilter(f"The field {name!r} cannot be compared with null. Use exists, or not exists.")
    try:
        return stored_value(name, kind, value)
    except WrongFieldType as error:
        raise InvalidFilter(f"{error} (in the filter {name} {operator.value} …).") from None


_COMPLEMENT = {
    Operator.EQ: Operator.NE,
    Operator.NE: Operator.EQ,
    Operator.IN: Operator.NOT_IN,
    Operator.NOT_IN: Operator.IN,
}


def normalise(filter: Filter) -> Filter:
    """Canonical form of a checked filter: `Not` only around a comparison, flat, deduplicated, sorted.

    De Morgan is exact because the logic is two-valued.
    """
    return _positive(filter)


def _positive(filter: Filter) -> Filter:
    match filter:
        case And(parts):
            return _joined(And, (_positive(part) for part in parts))
        case Or(parts):
            return _joined(Or, (_positive(part) for part in parts))
        case Not(part):
            return _negative(part)
        case Comparison(name, operator, value) if operator in (Operator.IN, Operator.NOT_IN):
            members = tuple(sorted(set(value)))
            if len(members) == 1:
                return Comparison(name, Operator.EQ if operator is Operator.IN else Operator.NE, members[0])
            return Comparison(name, operator, members)
    return filter


def _negative(filter: Filter) -> Filter:
    match filter:
        case And(parts):
            return _joined(Or, (_negative(part) for part in parts))
        case Or(parts):
            return _joined(And, (_negative(part) for part in parts))
        case Not(part):
            return _positive(part)
        case Comparison(name, operator, value) if operator in _COMPLEMENT:
            return _positive(Comparison(name, _COMPLEMENT[operator], value))
    return Not(filter)


def _joined(kind: Callable[[tuple[Filter, ...]], Filter], parts: Iterable[Filter]) -> Filter:
    flat: dict[Filter, None] = {}
    for part in parts:
        inner = part.parts if isinstance(part, (And, Or)) and type(part) is kind else (part,)
        flat.update(dict.fromkeys(inner))
    ordered = tuple(sorted(flat, key=repr))
    return ordered[0] if len(ordered) == 1 else kind(ordered)
