"""The base of every store's filter compiler: one method an operator, and what has no method is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from shelflist.core.errors import UnsupportedFilter
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or

if TYPE_CHECKING:  # capabilities imports the nodes of this package
    from shelflist.core.capabilities import Capabilities

T = TypeVar("T")
_METHODS = {
    Operator.EQ: "equal",
    Operator.NE: "not_equal",
    Operator.LT: "less",
    Operator.LE: "less_or_equal",
    Operator.GT: "greater",
    Operator.GE: "greater_or_equal",
    Operator.IN: "is_in",
    Operator.NOT_IN: "not_in",
    Operator.BETWEEN: "between",
    Operator.CONTAINS: "contains",
    Operator.STARTS_WITH: "starts_with",
    Operator.EXISTS: "exists",
}


class FilterCompiler(Generic[T]):
    """Turns a checked and normalised filter into a store's own condition.

    A subclass writes one method for each operator that its store claims, and the five that join. Each operator's
    method gets the field's name, its type, and the value in stored form (a tuple for `in` and `between`, None for
    `exists`). On a list field `==`, `!=`, `in` and `not in` ask for members.
    Raises UnsupportedFilter for an operator that the capabilities do not claim or that has no method.
    """

    def __init__(self, fields: Fields, capabilities: Capabilities | None = None) -> None:
        self.fields = fields
        self.capabilities = capabilities

    def compile(self, filter: Filter) -> T:
        match filter:
            case Comparison():
                return self._comparison(filter)
            case Not():
                return self.none_of(self.compile(filter.part))
            case And():
                return self.all_of([self.compile(part) for part in filter.parts]) if filter.parts else self.everything()
            case Or():
                return self.any_of([self.compile(part) for part in filter.parts]) if filter.parts else self.nothing()
        raise UnsupportedFilter(f"A filter of type {type(filter).__name__} is unknown to {type(self).__name__}.")

    def _comparison(self, node: Comparison) -> T:
        kind = self.fields.require(node.field)
        if self.capabilities is not None:
            self.capabilities.require_operator(node.operator, kind)
        condition: T = getattr(self, _METHODS[node.operator])(node.field, kind, node.value)
        return condition

    def everything(self) -> T:
        raise NotImplementedError

    def nothing(self) -> T:
        raise NotImplementedError

    def all_of(self, parts: Sequence[T]) -> T:
        raise NotImplementedError

    def any_of(self, parts: Sequence[T]) -> T:
        raise NotImplementedError

    def none_of(self, part: T) -> T:
        """Exactly the rows that `part` does not match, those without the field included."""
        raise NotImplementedError

    def equal(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.EQ)

    def not_equal(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.NE)

    def less(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.LT)

    def less_or_equal(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.LE)

    def greater(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.GT)

    def greater_or_equal(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.GE)

    def is_in(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.IN)

    def not_in(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.NOT_IN)

    def between(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.BETWEEN)

    def contains(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.CONTAINS)

    def starts_with(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.STARTS_WITH)

    def exists(self, name: str, kind: FieldType, value: Any) -> T:
        self._refuse(Operator.EXISTS)

    def _refuse(self, operator: Operator) -> NoReturn:
        store = self.capabilities.store if self.capabilities is not None else type(self).__name__
        raise UnsupportedFilter(f"The {store} store has no filter operator {operator.value!r}.")
