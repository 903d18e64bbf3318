"""The fusion of Milvus itself in a collection, which the server of these tests lacks and the file of Milvus Lite has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from collection_tests import test_the_stores_own_fusion_keeps_every_promise_or_is_refused  # noqa: F401
from milvus_engine import require_lite
from places import Place


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    require_lite()
    found = Place(f"milvus:{folder / 'index.db'}", f"sqlite:{folder / 'ledger.db'}")
    yield found
    found.close()


def test_it_is_claimed_here(place: Place) -> None:
    assert place.open()._parts.store.capabilities.hybrid
