"""What the indexes of a generation in Milvus are, and what a search finds with them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from milvus_engine import client_of, opened
from milvus_generation import FIELDS, QUERY, ask

from shelflist.core.errors import UnsupportedIndex
from shelflist.core.fields import Fields
from shelflist.core.filters import prepare
from shelflist.core.filters.nodes import Comparison, Operator
from shelflist.core.types import Flat, Hnsw, Ivf, SearchParams
from shelflist.stores.milvus.store import MilvusStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import make_point, point_id, random_vectors


def test_the_indexes_are_as_asked_for(store: MilvusStore) -> None:
    fields = Fields({"title": str, "year": int, "weight": float, "draft": bool, "at": "datetime", "tags": "list[str]"})

    def made(index: Hnsw | Ivf | Flat) -> dict[str, Mapping[str, Any]]:
        spec = GenerationSpec("sl_indexes_1", 16, metric="l2", index=index, fields=fields)
        store.create(spec)
        client = client_of(store)
        try:
            return {
                found["field_name"]: found
                for name in client.list_indexes(spec.name)
                for found in [client.describe_index(spec.name, name)]
            }
        finally:
            store.drop(spec.name)

    indexes = made(Hnsw(m=11, ef_construction=77))
    vector = indexes.pop("vector")
    assert (vector["index_type"], vector["metric_type"]) == ("HNSW", "L2")
    assert (int(vector["M"]), int(vector["efConstruction"])) == (11, 77)
    assert {name: found["index_type"] for name, found in indexes.items()} == {
        "document_id": "Trie",
        "index_status": "Trie",
        "tenant_id": "Trie",
        "f_title": "Trie",
        "f_year": "STL_SORT",
        "f_weight": "STL_SORT",
        "f_draft": "STL_SORT",
        "f_at": "STL_SORT",
    }
    vector = made(Ivf(nlist=33))["vector"]
    assert (vector["index_type"], int(vector["nlist"])) == ("IVF_FLAT", 33)
    vector = made(Ivf(nlist=33, quantization="scalar"))["vector"]
    assert (vector["index_type"], int(vector["nlist"])) == ("IVF_SQ8", 33)
    assert made(Flat())["vector"]["index_type"] == "FLAT"


def test_few_matches_are_compared_exactly(store: MilvusStore) -> None:
    spec = GenerationSpec("sl_few_1", 16, index=Hnsw(full_scan_threshold=100), fields=FIELDS)
    store.create(spec)
    points = [
        make_point(f"p{i}", row, metadata={"year": i}, fields=FIELDS)
        for i, row in enumerate(random_vectors(300, seed=1))
    ]
    assert not store.upsert(spec, points).failed
    store.flush(spec)
    for below, exact in ((100, True), (101, False)):
        scope = Scope(filter=prepare(Comparison("year", Operator.LT, below), FIELDS))
        found = store.search(spec, QUERY, limit=10, scope=scope, params=SearchParams())
        assert found.exact is exact and len(found.items) == 10, found.plan
    assert not ask(store, spec).exact
    store.drop(spec.name)


def test_an_effort_beyond_the_server_s_is_refused(store: MilvusStore, spec: GenerationSpec) -> None:
    with pytest.raises(UnsupportedIndex, match="32,768"):
        store.search(spec, QUERY, limit=3, scope=Scope(), params=SearchParams(ef_search=32_769))
    with pytest.raises(UnsupportedIndex, match="32,768"):
        store.create(GenerationSpec("sl_effort_1", 16, index=Hnsw(ef_search=40_000)))
    assert not client_of(store).has_collection("sl_effort_1")


def test_more_fields_than_milvus_has(store: MilvusStore) -> None:
    spec = GenerationSpec("sl_many_1", 16, fields=Fields({f"field{i}": (str, float, int)[i % 3] for i in range(90)}))
    store.create(spec)
    vectors = random_vectors(4, seed=1)
    rows = [{f"field{i}": (f"text {n}", n / 2, n)[i % 3] for i in range(90)} for n in range(4)]
    points = [make_point(f"p{n}", v, metadata=rows[n], fields=spec.fields) for n, v in enumerate(vectors)]
    assert not store.upsert(spec, points).failed
    store.flush(spec)
    for name, value in (("field0", "text 2"), ("field87", "text 2"), ("field88", 1.0), ("field89", 2)):
        scope = Scope(filter=prepare(Comparison(name, Operator.EQ, value), spec.fields))
        assert [c.point_id for c in store.search(spec, QUERY, limit=9, scope=scope, params=SearchParams()).items] == [
            point_id("p2")
        ]
    assert store.get(spec, [point_id("p2")])[0].metadata == points[2].metadata
    store.drop(spec.name)


def test_sealed_and_indexed(store: MilvusStore) -> None:
    """What the tests of the suite write is too little to be indexed by Milvus by itself: vectors, filters, all of it."""
    for index in (Hnsw(indexing_threshold=1_000), Ivf(nlist=16, nprobe=8)):
        spec = GenerationSpec("sl_sealed_1", 16, index=index, fields=FIELDS)
        store.create(spec)
        vectors = random_vectors(6_000, seed=2)
        points = [
            make_point(f"p{i}", row, metadata={"year": i, "title": f"t{i % 7}"}, fields=FIELDS)
            for i, row in enumerate(vectors)
        ]
        assert not store.upsert(spec, points).failed
        store.flush(spec)
        store.build(spec)
        stats = store.stats(spec)
        assert stats["pending_rows"] == 0 and stats["indexed_rows"] == 6_000
        states = {segment.state.name for segment in client_of(store).list_loaded_segments(spec.name)}
        assert states == {"Sealed"} and store.count(spec, Scope()) == 6_000
        asked = random_vectors(40, seed=3)
        hit = 0
        for query in asked:
            answers = [
                store.search(spec, query, limit=10, scope=Scope(), params=SearchParams(exact=exact))
                for exact in (True, False)
            ]
            true, near = ({candidate.point_id for candidate in one.items} for one in answers)
            hit += len(true & near)
        assert hit >= 0.95 * 10 * len(asked) or index.kind == "ivf"
        found = store.vectors(spec, [point.point_id for point in points])
        assert all(found[point.point_id].tobytes() == point.vector.tobytes() for point in points)
        scope = Scope(filter=prepare(Comparison("title", Operator.STARTS_WITH, "t3"), FIELDS))
        true = store.search(spec, QUERY, limit=10, scope=scope, params=SearchParams(exact=True))
        near = store.search(spec, QUERY, limit=10, scope=scope, params=SearchParams())
        assert true.exact and not near.exact
        assert len({c.point_id for c in true.items} & {c.point_id for c in near.items}) >= 8
        everything = store.search(spec, QUERY, limit=6_001, scope=Scope(), params=SearchParams())
        assert len(everything.items) == 6_000 and everything.exhausted
        store.delete(spec, [points[0].point_id])
        store.set_stale(spec, [points[1].point_id])
        store.flush(spec)
        assert store.count(spec, Scope()) == 5_998 and store.stats(spec)["points"] == 5_999
        store.drop(spec.name)


def test_the_index_answers_when_build_returns(store: MilvusStore) -> None:
    """Not the makeshift index of the open segment, whose recall nobody chose."""
    spec = GenerationSpec("sl_built_1", 64, index=Hnsw(ef_search=256))
    store.create(spec)
    vectors = random_vectors(12_000, seed=5, dimensions=64)
    for start in range(0, len(vectors), 6_000):
        some = range(start, start + 6_000)
        assert not store.upsert(spec, [make_point(f"p{i}", vectors[i]) for i in some]).failed
    store.flush(spec)
    store.build(spec)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    hits = 0
    for query in random_vectors(50, seed=6, dimensions=64):
        true = {point_id(f"p{i}") for i in np.argsort(-(unit @ query))[:10]}
        found = store.search(spec, query, limit=10, scope=Scope(), params=SearchParams())
        hits += len(true & {one.point_id for one in found.items})
    assert hits >= 0.95 * 500
    store.drop(spec.name)


def test_quantized_vectors_are_put_in_order_by_whole_ones(store: MilvusStore) -> None:
    """The server of the tests quantizes in IVF only; the way of asking is the same."""
    spec = GenerationSpec("sl_scalar_1", 8, metric="l2", index=Ivf(nlist=1, nprobe=1, quantization="scalar"))
    store.create(spec)
    vectors = random_vectors(6_000, seed=7, dimensions=8)
    vectors[0] = 100.0  # so that a step of the quantizer is as wide as the distances between neighbours differ
    assert not store.upsert(spec, [make_point(f"p{i}", row) for i, row in enumerate(vectors)]).failed
    store.flush(spec)
    store.build(spec)
    hits = 0
    for query in random_vectors(50, seed=8, dimensions=8):
        far = np.linalg.norm(vectors - query, axis=1)
        true = np.argsort(far)[:10]
        found = store.search(spec, query, limit=10, scope=Scope(), params=SearchParams())
        hits += len({point_id(f"p{i}") for i in true} & {one.point_id for one in found.items})
        by_id = {point_id(f"p{i}"): far[i] for i in range(6_000)}
        assert [one.value for one in found.items] == pytest.approx(
            [by_id[one.point_id] for one in found.items], rel=1e-3
        )
    assert hits >= 0.98 * 500
    store.drop(spec.name)


def test_more_than_one_search_returns(store: MilvusStore) -> None:
    spec = GenerationSpec("sl_deep_1", 4)
    store.create(spec)
    vectors = random_vectors(17_000, seed=3, dimensions=4)
    for start in range(0, 17_000, 10_000):
        some = [make_point(f"p{i}", vectors[i]) for i in range(start, min(17_000, start + 10_000))]
        assert not store.upsert(spec, some).failed
    store.flush(spec)
    found = store.search(spec, QUERY[:4], limit=16_500, scope=Scope(), params=SearchParams())
    values = [item.value for item in found.items]
    assert len(values) == 16_500 and found.exact and not found.exhausted and values == sorted(values)
    store.drop(spec.name)


def test_replicas_that_are_behind(store: MilvusStore, spec: GenerationSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine alone can hold one replica only; with more of them, flush waits for those that did not answer."""
    monkeypatch.setattr("shelflist.stores.milvus.store._BOUNDED", 2.0)
    assert len(client_of(store).describe_replica(spec.name)) == 1
    begun = time.monotonic()
    store.flush(spec)
    assert time.monotonic() - begun < 1.5
    with opened(store._link.address) as other:
        monkeypatch.setattr(client_of(other), "describe_replica", lambda name, timeout: [None, None])
        begun = time.monotonic()
        other.flush(spec)
        assert time.monotonic() - begun > 2


def test_tenants_are_a_partition_key(store: MilvusStore) -> None:
    spec = GenerationSpec("sl_tenants_1", 16, tenanted=True)
    store.create(spec)
    fields = client_of(store).describe_collection(spec.name)["fields"]
    assert [field["name"] for field in fields if field.get("is_partition_key")] == ["tenant_id"]
    store.drop(spec.name)
