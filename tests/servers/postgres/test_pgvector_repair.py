"""What somebody does to the tables behind the library's back, `verify` sees and `repair` mends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from counting import CountingEmbedder, contents, documents
from postgres_engine import PostgresServer, database_of

import shelflist
from shelflist import Collection
from shelflist.core.errors import StoreMismatch


@pytest.fixture
def docs(postgres: PostgresServer) -> Iterator[tuple[Collection, str, str]]:
    url = postgres.fresh(scheme="pgvector")
    with shelflist.open(url, "docs", embedder=CountingEmbedder()) as collection:
        collection.sync_all(documents(6))
        yield collection, collection._parts.spec.name, database_of(url)


@pytest.mark.parametrize("harm", ["DELETE FROM {name} WHERE ctid IN (SELECT ctid FROM {name} LIMIT 3)",
                                  "DELETE FROM {name}_terms WHERE ctid IN (SELECT ctid FROM {name}_terms LIMIT 2)"])  # fmt: skip
def test_rows_deleted_behind_its_back(docs: tuple[Collection, str, str], postgres: PostgresServer, harm: str) -> None:
    collection, name, database = docs
    before, count = sorted(contents(collection.search("text", limit=99))), collection.count()
    words = len(collection.search("text", mode="keyword", limit=99))
    postgres.sql(harm.format(name=name), database=database)
    assert not collection.verify()["ok"]
    collection.repair()
    assert collection.verify()["ok"] and collection.count() == count
    assert sorted(contents(collection.search("text", limit=99))) == before
    assert len(collection.search("text", mode="keyword", limit=99)) == words


@pytest.mark.parametrize("dropped", ["{name}", "{name}_terms", "{name}, {name}_terms"])
def test_tables_dropped_behind_its_back(
    docs: tuple[Collection, str, str], postgres: PostgresServer, dropped: str
) -> None:
    collection, name, database = docs
    before, words = collection.count(), contents(collection.search("text", mode="keyword", limit=99))
    postgres.sql(f"DROP TABLE {dropped.format(name=name)}", database=database)
    for ask in (collection.status, collection.verify, lambda: collection.search("text", mode="keyword")):
        with pytest.raises(StoreMismatch, match=rf"no table {name}(_terms)? .*shelflist repair"):
            ask()
    assert not collection.repair()["lost"]
    assert collection.verify()["ok"] and collection.count() == before
    assert sorted(contents(collection.search("text", mode="keyword", limit=99))) == sorted(words)
