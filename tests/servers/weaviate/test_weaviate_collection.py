"""The promises of a collection on a real Weaviate server, with its ledger in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from collection_tests import *  # noqa: F403
from places import Place
from weaviate_engine import any_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with any_server(tmp_path_factory.mktemp("weaviate")) as url:
        yield url


@pytest.fixture
def place(folder: Path, server: str) -> Iterator[Place]:
    found = Place(server, f"sqlite:{folder / 'ledger.db'}")
    yield found
    found.drop()
    found.close()
