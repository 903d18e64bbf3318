"""The shipped suite against a real Weaviate, and a part of it against one that builds its indexes aside."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from weaviate_engine import any_server, open_store, running

from shelflist.core.errors import UnsupportedOperation
from shelflist.core.types import Hnsw, SearchParams
from shelflist.stores.protocol import Scope, Store
from shelflist.testing import StoreSuite
from shelflist.testing.points import distances, make_points
from shelflist.testing.store_base import QUERY, NewGeneration, Reopen
from shelflist.testing.store_rows import RowTests
from shelflist.testing.store_threads import ThreadTests


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with any_server(tmp_path_factory.mktemp("weaviate")) as url:
        yield url


@pytest.fixture(scope="module")
def aside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("async"), {"ASYNC_INDEXING": "true"}) as server:
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


class TestWeaviateThatIndexesAside(RowTests, ThreadTests):
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
