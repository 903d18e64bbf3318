"""The shipped suite in the file of Milvus Lite, which has what later servers have: BM25 and a hybrid search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from milvus_engine import open_milvus, require_lite

from shelflist.core.errors import UnsupportedIndex
from shelflist.core.fields import Fields
from shelflist.core.types import Hnsw, SearchParams
from shelflist.stores.milvus.store import MilvusStore
from shelflist.stores.protocol import Scope, Store
from shelflist.testing import StoreSuite
from shelflist.testing.points import make_points
from shelflist.testing.store_base import QUERY, NewGeneration, Reopen


class TestMilvusLite(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        require_lite()
        store = open_milvus(f"milvus:{tmp_path / 'index.db'}")
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen | None:
        return lambda: open_milvus(f"milvus:{tmp_path / 'index.db'}")

    def test_hybrid_asks_as_exactly_as_it_is_told_to(self, store: Store, generation: NewGeneration) -> None:
        spec = generation()
        self.write(store, spec, make_points("p", 30, seed=1))
        found = store.hybrid_search(spec, "p3", QUERY, limit=5, scope=Scope(), params=SearchParams(exact=True))
        assert len(found.items) == 5 and "exact over 30 matching rows" in found.plan
        with pytest.raises(UnsupportedIndex, match="32,768"):
            store.hybrid_search(spec, "p3", QUERY, limit=5, scope=Scope(), params=SearchParams(ef_search=32_769))

    def test_the_indexes_are_as_asked_for(self, store: Store, generation: NewGeneration) -> None:
        """Lite tells their kinds only: the parameters of the graph of quantized vectors are looked at on their way to it."""
        assert isinstance(store, MilvusStore)
        client = store._link.client()
        with patch.object(client, "create_index", wraps=client.create_index) as asked:
            spec = generation(
                index=Hnsw(m=11, ef_construction=77, quantization="scalar"),
                fields=Fields({"title": str, "year": int, "weight": float, "draft": bool, "tags": "list[str]"}),
            )
        (vector,) = (one for call in asked.call_args_list for one in call.args[1] if one.field_name == "vector")
        params = vector.to_dict()
        assert (params["M"], params["efConstruction"], params["sq_type"]) == (11, 77, "SQ8")
        found = [client.describe_index(spec.name, name) for name in client.list_indexes(spec.name)]
        scalars = ("document_id", "index_status", "tenant_id", "f_title", "f_year", "f_weight", "f_draft")
        assert {one["field_name"]: one["index_type"] for one in found} == {
            "vector": "HNSW_SQ",
            "sparse": "SPARSE_INVERTED_INDEX",
            **dict.fromkeys(scalars, "INVERTED"),
        }

    def test_hybrid_scores_go_down_whatever_the_words(self, store: Store, generation: NewGeneration) -> None:
        """Also with no word to look for, and for more than Milvus' own fusion may return."""
        spec = generation()
        self.write(store, spec, make_points("p", 30, seed=1))
        for text in ("p3", "shelf", "xylophone", "?!"):
            for limit in (5, 30, 40, 20_000):
                found = store.hybrid_search(spec, text, QUERY, limit=limit, scope=Scope(), params=SearchParams())
                scores = [item.value for item in found.items]
                assert len(scores) == min(limit, 30) and scores == sorted(scores, reverse=True) and scores[-1] > 0
                assert len({item.point_id for item in found.items}) == len(scores)
                assert found.exhausted == (limit > 30) or limit == 30
