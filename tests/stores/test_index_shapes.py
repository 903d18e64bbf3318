"""Indexes of every kind, and collections of every size and shape."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_of_hundreds import (
    DIMENSIONS,
    FIELDS,
    INDEX,
    SPEC,
    TRUTH,
    assert_recall,
    ids,
    plan,
    point,
    vector_of,
    written,
)

from shelflist.core.errors import UnsupportedIndex
from shelflist.core.filters import F, prepare
from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf, Metric, SearchParams, Vector
from shelflist.engine import calibration, planner
from shelflist.stores import _compaction
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import point_id


def test_deleting_most_and_shrinking_below_the_threshold(store: EmbeddedStore, place: Path) -> None:
    store.delete(SPEC, [point_id(str(number)) for number in range(540)])
    assert len(ids(store, vector_of(1))) == 10 and len(ids(store, vector_of(1), limit=100)) == 60
    store.build(SPEC)
    store._vectors.wait()
    assert plan(store).startswith("exact over 60 rows")
    with store.database.read() as tx:
        assert tx.execute("SELECT count(*) FROM store_snapshots").fetchone() == (0,)
    written(store, range(1_000, 1_200))
    store.build(SPEC)
    store._vectors.wait()
    assert plan(store).startswith("graph of 260 rows")


def test_deleting_nine_in_ten(store: EmbeddedStore) -> None:
    written(store, range(600, 1_500))
    store.repair(SPEC)
    kept = set(random.Random(2).sample(range(1_500), 150))
    gone = [point_id(str(number)) for number in range(1_500) if number not in kept]
    store.delete(SPEC, gone)
    assert_recall(store)
    assert not set(ids(store, vector_of(1), limit=150)) & set(gone)
    store.build(SPEC)
    store._vectors.wait()
    assert plan(store).startswith("graph of 150 rows")
    assert_recall(store)
    assert set(ids(store, vector_of(1), limit=200)) == {point_id(str(number)) for number in kept}


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((300, DIMENSIONS), np.float32),
        np.repeat(np.stack([vector_of(number) for number in range(150)]), 2, axis=0),
        np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32),
        np.random.default_rng(0).normal(size=(130, 4_096)).astype(np.float32),
    ],
    ids=["all the same", "each twice", "two dimensions", "4,096 dimensions"],
)
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_of_every_kind(place: Path, vectors: Vector, metric: Metric) -> None:
    spec = GenerationSpec("sl_kind_1", vectors.shape[1], metric, INDEX, FIELDS)
    with_it = EmbeddedStore(place)
    with_it.create(spec)
    with_it.upsert(spec, [point(number, vector=one) for number, one in enumerate(vectors)])
    with_it.repair(spec)
    for scope in (Scope(), Scope(filter=prepare(F("group") == 2, FIELDS))):
        found = with_it.search(spec, vectors[5], limit=10, scope=scope, params=SearchParams())
        truth = with_it.search(spec, vectors[5], limit=10, scope=scope, params=TRUTH)
        assert len(found.items) == 10
        # By distance, since ties are anybody's.
        bound = truth.items[-1].value + 1e-5
        assert sum(item.value <= bound for item in found.items) >= 8
    with_it.close()


@pytest.mark.parametrize("index", [None, Ivf(), Flat(quantization="rabitq")], ids=str)
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_that_are_all_the_same_in_every_index(
    place: Path, index: IndexSpec | None, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough of them to measure how many are few."""
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    monkeypatch.setattr(_compaction, "GRAPH_FROM", 100)
    monkeypatch.setattr(calibration, "_FEW", (50, 100))
    vector = np.arange(64, dtype=np.float32)
    spec = GenerationSpec("sl_same_1", 64, metric, index, FIELDS)
    with closing(EmbeddedStore(place)) as same:
        same.create(spec)
        same.upsert(spec, [point(number, vector=vector) for number in range(400)])
        same.repair(spec)
        assert same.stats(spec)["snapshot_rows"] == 400
        third = {point_id(str(number)) for number in range(2, 400, 3)}
        for scope in (Scope(), Scope(filter=prepare(F("group") == 2, FIELDS))):
            found = same.search(spec, vector, limit=10, scope=scope, params=SearchParams())
            assert len(found.items) == 10
        assert {one.point_id for one in found.items} <= third


@pytest.mark.parametrize(
    ("index", "way", "metric"),
    [
        (Ivf(), "cells of 600 rows", "cosine"),
        (Ivf(nlist=12, nprobe=8), "cells of 600 rows, nprobe 8 of 12", "l2"),
        (Ivf(nlist=12, quantization="rabitq2"), "cells of 600 rows", "dot"),
        (Flat(quantization="rabitq"), "codes of 600 rows", "dot"),
        (Flat(quantization="rabitq2"), "codes of 600 rows", "cosine"),
        (Flat(), "exact over 600 rows", "l2"),
        (Hnsw(indexing_threshold=100, full_scan_threshold=0, quantization="rabitq2"), "graph of 600 rows", "l2"),
    ],
    ids=str,
)
def test_every_kind_of_index(
    place: Path, index: IndexSpec, way: str, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    monkeypatch.setattr(planner, "FEW_MATCHES", 0)
    spec = replace(SPEC, index=index, metric=metric)
    for opening in range(2):  # as it was built, and as it is read
        opened = EmbeddedStore(place)
        if opening == 0:
            opened.create(spec)
            written(opened, range(600), spec)
            opened.repair(spec)
        shares = []
        for number in range(0, 400, 20):
            query = vector_of(number) + np.float32(0.2)
            found = opened.search(spec, query, limit=10, scope=Scope(), params=SearchParams())
            truth = opened.search(spec, query, limit=10, scope=Scope(), params=TRUTH)
            assert found.plan.startswith(way) and truth.exact and len(found.items) == 10
            shares.append(len({one.point_id for one in found.items} & {one.point_id for one in truth.items}) / 10)
        assert np.mean(shares) >= 0.85
        opened.delete(spec, [one.point_id for one in truth.items])
        after = opened.search(spec, query, limit=10, scope=Scope(), params=SearchParams())
        assert len(after.items) == 10 and not {one.point_id for one in after.items} & {
            one.point_id for one in truth.items
        }
        opened.upsert(spec, [point(900 + opening, vector=query * 3 if metric == "dot" else query)])
        again = opened.search(spec, query, limit=10, scope=Scope(), params=SearchParams())
        assert again.items[0].point_id == point_id(str(900 + opening))
        way = way.replace("600", "591") if "exact" in way else way.split(" of ")[0]
        opened.close()


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_rows(place: Path, count: int) -> None:
    store = EmbeddedStore(place)
    store.create(SPEC)
    written(store, range(count))
    store.build(SPEC)
    store.repair(SPEC)
    assert len(ids(store, vector_of(0))) == count
    store.close()


@pytest.mark.parametrize("index", [Hnsw(m=1), Hnsw(m=0), Hnsw(m=1_000_000), Hnsw(ef_construction=0)], ids=str)
def test_a_graph_that_would_end_the_process_is_refused(folder: Path, index: Hnsw) -> None:
    store = EmbeddedStore(folder / "index")
    with pytest.raises(UnsupportedIndex, match=r"The embedded store takes \w+ from"):
        store.create(replace(SPEC, index=index))
    store.create(replace(SPEC, index=Hnsw(m=2)))
    store.close()
