"""What a store can do, as data. The docs matrix, `require` and the conformance suite read the same object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shelflist.core.errors import UnsupportedFilter, UnsupportedIndex, UnsupportedOperation
from shelflist.core.fields import FieldType
from shelflist.core.filters.nodes import Operator
from shelflist.core.types import IndexSpec, Metric


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities of one store. What is not claimed raises `Unsupported…`.

    `filtering`: when a filter is heeded; "by filter": each in the way that suits it, so also after the graph was searched.
    `keyword`: how its keyword leg scores, by BM25 or by frequency alone; None: it has no such leg. `holds`: whether a
    point comes back with its text and all its metadata, or with the declared fields only. `vectors`: whether they come back as written or, under cosine, with length 1. `quantization`: what `quantization=` of
    an index may say, `unquantized`: which of these it may not say of which index kind. `hybrid`: whether `fusion="native"` works. `versions`: the servers it is made for, oldest to newest.
    `unsupported_on`: operators of `filter_operators` that it lacks on fields of one type. `joins_live`: whether its vector
    search takes the ledger's check into its own statement, where both share a database. `upkeep`: whether `Store.repair`
    mends what a comparison of ids does not show (an invalid index, a place that was set read-only, a point that is there
    twice), so that every repair calls it. `builds_aside`: whether `Store.build` only begins it, so that a pass that changes
    nothing calls it too: an earlier one may have been interrupted.
    """

    store: str
    index_kinds: frozenset[str]
    metrics: frozenset[str]
    filter_operators: frozenset[Operator]
    filtering: Literal["pre", "in-traversal", "post", "by filter"]
    exact: bool
    keyword: Literal["bm25", "frequency"] | None
    max_dimensions: int
    max_batch: int
    visibility: Literal["immediate", "after_flush", "eventual"]
    tenancy: Literal["filter", "partition", "native"]
    concurrent_writers: bool
    durable: bool
    hybrid: bool = False
    quantization: frozenset[str] = frozenset()
    unquantized: frozenset[tuple[str, str]] = frozenset()
    holds: Literal["everything", "declared"] = "everything"
    vectors: Literal["exact", "normalised"] = "exact"
    versions: str = ""
    unsupported_on: frozenset[tuple[Operator, FieldType]] = frozenset()
    joins_live: bool = False
    upkeep: bool = False
    builds_aside: bool = False

    def require_index(self, index: IndexSpec | None, metric: Metric, dimensions: int) -> None:
        """Raise UnsupportedIndex unless the store can build this index."""
        if index is not None and index.kind not in self.index_kinds:
            raise UnsupportedIndex(
                f"The {self.store} store has no {index.kind} index (it has: {', '.join(sorted(self.index_kinds))}). "
                "Leave index= out to get the best that it has."
            )
        if index is not None and index.quantization is not None and index.quantization not in self.quantization:
            known = ", ".join(sorted(self.quantization)) or "none"
            raise UnsupportedIndex(
                f"The {self.store} store has no {index.quantization} quantization (it has: {known}). Leave it out."
            )
        if index is not None and (index.quantization, index.kind) in self.unquantized:
            raise UnsupportedIndex(
                f"The {self.store} store has no {index.quantization} quantization of a {index.kind} index. Leave it out, or take "
                "another kind."
            )
        if metric not in self.metrics:
            raise UnsupportedIndex(
                f"The {self.store} store has no {metric} metric (it has: {', '.join(sorted(self.metrics))})."
            )
        if not 1 <= dimensions <= self.max_dimensions:
            raise UnsupportedIndex(
                f"The {self.store} store takes 1 to {self.max_dimensions} dimensions, not {dimensions}."
            )

    def has_operator(self, operator: Operator, kind: FieldType) -> bool:
        """Whether the operator is claimed for fields of this type."""
        return operator in self.filter_operators and (operator, kind) not in self.unsupported_on

    def require_operator(self, operator: Operator, kind: FieldType) -> None:
        """Raise UnsupportedFilter unless the operator is claimed for fields of this type."""
        if operator not in self.filter_operators:
            raise UnsupportedFilter(f"The {self.store} store has no filter operator {operator.value!r}.")
        if (operator, kind) in self.unsupported_on:
            raise UnsupportedFilter(
                f"The {self.store} store has no filter operator {operator.value!r} on {kind.value} fields."
            )

    def require_keyword(self) -> None:
        if self.keyword is None:
            raise UnsupportedOperation(f"The {self.store} store has no keyword search.")

    def require_hybrid(self) -> None:
        if not self.hybrid:
            raise UnsupportedOperation(
                f"The {self.store} store has no hybrid search of its own. Leave fusion= out, or use 'convex' or 'rrf'."
            )
