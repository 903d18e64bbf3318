"""What every store's filter compiler is: a visitor over normalised filters that refuses operators the store lacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or

Compiled = TypeVar("Compiled")


class FilterCompiler(ABC, Generic[Compiled]):
    """Turns a checked, normalised filter into a store's own form. `require` raises for what the store does not claim."""

    def __init__(self, require: Callable[[Operator], None]) -> None:
        self._require = require

    def compile(self, filter: Filter) -> Compiled:
        match filter:
            case And(parts):
                return self.all_of([self.compile(part) for part in parts])
            case Or(parts):
                return self.any_of([self.compile(part) for part in parts])
            case Not(Comparison() as part):
                self._require(part.operator)
                return self.negated(part)
            case Not(part):
                raise AssertionError(f"not normalised: {part}")
            case Comparison() as comparison:
                self._require(comparison.operator)
                return self.comparison(comparison)
        raise AssertionError(filter)

    @abstractmethod
    def all_of(self, parts: Sequence[Compiled]) -> Compiled:
        """Every part; none: everything."""

    @abstractmethod
    def any_of(self, parts: Sequence[Compiled]) -> Compiled:
        """At least one part; none: nothing."""

    @abstractmethod
    def comparison(self, comparison: Comparison) -> Compiled:
        """False, never null, where the field is missing (true for `!=` and `not in`)."""

    @abstractmethod
    def negated(self, comparison: Comparison) -> Compiled:
        """Exactly the rows that `comparison` does not match."""
