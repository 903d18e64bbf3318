"""The store suite on a Chroma server, and on a directory that this process runs itself; then Chroma's own limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chroma_engine import open_chroma, require_chroma

from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import Comparison, Not, Operator, Or
from shelflist.core.types import Point
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing import StoreSuite
from shelflist.testing.points import DIMENSIONS, distances, make_point, make_points, point_id, random_vectors
from shelflist.testing.store_base import QUERY, NewGeneration, Reopen, StoreBase


class TestChromaServer(StoreSuite):
    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = open_chroma(url)
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, url: str) -> Reopen | None:
        return lambda: open_chroma(url)


class TestChromaInADirectory(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        require_chroma()
        store = open_chroma(f"chroma:{tmp_path / 'index'}")
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen | None:
        return lambda: open_chroma(f"chroma:{tmp_path / 'index'}")


class TestChromaOwnLimits(StoreBase):
    """What one request to Chroma cannot hold, or gets wrong, and the suite has no case for."""

    fields = Fields({"year": int, "title": str, "price": float, "tags": "list[str]"})

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = open_chroma(url)
        yield store
        store.close()

    def rows(self, store: Store, spec: GenerationSpec, count: int) -> list[Point]:
        points = [
            make_point(
                f"p{i}", row, metadata={"year": i, "title": f"t{i % 50}", "tags": [f"g{i % 3}"]}, fields=spec.fields
            )
            for i, row in enumerate(random_vectors(count, seed=1))
        ]
        self.write(store, spec, points)
        return points

    def test_more_variables_than_sqlite_binds(self, store: Store, generation: NewGeneration) -> None:
        spec = generation(fields=self.fields)
        self.rows(store, spec, 300)
        years = Comparison("year", Operator.IN, tuple(range(100, 10_100)))
        titles = Comparison("title", Operator.NOT_IN, ("t1", *(f"nothing {i}" for i in range(9_999))))
        either = Comparison("year", Operator.IN, tuple(range(-20_000, 5)))
        found = [i for i in range(300) if i >= 100 and i % 50 != 1]
        self.answers(store, spec, [f"p{i}" for i in found], self.scope(spec, years & titles))
        self.answers(
            store, spec, [f"p{i}" for i in range(300) if i < 5 or i in found], self.scope(spec, either | years & titles)
        )
        neither = Not(either | (years & titles))
        self.answers(store, spec, [f"p{i}" for i in range(5, 300) if i not in found], self.scope(spec, neither))

    def test_more_conditions_than_sqlite_nests(self, store: Store, generation: NewGeneration) -> None:
        spec = generation(fields=self.fields)
        self.rows(store, spec, 60)
        pairs = Or(
            tuple(Comparison("year", Operator.EQ, i) & Comparison("title", Operator.NE, "t7") for i in range(1_500))
        )
        self.answers(store, spec, [f"p{i}" for i in range(60) if i % 50 != 7], self.scope(spec, pairs))
        self.answers(store, spec, ["p7", "p57"], self.scope(spec, Not(pairs)))

    def test_ids_and_a_filter_together(self, store: Store, generation: NewGeneration) -> None:
        """In one request Chroma takes minutes for it."""
        spec = generation(fields=self.fields)
        self.rows(store, spec, 3_000)
        ids = [point_id(f"p{i}") for i in range(2_800)]
        scope = replace(self.scope(spec, Comparison("tags", Operator.CONTAINS, "g1")), point_ids=ids)
        self.answers(store, spec, [f"p{i}" for i in range(2_800) if i % 3 == 1], scope)
        store.set_stale(spec, ids[:2_790])
        self.answers(store, spec, [f"p{i}" for i in range(2_790, 2_800)], Scope(point_ids=ids))
        self.answers(store, spec, [f"p{i}" for i in range(2_790, 3_000)])

    def test_every_bit_of_a_float_counts(self, store: Store, generation: NewGeneration) -> None:
        """Chroma's server reads one JSON float in four one bit off."""
        spec = generation(fields=self.fields)
        prices = np.frombuffer(np.random.default_rng(7).bytes(8 * 120), dtype=np.float64)
        prices = np.sort(prices[np.isfinite(prices)])
        self.write(
            store,
            spec,
            [
                make_point(f"p{i}", row, metadata={"price": float(price)}, fields=spec.fields)
                for i, (row, price) in enumerate(zip(random_vectors(len(prices), seed=1), prices, strict=True))
            ],
        )
        for i, price in enumerate(map(float, prices)):
            assert store.count(spec, self.scope(spec, Comparison("price", Operator.EQ, price))) == 1
            assert store.count(spec, self.scope(spec, Comparison("price", Operator.LT, price))) == i

    def test_lists_of_a_dropped_generation_do_not_come_back(self, store: Store, generation: NewGeneration) -> None:
        """Chroma's arrays do, in the records of the next collection: chroma-core/chroma issue 7594."""
        first = generation(fields=self.fields)
        self.rows(store, first, 5)
        store.drop(first.name)
        second = generation(fields=self.fields)
        self.write(store, second, make_points("q", 5, seed=1))
        for tag in ("g0", "g1", "g2"):
            self.answers(store, second, [], self.scope(second, Comparison("tags", Operator.CONTAINS, tag)))

    def test_a_filter_that_first_lets_little_through_and_then_much(
        self, store: Store, generation: NewGeneration
    ) -> None:
        """What was learned of a filter is a guide, not an answer."""
        spec = generation(fields=self.fields, dimensions=DIMENSIONS)
        scope = self.scope(spec, Comparison("title", Operator.EQ, "x"))
        vectors = random_vectors(14_000, seed=3)
        for start, end in ((0, 20), (20, 14_000)):
            points = [
                make_point(f"p{i}", vectors[i], metadata={"title": "x" if i % 2 else "y"}, fields=spec.fields)
                for i in range(start, end)
            ]
            self.write(store, spec, points)
            true = np.sort(distances(spec.metric, QUERY, vectors[1:end:2]))
            for limit in (1, 5, 10, 200):
                found = self.dense(store, spec, limit, scope)
                wanted = true[:limit]
                assert len(found.items) == len(wanted)
                assert sum(item.value <= wanted[-1] + 1e-4 for item in found.items) >= 0.9 * len(wanted)
                assert found.exhausted == (limit > end // 2)
