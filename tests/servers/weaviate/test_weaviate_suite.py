"""The shipped suite against a real Weaviate, and against one that builds its indexes aside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weaviate_engine import open_store, running

import shelflist
from shelflist import Chunk, Document
from shelflist.core.errors import UnsupportedOperation
from shelflist.core.fields import Fields
from shelflist.core.filters import F
from shelflist.core.types import Flat, Hnsw, Quantization, SearchParams, Wait
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.stores.weaviate.schema import class_name
from shelflist.stores.weaviate.store import WeaviateStore
from shelflist.testing import StoreSuite
from shelflist.testing.points import distances, make_point, make_points, random_vectors
from shelflist.testing.store_base import QUERY, NewGeneration, Reopen


@pytest.fixture(scope="module")
def aside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # It looks into its queue each second by itself, which every write of the suite would wait for.
    settings = {"ASYNC_INDEXING": "true", "QUEUE_SCHEDULER_INTERVAL": "100ms"}
    with running(tmp_path_factory.mktemp("async"), settings) as server:
        yield server.url


class TestWeaviate(StoreSuite):
    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = open_store(url)
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, url: str) -> Reopen | None:
        return lambda: open_store(url)

    @pytest.mark.parametrize("params", [SearchParams(exact=True), SearchParams(ef_search=200)], ids=["exact", "ef"])
    def test_what_its_own_fusion_does_not_take_is_refused(
        self, store: Store, generation: NewGeneration, params: SearchParams
    ) -> None:
        spec = generation()
        with pytest.raises(UnsupportedOperation, match=r"neither exact= nor ef_search=.*'convex'"):
            store.hybrid_search(spec, "shelf", QUERY, limit=3, scope=Scope(), params=params)

    @pytest.mark.parametrize("quantization", [None, "scalar", "binary"])
    def test_every_parameter_and_every_index_of_a_field_reaches_weaviate(
        self, store: Store, generation: NewGeneration, quantization: Quantization | None
    ) -> None:
        fields = Fields({"title": str, "n": int, "price": float, "sold": bool, "at": "datetime", "tags": list[str]})
        index = Hnsw(m=24, ef_construction=77, ef_search=55, full_scan_threshold=123, quantization=quantization)
        config = read_back(store, generation(fields=fields, index=index, metric="l2"))
        graph = config.vector_config["default"].vector_index_config
        assert (graph.max_connections, graph.ef_construction, graph.ef) == (24, 77, 55)
        assert graph.flat_search_cutoff == 123 and graph.distance_metric == "l2-squared"
        quantizers = {None: "NoneType", "scalar": "_RQConfig", "binary": "_BQConfig"}
        assert type(graph.quantizer).__name__ == quantizers[quantization]
        made = {one.name: (one.index_filterable, one.index_range_filters) for one in config.properties}
        ranges = ["f_n", "f_price", "s_at", "u_at"]
        plain = ["f_title", "f_sold", "f_tags", "index_status", "document_id", "tenant_id", "has"]
        wanted = dict.fromkeys(ranges, (True, True)) | dict.fromkeys(plain, (True, False))
        assert {name: made[name] for name in wanted} == wanted

    def test_a_flat_index_reaches_weaviate(self, store: Store, generation: NewGeneration) -> None:
        config = read_back(store, generation(index=Flat(quantization="binary")))
        flat = config.vector_config["default"].vector_index_config
        assert flat.vector_index_type() == "flat" and type(flat.quantizer).__name__ == "_BQConfig"

    def test_as_few_matches_as_the_threshold_are_scanned(self, store: Store, generation: NewGeneration) -> None:
        """The engine does it; what it is told is what the plan says."""
        fields = Fields({"n": int})
        spec = generation(fields=fields, index=Hnsw(full_scan_threshold=123))
        rows = [
            make_point(f"p{i}", row, metadata={"n": i}, fields=fields) for i, row in enumerate(random_vectors(300, 1))
        ]
        self.write(store, spec, rows)
        assert "below 123 matches" in self.dense(store, spec, 5, self.scope(spec, F("n") < 100)).plan


def read_back(store: Store, spec: GenerationSpec) -> Any:
    """The class of a generation as the server describes it."""
    assert isinstance(store, WeaviateStore)
    name = class_name(spec.name)
    return store._calls.session.rest(lambda client: client.collections.get(name).config.get())


class TestWeaviateThatIndexesAside(StoreSuite):
    """With ASYNC_INDEXING=true an upsert returns before its vectors are in the index: `flush` waits for them."""

    @pytest.fixture
    def store(self, aside: str) -> Iterator[Store]:
        store = open_store(aside)
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, aside: str) -> Reopen | None:
        return lambda: open_store(aside)

    def test_late_vectors_are_never_missing(self, store: Store, generation: NewGeneration) -> None:
        """Before the flush the store compares the vectors itself where the index comes back short; after it, no more."""
        spec = generation()
        late = False
        for number in range(10):
            points = make_points(f"p{number}.", 300, seed=number)
            assert len(store.upsert(spec, points).stored) == 300
            late = late or store.stats(spec)["waiting_vectors"] > 0
            found = self.dense(store, spec, 20)
            assert len(found.items) == 20
        assert late, "the server indexes at once: this test shows nothing"
        store.flush(spec)
        assert store.stats(spec)["waiting_vectors"] == 0
        everything = self.dense(store, spec, 4_000)
        assert len(everything.items) == 3_000 and everything.exhausted

    def test_a_graph_from_a_threshold_up(self, store: Store, generation: NewGeneration) -> None:
        spec = generation(index=Hnsw(m=8, ef_construction=64, indexing_threshold=200))
        points = make_points("p", 600, seed=5)
        for start in range(0, 600, 100):
            self.write(store, spec, points[start : start + 100])
            true = np.sort(distances(spec.metric, QUERY, np.stack([p.vector for p in points[: start + 100]])))[:10]
            found = [item.value for item in self.dense(store, spec, 10).items]
            assert sum(value <= true[9] + 1e-4 for value in found) >= 9


@pytest.mark.parametrize("wait", ["searchable", "stored"])
def test_what_is_indexed_late_is_neither_missed_nor_mixed(aside: str, tmp_path: Path, wait: Wait) -> None:
    """An old revision answers until the whole new one can be found. What of it the store shows before, the ledger refuses."""
    centres = random_vectors(100, seed=7)
    ledger = f"sqlite:{tmp_path / 'ledger.db'}"
    options: dict[str, Any] = {"embedder": None, "fingerprint": "f", "dimensions": 16, "ledger": ledger}
    docs = shelflist.open(aside, f"late-{wait}", **options)

    def documents(word: str, seed: int) -> list[Document]:
        noise = random_vectors(1_000, seed) / 100
        return [
            Document(f"d{i}", [Chunk(f"{word} {i} {n}", embedding=centre + noise[10 * i + n]) for n in range(10)])
            for i, centre in enumerate(centres)
        ]

    def words(number: int) -> set[str]:
        """Of the ten hits nearest to a document, which are its own chunks, of one revision."""
        hits = docs.search(centres[number], limit=10, mode="dense")
        nonlocal refused
        refused += hits.refused
        assert [hit.document_id for hit in hits] == [f"d{number}"] * 10
        return {hit.content.split()[0] for hit in hits}

    refused = late = 0
    try:
        docs.sync_all(documents("v0", 1))
        assert all(words(number) == {"v0"} for number in range(100)), "acknowledged means searchable"
        store, spec = docs._parts.store, docs._parts.spec
        for turn in range(1, 4):
            old, new = {f"v{turn - 1}"}, {f"v{turn}"}
            docs.sync_all(documents(f"v{turn}", 1 + turn), wait=wait)
            late += store.stats(spec)["waiting_vectors"]
            if wait == "searchable":
                assert all(words(number) == new for number in range(0, 100, 10))
            deadline = time.monotonic() + 60
            number = 0
            while (found := words(number % 100)) != new and time.monotonic() < deadline:
                assert found == old, "of two revisions at once"
                number += 7
            assert all(words(number) == new for number in range(0, 100, 10))
        assert wait == "searchable" or (late and refused), f"nothing came late: {late}, {refused}"
        for number in range(0, 100, 5):
            docs.mark_stale(f"d{number}")
            gone = {f"d{one}" for one in range(0, number + 1, 5)}
            assert gone.isdisjoint(hit.document_id for hit in docs.search(centres[number], limit=10, mode="dense"))
    finally:
        docs.close()
