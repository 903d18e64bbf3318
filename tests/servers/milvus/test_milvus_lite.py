"""The shipped suite in the file of Milvus Lite, which has what later servers have: BM25 and a hybrid search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from milvus_engine import open_milvus, require_lite

from shelflist.stores.protocol import Store
from shelflist.testing import StoreSuite
from shelflist.testing.store_base import Reopen


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
