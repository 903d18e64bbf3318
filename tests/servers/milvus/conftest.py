"""Milvus: for each file a server, at its `url` or to be broken, and for each test a store and a generation there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shelflist.stores import _connect
from shelflist.stores.milvus.store import MilvusStore
from shelflist.stores.protocol import GenerationSpec

sys.path.insert(0, str(Path(__file__).parent))

from milvus_engine import MilvusServer, any_server, opened, running
from milvus_generation import FIELDS


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with any_server(tmp_path_factory.mktemp("milvus")) as url:
        yield url


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    with running(tmp_path_factory.mktemp("milvus")) as server:
        yield server


@pytest.fixture
def store(server: MilvusServer) -> Iterator[MilvusStore]:
    with opened(server.url) as store:
        yield store


@pytest.fixture
def spec(store: MilvusStore) -> Iterator[GenerationSpec]:
    spec = GenerationSpec("sl_badday_1", 16, fields=FIELDS)
    store.create(spec)
    yield spec
    store.drop(spec.name)


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "_FIRST_PAUSE", 0.01)
