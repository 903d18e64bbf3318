"""Building filters in Python: `(F("page_number") < 10) & F("tags").contains("api")`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shelflist.core.errors import InvalidFilter
from shelflist.core.fields import shown_value
from shelflist.core.filters.nodes import Comparison, Operator


class F:
    """A declared field, by name. Comparing it makes a filter, which is checked when it meets a collection."""

    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]  # `==` makes a filter, so a field cannot be a dict key

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise InvalidFilter(f"F takes the name of a field, got {type(name).__name__} {shown_value(name)}.")
        self.name = name

    def __repr__(self) -> str:
        return f"F({self.name!r})"

    def __eq__(self, value: object) -> Comparison:  # type: ignore[override]
        return Comparison(self.name, Operator.EQ, value)

    def __ne__(self, value: object) -> Comparison:  # type: ignore[override]
        return Comparison(self.name, Operator.NE, value)

    def __lt__(self, value: Any) -> Comparison:
        return Comparison(self.name, Operator.LT, value)

    def __le__(self, value: Any) -> Comparison:
        return Comparison(self.name, Operator.LE, value)

    def __gt__(self, value: Any) -> Comparison:
        return Comparison(self.name, Operator.GT, value)

    def __ge__(self, value: Any) -> Comparison:
        return Comparison(self.name, Operator.GE, value)

    def __contains__(self, value: object) -> bool:
        raise TypeError(f"Python's `in` cannot make a filter. Use {self!r}.contains({shown_value(value)}).")

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} is a field, not yet a condition. Compare it, for example {self!r} == value.")

    def is_in(self, values: Iterable[Any]) -> Comparison:
        """One of the values equals the field; on a list field: is a member of it. No values match nothing."""
        return Comparison(self.name, Operator.IN, self._several("is_in", values))

    def not_in(self, values: Iterable[Any]) -> Comparison:
        """Exactly the opposite of `is_in`: a missing field matches."""
        return Comparison(self.name, Operator.NOT_IN, self._several("not_in", values))

    def between(self, low: Any, high: Any) -> Comparison:
        """`low <= field <= high`: both ends belong to it."""
        return Comparison(self.name, Operator.BETWEEN, (low, high))

    def contains(self, value: str) -> Comparison:
        """The list field has this member."""
        return Comparison(self.name, Operator.CONTAINS, value)

    def starts_with(self, prefix: str) -> Comparison:
        """The text begins with the prefix, case and all."""
        return Comparison(self.name, Operator.STARTS_WITH, prefix)

    def exists(self) -> Comparison:
        """The field is there and not null. An empty list exists."""
        return Comparison(self.name, Operator.EXISTS)

    def _several(self, method: str, values: Iterable[Any]) -> tuple[Any, ...]:
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise InvalidFilter(
                f"{self!r}.{method} takes several values, got {type(values).__name__} {shown_value(values)}. "
                f"Put them in a list: {method}([{shown_value(values)}])."
            )
        return tuple(values)
