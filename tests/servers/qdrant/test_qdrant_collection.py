"""The promises of a collection on Qdrant, with its ledger in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from collection_tests import *  # noqa: F403
from places import Place
from qdrant_engine import new_stores

from shelflist.config import StoreUrl
from shelflist.stores.qdrant.store import QdrantStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    new = new_stores()

    def at(place: StoreUrl, *, busy_timeout: float) -> QdrantStore:
        return new()

    monkeypatch.setattr(QdrantStore, "at", staticmethod(at))
    found = Place("qdrant://a-server", f"sqlite:{folder / 'ledger.db'}")
    yield found
    found.drop()
    found.close()
