"""The filter tree: one language for all stores, two-valued logic, and `matches`, which says what a filter means.

A missing or null field matches no positive comparison; `!=` and `not in` are exactly NOT of `==` and `in`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from shelflist.core.fields import is_bool, microseconds

_LISTS = (list, tuple, set, frozenset)


class Operator(StrEnum):
    EQ = "=="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IN = "in"
    NOT_IN = "not in"
    BETWEEN = "between"
    CONTAINS = "contains"
    STARTS_WITH = "starts with"
    EXISTS = "exists"


class Filter:
    """A condition on metadata. Combine with `&`, `|`, `~`."""

    __slots__ = ()

    def __and__(self, other: Filter) -> Filter:
        return And((self, other))

    def __or__(self, other: Filter) -> Filter:
        return Or((self, other))

    def __invert__(self) -> Filter:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError("A filter has no truth value. Combine filters with & | ~, not with and, or, not.")

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Whether metadata matches: in stored form (see `core.fields`), or as users see it. The oracle of every store.

        So a moment may be int microseconds or an aware datetime in `metadata`, and ISO text with a time zone as well in
        the filter. 1, "1" and True are three things. Values that cannot be compared do not match; nothing is raised.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Comparison(Filter):
    """One field compared with a value: a scalar, a tuple for `in` and `between`, None for `exists`."""

    field: str
    operator: Operator
    value: Any = None

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        stored, value = metadata.get(self.field), self.value
        if isinstance(stored, datetime) or (type(stored) is int and type(value) is not int):
            stored, value = _moment(stored), _moments(value)
        match self.operator:
            case Operator.EQ:
                return _equal(stored, value)
            case Operator.NE:
                return not _equal(stored, value)
            case Operator.IN:
                return any(_equal(stored, member) for member in value)
            case Operator.NOT_IN:
                return not any(_equal(stored, member) for member in value)
            case Operator.EXISTS:
                return stored is not None
        if stored is None:
            return False
        try:
            return self._is_ordered(stored, value)
        except (TypeError, AttributeError):  # values of two kinds
            return False

    def _is_ordered(self, stored: Any, value: Any) -> bool:
        match self.operator:
            case Operator.CONTAINS:
                return isinstance(stored, _LISTS) and _equal(stored, value)
            case Operator.STARTS_WITH:
                return bool(stored.startswith(value))
        if any(is_bool(bound) != is_bool(stored) for bound in (value if isinstance(value, tuple) else (value,))):
            return False
        match self.operator:
            case Operator.LT:
                return bool(stored < value)
            case Operator.LE:
                return bool(stored <= value)
            case Operator.GT:
                return bool(stored > value)
            case Operator.GE:
                return bool(stored >= value)
            case Operator.BETWEEN:
                low, high = value
                return bool(low <= stored <= high)
        raise AssertionError(self.operator)


def _moments(value: Any) -> Any:
    if isinstance(value, tuple) and value and type(value[0]) is int:  # checked already, and perhaps thousands
        return value
    return tuple(map(_moment, value)) if isinstance(value, (tuple, list, set, frozenset)) else _moment(value)


def _moment(value: Any) -> Any:
    """An aware datetime, or the text of one, as microseconds; anything else as it is."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return value
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        return value
    return microseconds(moment)


def _equal(stored: Any, value: Any) -> bool:
    """Equality of a stored value; on a list, membership (so `!=` on a list means "does not contain")."""
    if stored is None:
        return False
    if isinstance(stored, _LISTS):
        return any(member == value and is_bool(member) == is_bool(value) for member in stored)
    return bool(stored == value) and is_bool(stored) == is_bool(value)


@dataclass(frozen=True, slots=True)
class And(Filter):
    """Every part matches; no parts match everything."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return all(part.matches(metadata) for part in parts_of(self))


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """At least one part matches; no parts match nothing."""

    parts: tuple[Filter, ...]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return any(part.matches(metadata) for part in parts_of(self))


@dataclass(frozen=True, slots=True)
class Not(Filter):
    part: Filter

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        return not self.part.matches(metadata)


def parts_of(node: And | Or) -> Iterator[Filter]:
    """The parts of a node, those of nested nodes of its own kind included: `a & b & c` has three.

    Not recursive, because thousands of conditions joined one by one make a tree just as deep.
    """
    kind = type(node)
    waiting: list[Filter] = list(reversed(node.parts))
    while waiting:
        part = waiting.pop()
        if isinstance(part, kind):
            waiting.extend(reversed(part.parts))
        else:
            yield part
