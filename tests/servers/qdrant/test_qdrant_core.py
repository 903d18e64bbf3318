"""The store suite on the server's own core, spoken to over HTTP; see `qdrant_core`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from qdrant_core import Core, serving
from qdrant_engine import NewStore
from test_qdrant_suite import test_order_is_exact_where_parts_of_a_value_meet  # noqa: F401

from shelflist.config import parse_url
from shelflist.core.fields import Fields
from shelflist.core.filters import prepare
from shelflist.core.filters.nodes import Comparison, Operator
from shelflist.core.types import Hnsw, SearchParams
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.stores.qdrant.store import QdrantStore
from shelflist.testing import StoreSuite
from shelflist.testing.points import DIMENSIONS, distances, make_point, random_vectors
from shelflist.testing.store_base import Reopen


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Core]]:
    with serving(tmp_path_factory.mktemp("qdrant") / "shards") as served:
        yield served


def store_at(url: str) -> QdrantStore:
    return QdrantStore.at(parse_url(url), busy_timeout=30)


class TestQdrantCore(StoreSuite):
    @pytest.fixture
    def store(self, served: tuple[str, Core]) -> Iterator[Store]:
        store = store_at(served[0])
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, served: tuple[str, Core]) -> Reopen | None:
        return lambda: store_at(served[0])


@pytest.fixture
def new_store(served: tuple[str, Core]) -> NewStore:
    return lambda: store_at(served[0])


@pytest.mark.parametrize("tenanted", [False, True], ids=["one graph", "a graph a tenant"])
def test_the_graph_finds_the_nearest_under_a_filter(new_store: NewStore, tenanted: bool) -> None:
    """3,000 points, and neither tenant nor filter is so small that the core would look at all of them."""
    fields = Fields({"n": int, "title": str})
    index = Hnsw(m=16, ef_construction=100, indexing_threshold=100, full_scan_threshold=0)
    spec = GenerationSpec(f"sl_{uuid.uuid4().hex[:12]}_1", DIMENSIONS, index=index, fields=fields, tenanted=tenanted)
    store = new_store()
    store.create(spec)
    vectors = random_vectors(3_000, seed=5)
    points = [
        make_point(
            f"p{i}",
            row,
            metadata={"n": i % 10, "title": f"t{i % 3}"},
            fields=fields,
            tenant=f"tenant {i % 2}" if tenanted else None,
        )
        for i, row in enumerate(vectors)
    ]
    store.upsert(spec, points)
    store.build(spec)
    assert store.stats(spec)["indexed_vectors"] == 6_000  # the sparse ones count from the start
    mine = [i for i in range(3_000) if i % 2 == 1 or not tenanted]
    tenant = "tenant 1" if tenanted else None
    below = Comparison("n", Operator.LT, 5)
    for where in (None, below, below & Comparison("title", Operator.GE, "t1")):
        checked = None if where is None else prepare(where, fields)
        matching = [i for i in mine if checked is None or checked.matches(points[i].metadata)]
        scope = Scope(filter=checked, tenant=tenant)
        hit = 0
        for query in random_vectors(20, seed=6):
            true = np.sort(distances(spec.metric, query, vectors[matching]))
            found = store.search(spec, query, limit=10, scope=scope, params=SearchParams(ef_search=100))
            assert not found.exact and found.plan.startswith("HNSW"), found.plan
            hit += sum(item.value <= true[9] + 1e-5 for item in found.items)
        assert hit >= 190, (where, hit)
        everything = store.search(spec, vectors[0], limit=3_001, scope=scope, params=SearchParams())
        assert {item.point_id for item in everything.items} == {points[i].point_id for i in matching}
        assert everything.exhausted
    store.drop(spec.name)
    store.close()
