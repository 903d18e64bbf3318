"""Filters over Chroma's records (see `records`), equal to `Filter.matches`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from shelflist.core.fields import FieldType
from shelflist.core.filters.compiler import FilterCompiler
from shelflist.stores.chroma.records import absent_key, key, member_key, operand

MAX_VARIABLES = 30_000
"""A condition with more goes in parts. Chroma's SQLite takes 32,766 in one statement."""

_NEVER = "never"
"""A key that no record has."""

_IN_ONE_LIST = 5_000
_SIDE_BY_SIDE = 50
_VARIABLES_OF_ONE = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of Chroma's: `where` of one comparison, or `parts` joined by `operator`. `variables`: what SQLite binds."""

    variables: int
    where: Mapping[str, Any] | None = None
    operator: str = ""
    parts: tuple[Condition, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The `where` to send: SQLite nests joined conditions, a thousand deep at most, so wide ones become trees."""
        if self.where is not None:
            return dict(self.where)
        level = [part.to_json() for part in self.parts]
        while len(level) > 1:
            groups = [level[start : start + _SIDE_BY_SIDE] for start in range(0, len(level), _SIDE_BY_SIDE)]
            level = [{self.operator: group} if len(group) > 1 else group[0] for group in groups]
        return level[0]


def all_of(parts: Iterable[Condition]) -> Condition:
    return _joined("$and", parts)


def any_of(parts: Iterable[Condition]) -> Condition:
    return _joined("$or", parts)


def _joined(operator: str, parts: Iterable[Condition]) -> Condition:
    flat: list[Condition] = []
    for part in parts:
        flat += part.parts if part.operator == operator else (part,)
    if len(flat) == 1:
        return flat[0]
    return Condition(sum(part.variables for part in flat), operator=operator, parts=tuple(flat))


def one_of(name: str, operator: str, value: Any, variables: int = _VARIABLES_OF_ONE) -> Condition:
    return Condition(variables, where={name: {operator: value}})


def matching(condition: Condition, fetch: Callable[[dict[str, Any]], set[str]]) -> set[str]:
    """The ids that match: `fetch` is asked once, or for parts that are small enough, and their answers are joined."""
    if condition.variables <= MAX_VARIABLES:
        return fetch(condition.to_json())
    groups: list[list[Condition]] = [[]]
    for part in condition.parts:
        if groups[-1] and sum(one.variables for one in groups[-1]) + part.variables > MAX_VARIABLES:
            groups.append([])
        groups[-1].append(part)
    found = (matching(_joined(condition.operator, group), fetch) for group in groups)
    return reduce(set.intersection if condition.operator == "$and" else set.union, found)


@dataclass(frozen=True, slots=True)
class Decided:
    """A condition and its exact opposite, because Chroma has no NOT."""

    yes: Condition
    no: Condition


def _decided(flag: str) -> Decided:
    """Whether a key that is true or missing is there."""
    return Decided(one_of(flag, "$eq", True), one_of(flag, "$ne", True))


class ChromaFilterCompiler(FilterCompiler[Decided]):
    """A comparison's opposite takes in the records that lack the field, as `Filter.matches` does."""

    def everything(self) -> Decided:
        return self.none_of(_decided(_NEVER))

    def nothing(self) -> Decided:
        return self.none_of(self.everything())

    def all_of(self, parts: Sequence[Decided]) -> Decided:
        return Decided(all_of(part.yes for part in parts), any_of(part.no for part in parts))

    def any_of(self, parts: Sequence[Decided]) -> Decided:
        return Decided(any_of(part.yes for part in parts), all_of(part.no for part in parts))

    def none_of(self, part: Decided) -> Decided:
        return Decided(part.no, part.yes)

    def equal(self, name: str, kind: FieldType, value: Any) -> Decided:
        if kind is FieldType.LIST:
            return self.contains(name, kind, value)
        value = operand(kind, value)
        return Decided(one_of(key(name), "$eq", value), one_of(key(name), "$ne", value))

    def not_equal(self, name: str, kind: FieldType, value: Any) -> Decided:
        return self.none_of(self.equal(name, kind, value))

    def is_in(self, name: str, kind: FieldType, value: Any) -> Decided:
        if not value:
            return self.nothing()
        if kind is FieldType.LIST:
            return self.any_of([self.contains(name, kind, member) for member in value])
        members = [operand(kind, member) for member in value]
        lists = [members[start : start + _IN_ONE_LIST] for start in range(0, len(members), _IN_ONE_LIST)]
        return self.any_of(
            [
                Decided(
                    one_of(key(name), "$in", each, 2 * len(each) + _VARIABLES_OF_ONE),
                    one_of(key(name), "$nin", each, 2 * len(each) + _VARIABLES_OF_ONE),
                )
                for each in lists
            ]
        )

    def not_in(self, name: str, kind: FieldType, value: Any) -> Decided:
        return self.none_of(self.is_in(name, kind, value))

    def less(self, name: str, kind: FieldType, value: Any) -> Decided:
        return self._range(name, kind, "$lt", "$gte", value)

    def less_or_equal(self, name: str, kind: FieldType, value: Any) -> Decided:
        return self._range(name, kind, "$lte", "$gt", value)

    def greater(self, name: str, kind: FieldType, value: Any) -> Decided:
        return self._range(name, kind, "$gt", "$lte", value)

    def greater_or_equal(self, name: str, kind: FieldType, value: Any) -> Decided:
        return self._range(name, kind, "$gte", "$lt", value)

    def between(self, name: str, kind: FieldType, value: Any) -> Decided:
        low, high = value
        return self.all_of([self.greater_or_equal(name, kind, low), self.less_or_equal(name, kind, high)])

    def contains(self, name: str, kind: FieldType, value: Any) -> Decided:
        return _decided(member_key(name, value))

    def exists(self, name: str, kind: FieldType, value: Any) -> Decided:
        return self.none_of(_decided(absent_key(name)))

    def _range(self, name: str, kind: FieldType, operator: str, opposite: str, value: Any) -> Decided:
        value = operand(kind, value)
        return Decided(
            one_of(key(name), operator, value),
            any_of([one_of(key(name), opposite, value), one_of(absent_key(name), "$eq", True)]),
        )
