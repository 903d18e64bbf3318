"""Tests against real engines, which they start themselves. Each file runs in one worker and starts its own server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import Place

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def place(folder: Path, url: str) -> Iterator[Place]:
    """A collection on the server at `url`, which each engine has its own of, with its ledger in SQLite."""
    found = Place(url, f"sqlite:{folder / 'ledger.db'}")
    yield found
    found.drop()
    found.close()
