"""The store suite on Postgres with pgvector, the newest and the oldest version that the store is made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from postgres_engine import PostgresServer

from shelflist.config import parse_url
from shelflist.stores.pgvector.store import PgvectorStore
from shelflist.stores.protocol import Store
from shelflist.testing import StoreSuite
from shelflist.testing.store_base import Reopen

NewStore = Callable[[], PgvectorStore]


def stores_in(server: PostgresServer) -> NewStore:
    url = parse_url(server.fresh(scheme="pgvector"))
    return lambda: PgvectorStore.at(url, busy_timeout=30.0)


@pytest.fixture(scope="module")
def newest(postgres: PostgresServer) -> NewStore:
    return stores_in(postgres)


@pytest.fixture(scope="module")
def oldest(oldest_postgres: PostgresServer) -> NewStore:
    return stores_in(oldest_postgres)


class PgvectorTests(StoreSuite):
    @pytest.fixture
    def store(self, new_store: NewStore) -> Iterator[Store]:
        store = new_store()
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, new_store: NewStore) -> Reopen | None:
        return new_store


class TestNewest(PgvectorTests):
    @pytest.fixture
    def new_store(self, newest: NewStore) -> NewStore:
        return newest


class TestOldest(PgvectorTests):
    @pytest.fixture
    def new_store(self, oldest: NewStore) -> NewStore:
        return oldest
