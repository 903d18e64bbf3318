"""Postgres with pgvector, newest and oldest supported version: one server a worker process, a new database a test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shelflist.config import parse_url
from shelflist.stores.pgvector.store import PgvectorStore

_TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), *(str(_TESTS / name) for name in ("collection", "ledger", "acceptance"))]

from postgres_engine import PostgresServer, oldest_postgres, postgres  # noqa: E402

__all__ = ["oldest_postgres", "postgres"]


@pytest.fixture(scope="module")
def store(postgres: PostgresServer) -> Iterator[PgvectorStore]:
    """On one connection: a plan is asked for where the settings of a search are, and what stuck to it would be seen."""
    store = PgvectorStore.at(parse_url(postgres.fresh(scheme="pgvector", pool_size=1)), busy_timeout=30.0)
    yield store
    store.close()
