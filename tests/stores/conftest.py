"""The index of `index_of_hundreds`, filled and with a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from index_of_hundreds import SPEC, written

from shelflist.engine import products
from shelflist.stores.embedded import EmbeddedStore


@pytest.fixture
def place(folder: Path) -> Path:
    return folder / "index"


@pytest.fixture
def store(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedStore]:
    monkeypatch.setattr(products, "_LEAST_ROWS", 500)
    opened = EmbeddedStore(place)
    opened.create(SPEC)
    written(opened, range(600))
    opened.repair(SPEC)
    yield opened
    opened.close()
