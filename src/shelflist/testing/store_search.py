"""The dense leg: order, distances and counts against the NumPy oracle; what is not claimed must be refused."""

from __future__ import annotations

from functools import partial
from typing import Any, cast, get_args

import numpy as np
import pytest

from shelflist.core.errors import UnsupportedIndex, UnsupportedOperation
from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import Comparison, Operator
from shelflist.core.types import (
    Candidates,
    Flat,
    Hnsw,
    IndexSpec,
    Ivf,
    Metric,
    Point,
    Quantization,
    SearchParams,
    Vector,
)
from shelflist.stores.protocol import GenerationSpec, Store
from shelflist.testing.points import distances, make_point, point_id, random_vectors, same_vector
from shelflist.testing.store_base import QUERY, NewGeneration, StoreBase, any_metric, ids

METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")
INDEXES: tuple[IndexSpec, ...] = (Flat(), Ivf(nlist=4, nprobe=4), Hnsw(m=8, ef_construction=64, ef_search=64))
TOLERANCE = 1e-4
ROWS = 240


def rows_with_ties() -> Vector:
    """Random rows, of which some are equal and some differ in length only."""
    vectors = random_vectors(ROWS, seed=11)
    vectors[50:60] = vectors[40:50]
    vectors[60:70] = vectors[40:50] * np.float32(0.5)
    return vectors


class SearchTests(StoreBase):
    def exact(self, store: Store) -> SearchParams:
        return SearchParams(exact=store.capabilities.exact)

    def written(self, store: Store, spec: GenerationSpec, vectors: Vector) -> list[Point]:
        points = [
            make_point(f"r{i}", row, metadata={"half": i % 2, "row": i}, fields=spec.fields)
            for i, row in enumerate(vectors)
        ]
        self.write(store, spec, points)
        return points

    def agrees_with_oracle(self, found: Candidates, metric: Metric, query: Vector, points: list[Point], k: int) -> None:
        """The k nearest by distance: which of several at one distance come is the store's choice."""
        true = distances(metric, query, np.stack([p.vector for p in points]))
        by_id = dict(zip((p.point_id for p in points), true, strict=True))
        scale = max(1.0, float(np.abs(true).max()))
        values = [item.value for item in found.items]
        np.testing.assert_allclose(values, np.sort(true)[:k], atol=TOLERANCE * scale, err_msg="not the nearest")
        own = [by_id[one] for one in ids(found)]
        np.testing.assert_allclose(values, own, atol=TOLERANCE * scale, err_msg="not the distance of that point")

    @pytest.mark.parametrize("metric", METRICS)
    def test_metric(self, store: Store, generation: NewGeneration, metric: Metric) -> None:
        """Claimed: the order and the distances of the oracle. Not claimed: refused by create."""
        if metric not in store.capabilities.metrics:
            with pytest.raises(UnsupportedIndex):
                store.create(self.new_spec(store, metric=metric))
            return
        spec = generation(metric=metric)
        points = self.written(store, spec, rows_with_ties())
        for query in (QUERY, QUERY * np.float32(3), points[45].vector * np.float32(2), -QUERY):
            for k in (1, 10, ROWS):
                found = self.dense(store, spec, k, vector=query, params=self.exact(store))
                self.agrees_with_oracle(found, metric, query, points, k)
                assert found.exact or not store.capabilities.exact

    def test_the_metrics_of_the_oracle_order_differently(self) -> None:
        """Else a store that confuses two metrics would pass."""
        vectors = rows_with_ties()
        orders = {m: tuple(np.argsort(distances(m, QUERY, vectors), kind="stable")[:10]) for m in METRICS}
        assert len(set(orders.values())) == len(METRICS)

    def test_the_same_vector_is_at_distance_zero(self, store: Store, generation: NewGeneration) -> None:
        for metric in sorted(store.capabilities.metrics & {"cosine", "l2"}):
            spec = generation(metric=metric)
            points = self.written(store, spec, random_vectors(30, seed=3))
            found = self.dense(store, spec, 1, vector=points[7].vector, params=self.exact(store))
            assert ids(found) == [points[7].point_id]
            assert found.items[0].value == pytest.approx(0.0, abs=5e-3)

    def test_an_unknown_metric_is_refused(self, store: Store) -> None:
        with pytest.raises(UnsupportedIndex):
            store.create(self.new_spec(store, metric=cast(Metric, "manhattan")))

    @pytest.mark.parametrize("index", INDEXES, ids=lambda index: str(index.kind))
    def test_index_kind(self, store: Store, generation: NewGeneration, index: IndexSpec) -> None:
        """Claimed: the full count and nearly all of the true neighbours. Not claimed: refused by create."""
        if index.kind not in store.capabilities.index_kinds:
            with pytest.raises(UnsupportedIndex):
                store.create(self.new_spec(store, index=index))
            return
        spec = generation(index=index)
        points = self.written(store, spec, rows_with_ties())
        hit = asked = 0
        for query in random_vectors(8, seed=21):
            true = np.sort(distances(spec.metric, query, np.stack([p.vector for p in points])))
            found = self.dense(store, spec, 10, vector=query)
            assert len(found.items) == 10
            hit += sum(item.value <= true[9] + TOLERANCE for item in found.items)
            asked += 10
            exhaustive = self.dense(store, spec, ROWS + 1, vector=query)
            assert set(ids(exhaustive)) == {p.point_id for p in points} and exhaustive.exhausted
        assert hit / asked >= (1.0 if index.kind == "flat" else 0.9), f"recall@10 {hit / asked:.3f}"

    def test_known_index_kinds_and_metrics_only(self, store: Store) -> None:
        claims = store.capabilities
        assert claims.index_kinds and claims.index_kinds <= {index.kind for index in INDEXES}
        assert claims.metrics and claims.metrics <= set(METRICS)
        assert claims.max_batch >= 1

    @pytest.mark.parametrize("quantization", get_args(Quantization))
    def test_quantization(self, store: Store, generation: NewGeneration, quantization: Quantization) -> None:
        """Claimed, of an index kind: rescored by whole vectors, so most true neighbours come. Not claimed: refused by create."""
        claims = store.capabilities
        for index in (Hnsw(quantization=quantization), Ivf(quantization=quantization), Flat(quantization=quantization)):
            if (
                index.kind not in claims.index_kinds
                or quantization not in claims.quantization
                or (quantization, index.kind) in claims.unquantized
            ):
                with pytest.raises(UnsupportedIndex):
                    store.create(self.new_spec(store, index=index, dimensions=128))
                continue
            spec = generation(index=index, dimensions=128)
            vectors = random_vectors(ROWS, seed=3, dimensions=128)
            self.written(store, spec, vectors)
            hit = 0
            for query in random_vectors(8, seed=21, dimensions=128):
                true = np.sort(distances(spec.metric, query, vectors))
                found = self.dense(store, spec, 10, vector=query)
                assert len(found.items) == 10
                hit += sum(item.value <= true[9] + 5e-3 for item in found.items)
            assert hit / 80 >= 0.8, f"recall@10 {hit / 80:.3f} by {index.kind}"

    def test_hybrid_where_claimed(self, store: Store, generation: NewGeneration) -> None:
        """The store's own fusion sees both legs and keeps to the scope; not claimed: refused."""
        spec = generation(fields=Fields({"half": int, "row": int}))
        vectors = rows_with_ties()
        points = [
            make_point(
                f"r{i}", row, content="lantern" if i == 5 else "wall", metadata={"half": i % 2}, fields=spec.fields
            )
            for i, row in enumerate(vectors)
        ]
        self.write(store, spec, points)
        odd = self.scope(spec, Comparison("half", Operator.EQ, 1))
        ask = partial(store.hybrid_search, spec, "lantern", vectors[8], limit=5, params=SearchParams())
        if not store.capabilities.hybrid:
            with pytest.raises(UnsupportedOperation):
                ask(scope=odd)
            return
        assert {point_id("r5"), point_id("r8")} <= set(ids(ask(scope=self.scope(spec))))
        found = ids(ask(scope=odd))
        assert point_id("r5") in found and len(found) == 5
        assert set(found) <= {point_id(f"r{i}") for i in range(1, ROWS, 2)}

    def test_exact_where_claimed(self, store: Store, generation: NewGeneration) -> None:
        spec = generation(fields=Fields({"half": int, "row": int}))
        points = self.written(store, spec, rows_with_ties())
        if not store.capabilities.exact:
            with pytest.raises(UnsupportedOperation):
                store.search(spec, QUERY, limit=5, scope=self.scope(spec), params=SearchParams(exact=True))
            return
        scope = self.scope(spec, Comparison("half", Operator.EQ, 1))
        found = self.dense(store, spec, 20, scope, params=SearchParams(exact=True))
        assert found.exact
        self.agrees_with_oracle(found, spec.metric, QUERY, points[1::2], 20)

    def test_dimension_limit(self, store: Store, generation: NewGeneration) -> None:
        most = store.capabilities.max_dimensions
        for wrong in (0, -1, most + 1):
            with pytest.raises(UnsupportedIndex):
                store.create(self.new_spec(store, dimensions=wrong))
        for right in (1, most):
            spec = generation(dimensions=right)
            vectors = np.abs(random_vectors(2, seed=5, dimensions=right)) + np.float32(0.1)
            self.write(store, spec, [make_point(f"w{i}", row) for i, row in enumerate(vectors)])
            assert len(self.dense(store, spec, 5, vector=vectors[0]).items) == 2
            assert same_vector(store.vectors(spec, [point_id("w1")])[point_id("w1")], vectors[1], store, spec)

    @pytest.mark.parametrize("limit", [1, 9, 10, 11, 1000])
    def test_exactly_the_lesser_of_limit_and_matches(self, store: Store, generation: NewGeneration, limit: int) -> None:
        """Ten rows match, among 240; `exhausted` may not lie, either way."""
        spec = generation(fields=Fields({"half": int, "row": int}))
        self.written(store, spec, rows_with_ties())
        scope = self.scope(spec, Comparison("row", Operator.GE, ROWS - 10))
        found = self.dense(store, spec, limit, scope)
        assert len(found.items) == min(limit, 10)
        assert set(ids(found)) <= {point_id(f"r{i}") for i in range(ROWS - 10, ROWS)}
        if limit < 10:
            assert not found.exhausted, "more matches exist"
        if limit > 10:
            assert found.exhausted, "nothing more exists"

    @pytest.mark.parametrize("limit", [1, ROWS - 1, ROWS + 1])
    def test_exhausted_without_filter(self, store: Store, generation: NewGeneration, limit: int) -> None:
        spec = generation()
        self.written(store, spec, rows_with_ties())
        found = self.dense(store, spec, limit)
        assert len(found.items) == min(limit, ROWS)
        assert found.exhausted == (limit > ROWS)

    @pytest.mark.parametrize("index", INDEXES, ids=lambda index: str(index.kind))
    def test_matches_far_from_the_query_are_found(
        self, store: Store, generation: NewGeneration, index: IndexSpec
    ) -> None:
        """A filter that is correlated against the query: 600 rows lie nearer than each of the five that match."""
        if index.kind not in store.capabilities.index_kinds:
            with pytest.raises(UnsupportedIndex):
                store.create(self.new_spec(store, index=index))
            return
        spec = generation(index=index, fields=Fields({"side": str}))
        noise = random_vectors(605, seed=31) * np.float32(0.05)
        near = [make_point(f"near{i}", QUERY + row, metadata={"side": "near"}) for i, row in enumerate(noise[:600])]
        far = [make_point(f"far{i}", row - QUERY, metadata={"side": "far"}) for i, row in enumerate(noise[600:])]
        self.write(store, spec, near + far)
        scope = self.scope(spec, Comparison("side", Operator.EQ, "far"))
        for limit, expected in ((3, 3), (5, 5), (10, 5)):
            found = self.dense(store, spec, limit, scope)
            assert len(found.items) == expected
            assert set(ids(found)) <= {point.point_id for point in far}
        store.set_stale(spec, [point.point_id for point in near])
        store.flush(spec)
        assert set(ids(self.dense(store, spec, 10))) == {point.point_id for point in far}

    @pytest.mark.parametrize("params", [SearchParams(ef_search=200), SearchParams(nprobe=64)], ids=["ef", "nprobe"])
    def test_search_params_never_cost_hits(self, store: Store, generation: NewGeneration, params: SearchParams) -> None:
        spec = generation()
        self.written(store, spec, rows_with_ties())
        assert len(self.dense(store, spec, 50, params=params).items) == 50

    def test_a_repeated_search_follows_the_writes(self, store: Store, generation: NewGeneration) -> None:
        """The same question between writes: a cache of rows or of a filter's matches may not serve old answers."""
        spec = generation(fields=Fields({"half": int}))
        vectors = random_vectors(12, seed=41)
        odd = self.scope(spec, Comparison("half", Operator.EQ, 1))
        present: set[int] = set()

        def check() -> None:
            self.answers(store, spec, [f"r{i}" for i in present])
            self.answers(store, spec, [f"r{i}" for i in present if i % 2], odd)
            for i in present:
                assert (
                    ids(self.dense(store, spec, 1, vector=vectors[i])) == [point_id(f"r{i}")]
                    or any_metric(store) == "dot"
                )

        for i, row in enumerate(vectors):
            self.write(store, spec, [make_point(f"r{i}", row, metadata={"half": i % 2}, fields=spec.fields)])
            present.add(i)
            if i % 3 == 2:
                store.delete(spec, [point_id(f"r{i - 1}")])
                present.discard(i - 1)
            if i % 4 == 3:
                store.set_stale(spec, [point_id(f"r{i - 3}")])
                present.discard(i - 3)
            store.flush(spec)
            check()
        assert 3 <= len(present) < 12

    def test_search_does_not_change_the_query(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.written(store, spec, random_vectors(20, seed=1))
        query: Any = QUERY.copy()
        self.dense(store, spec, 5, vector=query)
        assert query.tobytes() == QUERY.tobytes()
