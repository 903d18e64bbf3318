"""The promises of a collection on a real Chroma server, with its ledger, and so its keyword leg, in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chroma_engine import server_url
from collection_tests import *  # noqa: F403
from places import Place


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_url(tmp_path_factory.mktemp("chroma")) as url:
        yield url


@pytest.fixture
def place(folder: Path, server: str) -> Iterator[Place]:
    found = Place(server, f"sqlite:{folder / 'ledger.db'}")
    yield found
    found.drop()
    found.close()
