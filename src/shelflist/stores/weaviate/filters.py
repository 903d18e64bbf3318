"""What Weaviate keeps of a point's metadata so that every filter is exact, and filters over it.

Text and list members are kept as "x" and the hex of their UTF-8: the engine trims text and reads `*` and `?` in
prefixes, and an empty text would have no key at all; hex keeps order and prefixes. A datetime is kept as whole seconds
and the microseconds beyond, because numbers come to the engine as doubles, which end at 2^53. `has` names the fields
that a point has: an empty list or a null leaves no other trace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from shelflist.core.fields import Fields, FieldType, shown_value
from shelflist.core.filters.compiler import FilterCompiler

HAS = "has"
STATUS = "index_status"
TENANT = "tenant_id"
POINT = "_id"
"""The engine's own name for the id of an object."""

_MICROSECONDS = 1_000_000
_LONGEST = 200

Shape = Literal["text", "text[]", "int", "number", "bool"]


def kept_text(text: str) -> str:
    """Text as the engine's indexes keep it whole."""
    return "x" + text.encode().hex()


def read_text(kept: str) -> str:
    return bytes.fromhex(kept[1:]).decode()


def property_name(field: str) -> str:
    """A field's name as a property's: the engine takes ASCII letters only, and names that differ in case are one to it."""
    safe = "".join(c if c in _PLAIN else "__" if c == "_" else f"_{ord(c):x}_" for c in field)
    return safe if len(safe) <= _LONGEST else f"_sha256_{hashlib.sha256(field.encode()).hexdigest()}"


_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


def properties_of(fields: Fields) -> Iterator[tuple[str, Shape]]:
    """The properties that hold declared fields, each with its shape."""
    for field, kind in fields.items():
        name = property_name(field)
        if kind is FieldType.DATETIME:
            yield f"s_{name}", "int"
            yield f"u_{name}", "int"
        else:
            yield f"f_{name}", _SHAPES[kind]


_SHAPES: Mapping[FieldType, Shape] = {
    FieldType.STR: "text",
    FieldType.INT: "int",
    FieldType.FLOAT: "number",
    FieldType.BOOL: "bool",
    FieldType.LIST: "text[]",
}


def kept_metadata(fields: Fields, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of declared fields for one point's metadata. ValueError for what is not in stored form."""
    kept: dict[str, Any] = {}
    has = []
    for field, kind in fields.items():
        value = metadata.get(field)
        if value is None:
            continue
        name = property_name(field)
        has.append(name)
        try:
            kept.update(_kept(name, kind, value))
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"field {field!r} is {kind.value} and holds {shown_value(value)}") from None
    kept[HAS] = has
    return kept


def _kept(name: str, kind: FieldType, value: Any) -> dict[str, Any]:
    match kind:
        case FieldType.STR:
            return {f"f_{name}": kept_text(value)}
        case FieldType.LIST:
            return {f"f_{name}": [kept_text(member) for member in value]} if value else {}
        case FieldType.DATETIME:
            seconds, rest = divmod(value, _MICROSECONDS)
            return {f"s_{name}": seconds, f"u_{name}": rest}
        case FieldType.BOOL:
            return {f"f_{name}": bool(value)}
    return {f"f_{name}": value + 0}


class Conditions:
    """The engine's filter messages, said shortly. `base` is the module that defines them."""

    def __init__(self, base: Any) -> None:
        self._base = base
        self._operators = base.Filters

    def compare(self, name: str, operator: str, value: bool | int | float | str) -> Any:
        kind = {bool: "value_boolean", int: "value_int", float: "value_number", str: "value_text"}[type(value)]
        return self._operators(
            operator=self._operators.Operator.Value(f"OPERATOR_{operator}"),
            target=self._base.FilterTarget(property=name),
            **{kind: value},
        )

    def has_any(self, name: str, values: Sequence[int | float | str]) -> Any:
        """Where the property, or a member of it, is among the values, which are of one type."""
        kind, array = {
            int: ("value_int_array", self._base.IntArray),
            float: ("value_number_array", self._base.NumberArray),
            str: ("value_text_array", self._base.TextArray),
        }[type(values[0])]
        return self._operators(
            operator=self._operators.OPERATOR_CONTAINS_ANY,
            target=self._base.FilterTarget(property=name),
            **{kind: array(values=values)},
        )

    def ids(self, point_ids: Iterable[str]) -> Any:
        return self.has_any(POINT, list(point_ids))

    def both(self, *parts: Any) -> Any:
        """All of the parts that are not None; None if none is."""
        given = [part for part in parts if part is not None]
        return self._joined("AND", given) if given else None

    def either(self, parts: Sequence[Any]) -> Any:
        return self._joined("OR", parts)

    def negated(self, part: Any) -> Any:
        return self._operators(operator=self._operators.OPERATOR_NOT, filters=[part])

    def _joined(self, how: str, parts: Sequence[Any]) -> Any:
        if len(parts) == 1:
            return parts[0]
        return self._operators(operator=self._operators.Operator.Value(f"OPERATOR_{how}"), filters=parts)


class WeaviateFilter(FilterCompiler[Any]):
    """Compiles to the engine's messages."""

    def __init__(self, fields: Fields, conditions: Conditions) -> None:
        super().__init__(fields)
        self._say = conditions

    def everything(self) -> Any:
        return self._say.has_any(STATUS, ["indexed", "stale"])

    def nothing(self) -> Any:
        return self._say.compare(STATUS, "EQUAL", "no such status")

    def all_of(self, parts: Sequence[Any]) -> Any:
        return self._say.both(*parts)

    def any_of(self, parts: Sequence[Any]) -> Any:
        return self._say.either(parts)

    def none_of(self, part: Any) -> Any:
        return self._say.negated(part)

    def equal(self, name: str, kind: FieldType, value: Any) -> Any:
        return self.is_in(name, kind, (value,))

    def not_equal(self, name: str, kind: FieldType, value: Any) -> Any:
        return self._say.negated(self.equal(name, kind, value))

    def is_in(self, name: str, kind: FieldType, value: Any) -> Any:
        kept = property_name(name)
        if not value:
            return self.nothing()
        match kind:
            case FieldType.STR | FieldType.LIST:
                return self._say.has_any(f"f_{kept}", [kept_text(one) for one in value])
            case FieldType.BOOL:
                return self._say.either([self._say.compare(f"f_{kept}", "EQUAL", one) for one in set(value)])
            case FieldType.DATETIME:
                return self._say.either(
                    [
                        self._say.both(
                            self._say.has_any(f"s_{kept}", [seconds for _, seconds in of_one]),
                            self._say.compare(f"u_{kept}", "EQUAL", rest),
                        )
                        for rest, of_one in _by_rest(value)
                    ]
                )
            case FieldType.FLOAT:
                return self._say.has_any(f"f_{kept}", [float(one) for one in value])
        return self._say.has_any(f"f_{kept}", list(value))

    def not_in(self, name: str, kind: FieldType, value: Any) -> Any:
        return self._say.negated(self.is_in(name, kind, value))

    def less(self, name: str, kind: FieldType, value: Any) -> Any:
        return self._ordered(name, kind, "LESS_THAN", value)

    def less_or_equal(self, name: str, kind: FieldType, value: Any) -> Any:
        return self._ordered(name, kind, "LESS_THAN_EQUAL", value)

    def greater(self, name: str, kind: FieldType, value: Any) -> Any:
        return self._ordered(name, kind, "GREATER_THAN", value)

    def greater_or_equal(self, name: str, kind: FieldType, value: Any) -> Any:
        return self._ordered(name, kind, "GREATER_THAN_EQUAL", value)

    def between(self, name: str, kind: FieldType, value: Any) -> Any:
        low, high = value
        return self._say.both(self.greater_or_equal(name, kind, low), self.less_or_equal(name, kind, high))

    def contains(self, name: str, kind: FieldType, value: Any) -> Any:
        return self.equal(name, kind, value)

    def starts_with(self, name: str, kind: FieldType, value: Any) -> Any:
        return self._say.compare(f"f_{property_name(name)}", "LIKE", kept_text(value) + "*")

    def exists(self, name: str, kind: FieldType, value: Any) -> Any:
        return self._say.has_any(HAS, [property_name(name)])

    def _ordered(self, name: str, kind: FieldType, operator: str, value: Any) -> Any:
        kept = property_name(name)
        if kind is FieldType.DATETIME:
            seconds, rest = divmod(value, _MICROSECONDS)
            beyond = operator.removesuffix("_EQUAL")
            return self._say.either(
                [
                    self._say.compare(f"s_{kept}", beyond, seconds),
                    self._say.both(
                        self._say.compare(f"s_{kept}", "EQUAL", seconds),
                        self._say.compare(f"u_{kept}", operator, rest),
                    ),
                ]
            )
        if kind is FieldType.STR:
            value = kept_text(value)
        return self._say.compare(f"f_{kept}", operator, float(value) if kind is FieldType.FLOAT else value)


def _by_rest(values: Iterable[int]) -> list[tuple[int, list[tuple[int, int]]]]:
    """Datetimes as (microseconds beyond the second, seconds), those of one rest together: mostly there is one, zero."""
    pairs = sorted(divmod(value, _MICROSECONDS)[::-1] for value in values)
    return [(rest, list(of_one)) for rest, of_one in groupby(pairs, key=lambda pair: pair[0])]
