"""The shipped suite in the file of Milvus Lite, which has what later servers have: BM25 and a hybrid search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from milvus_engine import open_milvus, require_lite

from shelflist.core.types import SearchParams
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
