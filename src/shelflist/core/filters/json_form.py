"""The Mongo-style form: `{"page_number": {"$lt": 10}, "tags": {"$contains": "api"}}`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from shelflist.core.errors import InvalidFilter
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or

_OPERATORS = {
    "$eq": Operator.EQ,
    "$ne": Operator.NE,
    "$lt": Operator.LT,
    "$lte": Operator.LE,
    "$gt": Operator.GT,
    "$gte": Operator.GE,
    "$in": Operator.IN,
    "$nin": Operator.NOT_IN,
    "$between": Operator.BETWEEN,
    "$contains": Operator.CONTAINS,
    "$startsWith": Operator.STARTS_WITH,
}
_NAMES = {operator: name for name, operator in _OPERATORS.items()}
_KNOWN = [*_OPERATORS, "$exists", "$and", "$or", "$nor", "$not"]


def from_json(form: Mapping[str, Any]) -> Filter:
    """A filter from its JSON form; several keys mean and. Raises InvalidFilter."""
    if not form:
        raise InvalidFilter("An empty filter {} says nothing. Leave where= out to match everything.")
    parts = [_entry(key, value) for key, value in form.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def to_json(filter: Filter) -> dict[str, Any]:
    """The JSON form of a filter; `from_json` makes the same filter of it."""
    match filter:
        case And(parts):
            return {"$and": [to_json(part) for part in parts]}
        case Or(parts):
            return {"$or": [to_json(part) for part in parts]}
        case Not(part):
            return {"$not": to_json(part)}
        case Comparison(name, Operator.EXISTS, _):
            return {name: {"$exists": True}}
        case Comparison(name, operator, value):
            return {name: {_NAMES[operator]: list(value) if isinstance(value, tuple) else value}}
    raise InvalidFilter(f"{filter!r} is not a filter.")


def _entry(key: Any, value: Any) -> Filter:
    if not isinstance(key, str):
        raise InvalidFilter(f"A filter's keys are field names or $operators, got {key!r}.")
    if not key.startswith("$"):
        return _field(key, value)
    if key == "$not":
        return Not(_nested(key, value))
    if key in ("$and", "$or", "$nor"):
        if not isinstance(value, (list, tuple)) or not (value or key == "$and"):
            raise InvalidFilter(f"{key} takes a list of filters, got {value!r}.")
        parts = tuple(_nested(key, part) for part in value)
        if key == "$nor":
            return Not(Or(parts))
        return And(parts) if key == "$and" else Or(parts)
    if key in _OPERATORS or key == "$exists":
        raise InvalidFilter(f"{key} stands inside a field: {{'FIELD': {{{key!r}: {value!r}}}}}.")
    raise _unknown(key)


def _nested(key: str, value: Any) -> Filter:
    if not isinstance(value, Mapping):
        raise InvalidFilter(f"{key} takes filters as objects, got {value!r}.")
    return from_json(value)


def _field(name: str, value: Any) -> Filter:
    if not isinstance(value, Mapping):
        return Comparison(name, Operator.EQ, tuple(value) if isinstance(value, list) else value)
    if not value:
        raise InvalidFilter(f"The field {name!r} has no condition: {{}}.")
    parts = [_condition(name, operator, operand) for operator, operand in value.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _condition(name: str, operator: Any, operand: Any) -> Filter:
    if operator == "$exists":
        if not isinstance(operand, bool):
            raise InvalidFilter(f"$exists on {name!r} takes true or false, got {operand!r}.")
        found = Comparison(name, Operator.EXISTS)
        return found if operand else Not(found)
    if operator == "$not":
        if not isinstance(operand, Mapping):
            raise InvalidFilter(f"$not on {name!r} takes a condition as an object, got {operand!r}.")
        return Not(_field(name, operand))
    if operator not in _OPERATORS:
        raise _unknown(operator)
    return Comparison(name, _OPERATORS[operator], tuple(operand) if isinstance(operand, list) else operand)


def _unknown(operator: Any) -> InvalidFilter:
    near = difflib.get_close_matches(str(operator), _KNOWN, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    return InvalidFilter(f"Unknown operator {operator!r}.{hint} There are: {', '.join(_KNOWN)}.")
