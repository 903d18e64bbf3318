"""The smallest honest store: it claims little, refuses the rest, sees writes after a flush, and passes the suite."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from shelflist.core.errors import UnsupportedOperation
from shelflist.core.fields import FieldType
from shelflist.core.filters.nodes import Operator
from shelflist.core.types import Candidates, Point, UpsertResult, Vector
from shelflist.stores.memory import MemoryStore
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing import StoreSuite
from shelflist.testing.filter_cases import comparisons_of


class ModestStore(MemoryStore):
    capabilities = replace(
        MemoryStore.capabilities,
        store="modest",
        metrics=frozenset({"l2"}),
        filter_operators=frozenset({Operator.EQ, Operator.NE, Operator.IN, Operator.GE, Operator.LT}),
        unsupported_on=frozenset({(Operator.GE, FieldType.STR), (Operator.LT, FieldType.STR)}),
        exact=False,
        keyword=None,
        max_dimensions=64,
        max_batch=60,
        visibility="after_flush",
        concurrent_writers=False,
    )

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[GenerationSpec, Sequence[Point]]] = []

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        assert len(points) <= self.capabilities.max_batch
        if not points:
            return UpsertResult([])
        known = MemoryStore()
        known.create(spec)
        known.upsert(spec, points)
        self._waiting.append((spec, known.get(spec, [point.point_id for point in points])))
        return UpsertResult([point.point_id for point in points])

    def flush(self, spec: GenerationSpec) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            for one, points in waiting:
                super().upsert(one, points)

    def search(self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: Any) -> Candidates:
        if params.exact:
            raise UnsupportedOperation("The modest store has no exact search.")
        return replace(super().search(spec, vector, limit=limit, scope=scope, params=params), exact=False)

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        self.capabilities.require_keyword()
        raise AssertionError("keyword=None must refuse")

    def _matching(self, spec: GenerationSpec, scope: Scope) -> list[Point]:
        if scope.filter is not None:
            for one in comparisons_of(scope.filter):
                self.capabilities.require_operator(one.operator, spec.fields.require(one.field))
        return super()._matching(spec, scope)


class TestModest(StoreSuite):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = ModestStore()
        yield store
        store.close()
