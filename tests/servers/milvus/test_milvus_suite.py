"""The shipped suite on a real Milvus server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from milvus_engine import open_milvus

from shelflist.stores.protocol import Store
from shelflist.testing import StoreSuite
from shelflist.testing.store_base import Reopen


class TestMilvus(StoreSuite):
    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = open_milvus(url)
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, url: str) -> Reopen | None:
        return lambda: open_milvus(url)
