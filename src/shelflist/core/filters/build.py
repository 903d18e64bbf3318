"""`F("page_number") < 10`: the Python form of a filter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shelflist.core.filters.nodes import Comparison, Operator


class F:
    """A field, to be compared: `F("page_number") < 10`, `F("tags").contains("api")`, `F("source").is_in([...])`."""

    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"F({self.name!r})"

    def __bool__(self) -> bool:
        raise TypeError(f"F({self.name!r}) has no truth value. Use F({self.name!r}).exists() or a comparison.")

    def __eq__(self, value: Any) -> Comparison:  # type: ignore[override]
        return Comparison(self.name, Operator.EQ, value)

    def __ne__(self, value: Any) -> Comparison:  # type: ignore[override]
        return Comparison(self.name, Operator.NE, value)

    def __lt__(self, value: Any) -> Comparison:
        return Comparison(self.name, Operator.LT, value)

    def __le__(self, value: Any) -> Comparison:
        return Comparison(self.name, Operator.LE, value)

    def __gt__(self, value: Any) -> Comparison:
        return Comparison(self.name, Operator.GT, value)

    def __ge__(self, value: Any) -> Comparison:
        return Comparison(self.name, Operator.GE, value)

    def is_in(self, values: Iterable[Any]) -> Comparison:
        return Comparison(self.name, Operator.IN, tuple(values))

    def not_in(self, values: Iterable[Any]) -> Comparison:
        return Comparison(self.name, Operator.NOT_IN, tuple(values))

    def between(self, low: Any, high: Any) -> Comparison:
        """Both ends included."""
        return Comparison(self.name, Operator.BETWEEN, (low, high))

    def contains(self, member: str) -> Comparison:
        """The list has this member."""
        return Comparison(self.name, Operator.CONTAINS, member)

    def starts_with(self, prefix: str) -> Comparison:
        """Case-sensitive."""
        return Comparison(self.name, Operator.STARTS_WITH, prefix)

    def exists(self) -> Comparison:
        """The field is there and not null."""
        return Comparison(self.name, Operator.EXISTS)
