"""Filters for Qdrant. Its conditions are two-valued (a missing field matches none), so `must_not` is exactly NOT."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from shelflist.core.capabilities import Capabilities
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.compiler import FilterCompiler
from shelflist.stores.qdrant.points import (
    PRESENT,
    READABLE,
    STATUS,
    match_value,
    order_parts,
    part_key,
    prefix_parts,
    value_key,
)

if TYPE_CHECKING:
    from qdrant_client import models

Condition = Any
"""A `models.Condition`: a `Filter` or one of the leaves."""

_NEVER = "no point has this status"
_STEP = 8
"""Ints to 2^53 of which any JSON reader takes a float exactly, however it rounds: ten times 8 is a multiple of 16."""


class QdrantFilters(FilterCompiler[Condition]):
    """Compiles to the models of `qdrant_client`, which the caller has imported."""

    def __init__(self, fields: Fields, capabilities: Capabilities) -> None:
        from qdrant_client import models

        super().__init__(fields, capabilities)
        self._models = models

    def everything(self) -> Condition:
        return self.none_of(self.nothing())

    def nothing(self) -> Condition:
        return self.match(STATUS, _NEVER)

    def all_of(self, parts: Sequence[Condition]) -> Condition:
        return parts[0] if len(parts) == 1 else self._models.Filter(must=list(parts))

    def any_of(self, parts: Sequence[Condition]) -> Condition:
        return parts[0] if len(parts) == 1 else self._models.Filter(should=list(parts))

    def none_of(self, part: Condition) -> Condition:
        return self._models.Filter(must_not=[part])

    def equal(self, name: str, kind: FieldType, value: Any) -> Condition:
        return self.match(value_key(name), match_value(kind, value))

    def not_equal(self, name: str, kind: FieldType, value: Any) -> Condition:
        return self.none_of(self.equal(name, kind, value))

    def is_in(self, name: str, kind: FieldType, value: Any) -> Condition:
        values = [match_value(kind, one) for one in value]
        if not values:
            return self.nothing()
        if kind is FieldType.BOOL:  # `any` takes texts and ints
            return self.any_of([self.match(value_key(name), one) for one in values])
        return self._any(value_key(name), values)

    def not_in(self, name: str, kind: FieldType, value: Any) -> Condition:
        return self.none_of(self.is_in(name, kind, value))

    def contains(self, name: str, kind: FieldType, value: Any) -> Condition:
        return self.match(value_key(name), value)  # of an array: any of its members

    def exists(self, name: str, kind: FieldType, value: Any) -> Condition:
        return self.match(PRESENT, name)  # `is_empty` takes an empty list for a missing one

    def less(self, name: str, kind: FieldType, value: Any) -> Condition:
        if kind is FieldType.INT:
            return self._at_most(name, value - 1)
        return self._ordered(name, kind, value, self._below, self._below)

    def less_or_equal(self, name: str, kind: FieldType, value: Any) -> Condition:
        if kind is FieldType.INT:
            return self._at_most(name, value)
        return self._ordered(name, kind, value, self._below, lambda key, to: self._range(key, lte=to))

    def greater(self, name: str, kind: FieldType, value: Any) -> Condition:
        if kind is FieldType.INT:
            return self._at_least(name, value + 1)
        return self._ordered(name, kind, value, self._above, self._above)

    def greater_or_equal(self, name: str, kind: FieldType, value: Any) -> Condition:
        if kind is FieldType.INT:
            return self._at_least(name, value)
        return self._ordered(name, kind, value, self._above, lambda key, to: self._range(key, gte=to))

    def between(self, name: str, kind: FieldType, value: Any) -> Condition:
        low, high = value
        if kind is FieldType.INT and low >= -READABLE and high <= READABLE:
            return self._range(value_key(name), gte=low, lte=high)
        return self.all_of([self.greater_or_equal(name, kind, low), self.less_or_equal(name, kind, high)])

    def starts_with(self, name: str, kind: FieldType, value: Any) -> Condition:
        whole, bounds = prefix_parts(value)
        conditions = [self._same_part(name, i, part) for i, part in enumerate(whole)]
        if bounds is not None:
            conditions.append(self._range(part_key(name, len(whole)), gte=bounds[0], lte=bounds[1]))
        return self.all_of(conditions) if conditions else self.exists(name, kind, None)

    def match(self, key: str, value: Any) -> Condition:
        return self._models.FieldCondition(key=key, match=self._models.MatchValue(value=value))

    def _ordered(
        self,
        name: str,
        kind: FieldType,
        value: Any,
        strictly: Callable[[str, int], Condition],
        at_last: Callable[[str, int], Condition],
    ) -> Condition:
        """Lexicographic comparison of a field's parts with those of the value; `at_last` compares the last of them."""
        parts = order_parts(kind, value)

        def compared(start: int, end: int) -> Condition:
            # By halves: a text of n parts asks n log n conditions, log n deep; JSON readers give up 128 deep.
            if end - start == 1:
                compare = at_last if end == len(parts) else strictly
                return compare(part_key(name, start), parts[start])
            middle = (start + end) // 2
            same = [self._same_part(name, i, parts[i]) for i in range(start, middle)]
            return self.any_of([compared(start, middle), self.all_of([*same, compared(middle, end)])])

        return compared(0, len(parts))

    def _at_most(self, name: str, value: int) -> Condition:
        """An int field is at most this; the few ints beyond the last bound that is read exactly are named one by one."""
        key, bound = value_key(name), value if abs(value) <= READABLE else value // _STEP * _STEP
        beyond = [self._any(key, range(bound + 1, value + 1))] if bound < value else []
        return self.any_of([self._range(key, lte=bound), *beyond])

    def _at_least(self, name: str, value: int) -> Condition:
        key, bound = value_key(name), value if abs(value) <= READABLE else -(-value // _STEP) * _STEP
        beyond = [self._any(key, range(value, bound))] if value < bound else []
        return self.any_of([self._range(key, gte=bound), *beyond])

    def _any(self, key: str, values: Iterable[Any]) -> Condition:
        return self._models.FieldCondition(key=key, match=self._models.MatchAny(any=list(values)))

    def _same_part(self, name: str, position: int, part: int) -> Condition:
        # By range, because the index of the first part knows ranges only.
        return self._range(part_key(name, position), gte=part, lte=part)

    def _below(self, key: str, to: int) -> Condition:
        return self._range(key, lt=to)

    def _above(self, key: str, to: int) -> Condition:
        return self._range(key, gt=to)

    def _range(self, key: str, **bounds: int) -> models.FieldCondition:
        return self._models.FieldCondition(key=key, range=self._models.Range(**bounds))
