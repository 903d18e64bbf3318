"""Generations and their rows: what is written is what is there."""

from __future__ import annotations

import uuid
from dataclasses import replace

import numpy as np
import pytest

from shelflist.core.errors import DimensionMismatch, InvalidVector, StoreMismatch
from shelflist.core.fields import Fields
from shelflist.core.types import Metric, Point, SearchParams
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing.points import (
    DIMENSIONS,
    exact_form,
    make_point,
    make_points,
    point_id,
    random_vectors,
    same_vector,
)
from shelflist.testing.store_base import QUERY, NewGeneration, StoreBase

METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")
UNKNOWN = point_id("nobody has this id")

METADATA = {
    "integer": 1,
    "float": 1.0,
    "bool": True,
    "text of a number": "1",
    "null": None,
    "empty": "",
    "large": 2**53,
    "small": -(2**53),
    "tenth": 0.1,
    "list": ["a", "", "é", "😀"],
    "empty list": [],
    "mixed list": [1, "1", None, True, 1.5],
    "nested": {"a": {"b": [{"c": None}]}, "": {}},
    "key with 'quotes' and \"more\"": 'it\'s "so" \\ % _ ; --',
    "ключ": "日本語 e\u0301 é 👩‍👩‍👧",
    "lines": "one\ntwo\r\n\tthree",
}


class RowTests(StoreBase):
    def same(self, store: Store, spec: GenerationSpec, found: Point, written: Point) -> None:
        assert exact_form(found, store, spec) == exact_form(written, store, spec)
        assert same_vector(found.vector, written.vector, store, spec)

    def test_create_is_idempotent(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.write(store, spec, make_points("p", 3, seed=1))
        store.create(spec)
        self.answers(store, spec, ["p0", "p1", "p2"])

    def test_drop_is_idempotent_and_leaves_nothing(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.write(store, spec, make_points("p", 3, seed=1))
        store.drop(spec.name)
        store.drop(spec.name)
        store.drop("sl_never_made_1")
        store.create(spec)
        self.answers(store, spec, [])
        assert list(store.scan(spec)) == []
        assert store.get(spec, [point_id("p0")]) == []
        self.write(store, spec, make_points("q", 2, seed=2))
        self.answers(store, spec, ["q0", "q1"])

    def test_generations_are_isolated(self, store: Store, generation: NewGeneration) -> None:
        first, second = generation(), generation()
        shared = make_points("p", 4, seed=1)
        self.write(store, first, shared)
        self.write(store, second, shared[:2])
        self.answers(store, second, ["p0", "p1"])
        store.delete(first, [point_id("p0")])
        store.set_stale(first, [point_id("p1")])
        store.flush(first)
        self.answers(store, second, ["p0", "p1"])
        store.drop(first.name)
        self.answers(store, second, ["p0", "p1"])
        assert dict(store.scan(second)) == {point_id("p0"): "indexed", point_id("p1"): "indexed"}
        assert {p.point_id for p in store.get(second, [p.point_id for p in shared])} == {p.point_id for p in shared[:2]}

    def test_a_generation_of_other_dimensions_beside(self, store: Store, generation: NewGeneration) -> None:
        narrow, wide = generation(dimensions=8), generation(dimensions=32)
        for spec in (narrow, wide):
            vector = random_vectors(1, seed=3, dimensions=spec.dimensions)[0]
            self.write(store, spec, [make_point("same name", vector)])
            assert len(self.dense(store, spec, 5, vector=vector).items) == 1
            assert store.vectors(spec, [point_id("same name")])[point_id("same name")].shape == (spec.dimensions,)

    def test_upsert_acknowledges_every_id(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        points = make_points("p", 5, seed=1)
        result = store.upsert(spec, points)
        assert sorted(result.stored) == sorted(point.point_id for point in points)
        assert dict(result.failed) == {}
        nothing = store.upsert(spec, [])
        assert list(nothing.stored) == [] and dict(nothing.failed) == {}

    def test_upsert_is_idempotent(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        points = make_points("p", 5, seed=1)
        self.write(store, spec, points)
        self.write(store, spec, points[1:4])
        self.write(store, spec, [*points[:2], make_point("new", random_vectors(1, seed=9)[0])])
        self.answers(store, spec, ["p0", "p1", "p2", "p3", "p4", "new"])
        assert sorted(store.scan(spec)) == sorted(
            (point_id(n), "indexed") for n in ("p0", "p1", "p2", "p3", "p4", "new")
        )
        self.same(store, spec, store.get(spec, [point_id("p1")])[0], points[1])

    def test_delete_and_unknown_ids(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.write(store, spec, make_points("p", 5, seed=1))
        store.delete(spec, [])
        store.delete(spec, [UNKNOWN])
        store.delete(spec, [point_id("p1"), UNKNOWN, point_id("p3")])
        store.delete(spec, [point_id("p1")])
        store.flush(spec)
        self.answers(store, spec, ["p0", "p2", "p4"])
        gone = [point_id("p1"), point_id("p3")]
        assert store.get(spec, gone) == []
        assert dict(store.vectors(spec, gone)) == {}
        assert sorted(store.scan(spec)) == sorted((point_id(n), "indexed") for n in ("p0", "p2", "p4"))

    def test_get_returns_what_was_written(self, store: Store, generation: NewGeneration) -> None:
        fields = Fields({"title": str, "year": int, "tags": "list[str]", "updated": "datetime"})
        spec = generation(fields=fields)
        vectors = random_vectors(4, seed=5)
        points = [
            make_point("rich", vectors[0], metadata=METADATA, fields=fields, document_id="pfad/ä b%/🗂.md"),
            make_point(
                "declared",
                vectors[1],
                metadata={
                    "title": "",
                    "year": -1,
                    "tags": ["b", "a", "b"],
                    "updated": "2024-02-29T23:59:59.000001+02:00",
                },
                fields=fields,
            ),
            make_point("nulls", vectors[2], metadata=dict.fromkeys(fields), fields=fields),
            make_point(
                "bare", vectors[3], content="line one\r\nline two\t\u2028 e\u0301 😀 'quoted' \"too\" \\ " + "x" * 5000
            ),
        ]
        self.write(store, spec, points)
        found = {point.point_id: point for point in store.get(spec, [UNKNOWN, *(p.point_id for p in points)])}
        assert found.keys() == {point.point_id for point in points}
        for point in points:
            self.same(store, spec, found[point.point_id], point)
        assert [p.point_id for p in store.get(spec, [points[1].point_id])] == [points[1].point_id]
        assert store.get(spec, []) == []

    def test_get_returns_the_tenant(self, store: Store, generation: NewGeneration) -> None:
        spec = generation(tenanted=True)
        points = [make_point("a", random_vectors(1, seed=1)[0], tenant="acme, Inc. 'ä'")]
        self.write(store, spec, points)
        self.same(store, spec, store.get(spec, [points[0].point_id])[0], points[0])

    def test_vectors_are_the_bits_that_were_written(self, store: Store, generation: NewGeneration) -> None:
        odd = np.zeros(DIMENSIONS, dtype=np.float32)
        odd[:8] = (0.1, -0.0, 1e-30, 1e-45, 16777216.0, -1 / 3, 1.0000001, 2.5e10)
        for metric in sorted(store.capabilities.metrics):
            spec = generation(metric=metric)
            written = {point_id(f"v{i}"): row for i, row in enumerate([*random_vectors(5, seed=7), odd])}
            self.write(store, spec, [make_point(f"v{i}", row) for i, row in enumerate(written.values())])
            found = store.vectors(spec, [*written, UNKNOWN])
            assert found.keys() == written.keys()
            for one, row in written.items():
                assert found[one].dtype == np.float32 and found[one].shape == (DIMENSIONS,)
                assert same_vector(found[one], row, store, spec), f"{metric}: another vector than was written"
            assert dict(store.vectors(spec, [])) == {}

    def test_a_vector_that_the_caller_changes_later_stays(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        vector = random_vectors(1, seed=4)[0]
        before = vector.tobytes()
        store.upsert(spec, [Point(point_id("p"), point_id("c"), "d", None, "shelf", {}, vector)])
        vector[:] = 0.5
        store.flush(spec)
        after = store.vectors(spec, [point_id("p")])[point_id("p")]
        assert same_vector(after, np.frombuffer(before, np.float32), store, spec)

    def test_another_shape_is_refused(self, store: Store, generation: NewGeneration) -> None:
        """Vector spaces never mix: neither a query nor a point of other dimensions is taken, nor NaN."""
        spec = generation()
        self.write(store, spec, make_points("p", 2, seed=1))
        for wrong in (
            random_vectors(1, seed=1, dimensions=DIMENSIONS - 1)[0],
            random_vectors(1, seed=1, dimensions=64)[0],
        ):
            with pytest.raises(DimensionMismatch):
                store.search(spec, wrong, limit=3, scope=Scope(), params=SearchParams())
            with pytest.raises(DimensionMismatch):
                store.upsert(spec, [make_point("good", QUERY), make_point("bad", wrong)])
        nan = QUERY.copy()
        nan[3] = np.nan
        with pytest.raises(InvalidVector):
            store.search(spec, nan, limit=3, scope=Scope(), params=SearchParams())
        with pytest.raises(InvalidVector):
            store.upsert(spec, [make_point("nan", nan)])
        assert store.get(spec, [point_id("bad"), point_id("nan")]) == []
        good = make_point("good", QUERY)
        self.write(store, spec, [good])
        self.answers(store, spec, ["p0", "p1", "good"])

    def test_set_stale_hides_but_keeps(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        points = make_points("p", 5, seed=1)
        self.write(store, spec, points)
        store.set_stale(spec, [])
        store.set_stale(spec, [point_id("p1"), UNKNOWN, point_id("p2")])
        store.set_stale(spec, [point_id("p1")])
        store.flush(spec)
        self.answers(store, spec, ["p0", "p3", "p4"])
        expected = {p.point_id: "indexed" for p in points} | {point_id("p1"): "stale", point_id("p2"): "stale"}
        scanned = list(store.scan(spec))
        assert dict(scanned) == expected and len(scanned) == len(expected)
        stale = store.get(spec, [point_id("p1")])[0]
        self.same(store, spec, replace(stale, index_status=points[1].index_status), points[1])
        assert stale.index_status == "stale"
        store.delete(spec, [point_id("p1")])
        store.flush(spec)
        assert len(list(store.scan(spec))) == 4

    def test_scan_lists_more_points_than_one_batch(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        points = make_points("p", 1500, seed=1)
        self.write(store, spec, points)
        scanned = [one for one, _ in store.scan(spec)]
        assert sorted(scanned) == sorted(point.point_id for point in points)

    def test_many_ids_at_once(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.write(store, spec, make_points("p", 40, seed=1))
        many = [point_id(f"nobody {i}") for i in range(3000)]
        known = [point_id(f"p{i}") for i in range(30)]
        assert {p.point_id for p in store.get(spec, [*many, *known])} == set(known)
        assert store.vectors(spec, [*many, *known]).keys() == set(known)
        store.set_stale(spec, [*many, *known[:10]])
        store.delete(spec, [*many, *known[10:]])
        store.flush(spec)
        assert dict(store.scan(spec)) == dict.fromkeys(known[:10], "stale") | {
            point_id(f"p{i}"): "indexed" for i in range(30, 40)
        }

    def test_an_empty_generation_answers_nothing(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.answers(store, spec, [])
        assert list(store.scan(spec)) == [] and store.get(spec, [UNKNOWN]) == []
        assert store.stats(spec)["points"] == 0
        store.flush(spec)
        self.write(store, spec, make_points("p", 1, seed=1))
        self.answers(store, spec, ["p0"])

    def test_stats_count_points(self, store: Store, generation: NewGeneration) -> None:
        spec, other = generation(), generation()
        self.write(store, spec, make_points("p", 7, seed=1))
        self.write(store, other, make_points("p", 2, seed=1))
        assert store.stats(spec)["points"] == 7
        store.delete(spec, [point_id("p0"), UNKNOWN])
        store.flush(spec)
        assert store.stats(spec)["points"] == 6

    def test_building_the_index_changes_no_answer(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        store.build(spec)
        self.write(store, spec, make_points("p", 40, seed=1))
        store.build(spec)
        self.answers(store, spec, [f"p{i}" for i in range(40)])
        store.delete(spec, [point_id("p0")])
        store.build(spec)
        store.flush(spec)
        self.answers(store, spec, [f"p{i}" for i in range(1, 40)])

    def test_repair_loses_nothing(self, store: Store, generation: NewGeneration) -> None:
        spec = generation(fields=Fields({"year": int}))
        points = [
            make_point(f"p{i}", row, metadata={"year": i}, fields=spec.fields)
            for i, row in enumerate(random_vectors(20, seed=1))
        ]
        self.write(store, spec, points)
        store.delete(spec, [point_id("p0")])
        store.set_stale(spec, [point_id("p1")])
        store.flush(spec)
        before = sorted(exact_form(p, store, spec) for p in store.get(spec, [p.point_id for p in points]))
        done = store.repair(spec)
        assert isinstance(done, list) and all(isinstance(line, str) and line for line in done)
        assert sorted(exact_form(p, store, spec) for p in store.get(spec, [p.point_id for p in points])) == before
        self.answers(store, spec, [f"p{i}" for i in range(2, 20)])
        self.write(store, spec, make_points("after", 1, seed=2))
        self.answers(store, spec, [*(f"p{i}" for i in range(2, 20)), "after0"])

    def test_markers_name_the_ledger_of_each_collection(self, store: Store) -> None:
        docs, other = f"docs {uuid.uuid4()} 'ä'", f"other {uuid.uuid4()}"
        assert store.read_marker(docs) is None
        store.write_marker(docs, "8c6f0e4e-7a66-4c5c-9f6e-3c3f0f7d9d10")
        assert store.read_marker(docs) == "8c6f0e4e-7a66-4c5c-9f6e-3c3f0f7d9d10"
        assert store.read_marker(other) is None
        store.write_marker(other, "of the other")
        store.write_marker(docs, "another")
        assert (store.read_marker(docs), store.read_marker(other)) == ("another", "of the other")
        store.write_marker(docs, None)
        store.write_marker(docs, None)
        assert (store.read_marker(docs), store.read_marker(other)) == (None, "of the other")
        store.write_marker(other, None)

    def test_a_place_of_another_shape_is_refused(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.write(store, spec, make_points("p", 3, seed=1))
        with pytest.raises(StoreMismatch, match=str(DIMENSIONS)):
            store.create(replace(spec, dimensions=DIMENSIONS * 2))
        for metric in (one for one in METRICS if one in store.capabilities.metrics and one != spec.metric):
            with pytest.raises(StoreMismatch, match=metric):
                store.create(replace(spec, metric=metric))
        self.answers(store, spec, ["p0", "p1", "p2"])

    def test_visible_at_once_where_claimed(self, store: Store, generation: NewGeneration) -> None:
        """A store that claims immediate visibility needs no flush; every other must be complete after one."""
        spec = generation()
        for i, row in enumerate(random_vectors(6, seed=1)):
            store.upsert(spec, [make_point(f"p{i}", row)])
            if store.capabilities.visibility != "immediate":
                store.flush(spec)
            self.answers(store, spec, [f"p{n}" for n in range(i + 1)])
        store.set_stale(spec, [point_id("p5")])
        store.delete(spec, [point_id("p4")])
        if store.capabilities.visibility != "immediate":
            store.flush(spec)
        self.answers(store, spec, ["p0", "p1", "p2", "p3"])
