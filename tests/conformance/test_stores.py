"""Every store that ships runs the suite that ships."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.memory import MemoryStore
from shelflist.stores.protocol import Store
from shelflist.testing import StoreSuite
from shelflist.testing.store_base import Reopen


class TestMemory(StoreSuite):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = MemoryStore()
        yield store
        store.close()


class TestEmbedded(StoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = EmbeddedStore(tmp_path / "index")
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, tmp_path: Path) -> Reopen | None:
        return lambda: EmbeddedStore(tmp_path / "index")
