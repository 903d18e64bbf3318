"""Filters as JSON: `{"page_number": {"$lt": 10}, "tags": "api"}`. Several keys of one object must all match."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shelflist.core.errors import InvalidFilter
from shelflist.core.fields import Fields, FieldType, from_microseconds, shown_value
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or, parts_of

_MAX_NESTING = 50

_OPERATORS: Mapping[str, Operator] = {
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
    "$exists": Operator.EXISTS,
}
_NAMES = {operator: name for name, operator in _OPERATORS.items()}
_JOINING = ("$and", "$or", "$nor", "$not")


def from_json(form: Mapping[str, Any]) -> Filter:
    """The filter that a JSON object stands for. Raises InvalidFilter naming the key that is wrong."""
    return _object(form, "the filter", 0)


def _object(form: Any, where: str, depth: int) -> Filter:
    if not isinstance(form, Mapping):
        raise InvalidFilter(f'{_begin(where)} must be an object such as {{"field": value}}, got {_shown(form)}.')
    if depth > _MAX_NESTING:
        raise InvalidFilter(f"{_begin(where)} is nested more than {_MAX_NESTING} levels deep. Write it flatter.")
    if not form:
        raise InvalidFilter(f"{_begin(where)} is empty. Name a field, or leave the filter out to match everything.")
    parts = [_member(key, value, depth) for key, value in form.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _member(key: Any, value: Any, depth: int) -> Filter:
    if not isinstance(key, str):
        raise InvalidFilter(f"A filter names fields by text, got the key {_shown(key)}.")
    match key:
        case "$and":
            return And(_several(key, value, depth))
        case "$or":
            return Or(_several(key, value, depth))
        case "$nor":
            return Not(Or(_several(key, value, depth)))
        case "$not":
            return Not(_object(value, "$not", depth + 1))
    if key in _OPERATORS:
        raise InvalidFilter(f'{key} stands where a field is expected. Write {{"field": {{"{key}": value}}}}.')
    if key.startswith("$"):
        raise _unknown(key, (*_JOINING, *_OPERATORS))
    return _field(key, value, depth)


def _several(key: str, value: Any, depth: int) -> tuple[Filter, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidFilter(f"{key} takes a list of filters, got {_shown(value)}.")
    if not value:
        raise InvalidFilter(f"{key} has no filters. Put at least one in its list, or leave {key} out.")
    return tuple(_object(part, f"{key}[{i}]", depth + 1) for i, part in enumerate(value))


def _field(name: str, value: Any, depth: int) -> Filter:
    if value is None:
        raise InvalidFilter(
            f'Field {name!r} is compared with null, which equals nothing. Write {{"{name}": {{"$exists": false}}}}.'
        )
    if isinstance(value, (list, tuple, set, frozenset)):
        raise InvalidFilter(
            f'Field {name!r} is compared with a list. Write {{"{name}": {{"$in": [...]}}}} for any of several values.'
        )
    if not isinstance(value, Mapping):
        return Comparison(name, Operator.EQ, value)
    if not value:
        raise InvalidFilter(
            f'The condition on field {name!r} is empty. Write for example {{"{name}": {{"$eq": value}}}}.'
        )
    if depth > _MAX_NESTING:
        raise InvalidFilter(f"The condition on field {name!r} is nested too deep. Write it flatter.")
    parts = [_condition(name, operator, operand, depth) for operator, operand in value.items()]
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _condition(name: str, key: Any, value: Any, depth: int) -> Filter:
    if key == "$not":
        if not isinstance(value, Mapping):
            raise InvalidFilter(f"$not on field {name!r} takes an object of operators, got {_shown(value)}.")
        return Not(_field(name, value, depth + 1))
    if key in _JOINING:
        raise InvalidFilter(
            f"{key} joins whole filters and cannot stand inside field {name!r}. "
            f'Write {{"{key}": [{{"{name}": ...}}, ...]}}.'
        )
    if not isinstance(key, str) or not key.startswith("$"):
        near = f" Did you mean {near_name!r}?" if (near_name := _nearest(f"${key}", _OPERATORS)) else ""
        raise InvalidFilter(
            f"The condition on field {name!r} has the key {key!r}, which is not an operator.{near} "
            f"Operators: {', '.join(_OPERATORS)}."
        )
    if key not in _OPERATORS:
        raise _unknown(key, _OPERATORS, f" on field {name!r}")
    operator = _OPERATORS[key]
    match operator:
        case Operator.EXISTS:
            if not isinstance(value, bool):
                raise InvalidFilter(f"$exists on field {name!r} takes true or false, got {_shown(value)}.")
            exists = Comparison(name, operator)
            return exists if value else Not(exists)
        case Operator.IN | Operator.NOT_IN:
            if not isinstance(value, (list, tuple, set, frozenset)):
                raise InvalidFilter(f"{key} on field {name!r} takes a list of values, got {_shown(value)}.")
            return Comparison(name, operator, tuple(value))
        case Operator.BETWEEN:
            if not isinstance(value, (list, tuple)) or len(value) != 2:
                raise InvalidFilter(
                    f"$between on field {name!r} takes a list of two values, the lowest and the highest, "
                    f"got {_shown(value)}."
                )
            return Comparison(name, operator, tuple(value))
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        raise InvalidFilter(f"{key} on field {name!r} takes one value, got {_shown(value)}.")
    return Comparison(name, operator, value)


def _begin(where: str) -> str:
    return where[0].upper() + where[1:]


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {shown_value(value)}"


def _nearest(name: str, known: Any) -> str | None:
    import difflib

    folded = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower().replace("_", ""), folded, n=1, cutoff=0.5)
    return folded[near[0]] if near else None


def _unknown(key: str, known: Any, where: str = "") -> InvalidFilter:
    near = _nearest(key, known)
    hint = f" Did you mean {near!r}?" if near else ""
    return InvalidFilter(f"Unknown operator {key!r}{where}.{hint} Operators: {', '.join(known)}.")


def to_json(filter: Filter, fields: Fields | None = None) -> dict[str, Any]:
    """The JSON form; `from_json` of it means the same.

    A checked filter holds datetimes as int µs; give `fields` to have them written as ISO 8601 text, which `check`
    takes again. Raises InvalidFilter for a filter without parts, which JSON has no form for, and for one nested deeper
    than `from_json` reads.
    """
    return _json_of(filter, fields, 0)


def _json_of(filter: Filter, fields: Fields | None, depth: int) -> dict[str, Any]:
    if depth > _MAX_NESTING:
        raise InvalidFilter(f"The filter is nested more than {_MAX_NESTING} levels deep. Write it flatter.")
    match filter:
        case Comparison():
            return {filter.field: _operand(filter, fields)}
        case Not(part=Comparison(operator=Operator.EXISTS) as exists):
            return {exists.field: {"$exists": False}}
        case Not():
            return {"$not": _json_of(filter.part, fields, depth + 1)}
        case And() | Or():
            parts = [_json_of(part, fields, depth + 1) for part in parts_of(filter)]
            if not parts:
                raise InvalidFilter("A filter without conditions has no JSON form. Leave the filter out instead.")
            return {"$and" if isinstance(filter, And) else "$or": parts}
    raise AssertionError(filter)


def _operand(node: Comparison, fields: Fields | None) -> dict[str, Any]:
    if node.operator is Operator.EXISTS:
        return {"$exists": True}
    kind = fields.get(node.field) if fields is not None else None
    if isinstance(node.value, (tuple, list)):
        value: Any = [written(each, kind) for each in node.value]
    else:
        value = written(node.value, kind)
    return {_NAMES[node.operator]: value}


def written(value: Any, kind: FieldType | None) -> Any:
    """A value as JSON has it: datetimes, also those that are already int µs, as ISO 8601 text."""
    if kind is FieldType.DATETIME and isinstance(value, int):
        value = from_microseconds(value)
    return value.isoformat() if isinstance(value, datetime) else value
