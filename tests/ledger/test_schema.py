"""The ledger's tables: made from nothing, brought forward, and never touched when they are newer."""

from __future__ import annotations

from pathlib import Path

import pytest

from shelflist.core.errors import LedgerTooNew
from shelflist.database import SqliteDatabase
from shelflist.ledger import schema
from shelflist.ledger.ledger import Ledger
from shelflist.ledger.schema import is_ledger, migrations, open_schema, statements


@pytest.fixture
def database(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(tmp_path / "ledger.db")


def tables(database: SqliteDatabase) -> dict[str, str]:
    with database.read() as tx:
        return dict(tx.execute("SELECT name, sql FROM sqlite_master WHERE name LIKE 'sl_%' AND sql IS NOT NULL"))


def version(database: SqliteDatabase) -> str:
    with database.read() as tx:
        (value,) = tx.execute("SELECT value FROM sl_meta WHERE key = 'version'").fetchone()
    return str(value)


def test_migrations_are_numbered_from_one_without_a_gap() -> None:
    steps = migrations()
    assert [number for number, _ in steps] == list(range(1, len(steps) + 1))


def test_an_empty_database_becomes_a_ledger_once(database: SqliteDatabase) -> None:
    assert not is_ledger(database)
    first = open_schema(database)
    assert is_ledger(database)
    assert version(database) == str(migrations()[-1][0])
    made = tables(database)
    expected = {
        "collections",
        "generations",
        "sources",
        "documents",
        "chunks",
        "states",
        "revisions",
        "embeddings",
        "events",
    }
    assert {f"sl_{name}" for name in expected} <= made.keys()
    assert open_schema(database) == first
    assert tables(database) == made
    assert len(first) == 32 and first != open_schema(SqliteDatabase(None))


def test_version_0_is_brought_to_the_newest(database: SqliteDatabase, tmp_path: Path) -> None:
    with database.write() as tx:
        tx.execute("CREATE TABLE sl_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        tx.execute("INSERT INTO sl_meta VALUES ('ledger_id', 'kept'), ('version', '0')")
    assert open_schema(database) == "kept"
    fresh = SqliteDatabase(tmp_path / "fresh.db")
    open_schema(fresh)
    assert tables(database) == tables(fresh)
    assert version(database) == version(fresh)


def test_only_the_missing_steps_are_run(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    open_schema(database)
    newest = migrations()[-1][0]
    steps = [
        *migrations(),
        (newest + 1, "CREATE TABLE sl_later (n INTEGER); -- why; not\nINSERT INTO sl_later VALUES (7)"),
    ]
    monkeypatch.setattr(schema, "migrations", lambda: steps)
    open_schema(database)
    open_schema(database)
    with database.read() as tx:
        assert tx.execute("SELECT n FROM sl_later").fetchall() == [(7,)]
    assert version(database) == str(newest + 1)


def test_the_numbers_of_callers_come_out_of_the_ledgers_count(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [step for step in migrations() if step[0] < 6]
    with monkeypatch.context() as older:
        older.setattr(schema, "migrations", lambda: before)
        open_schema(database)
    with database.write() as tx:
        tx.execute(
            "INSERT INTO sl_documents (document_key, collection_id, tenant_id, document_id, source_id, revision, "
            "next_revision, chunk_count, removed_at, updated_at) VALUES (1, 1, '', 'live', 1, 9, 12, 1, NULL, 0), "
            "(2, 1, '', 'removed', 1, 10, 10, 0, 5, 0), (3, 1, '', 'begun', 1, 0, 4, 0, NULL, 0)"
        )
        tx.execute(
            "INSERT INTO sl_revisions (document_key, revision, generation_id, base_revision, source_id, members, "
            "lease_owner, lease_until) VALUES (1, 12, 1, 9, 1, '[]', 'a', 0)"
        )
    open_schema(database)
    with database.read() as tx:
        assert tx.execute("SELECT fence FROM sl_documents ORDER BY document_key").fetchall() == [(9,), (9,), (0,)]
        assert tx.execute("SELECT fence FROM sl_revisions").fetchall() == [(12,)]


def test_a_step_that_fails_changes_nothing(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    open_schema(database)
    newest, before = migrations()[-1][0], tables(database)
    broken = [*migrations(), (newest + 1, "CREATE TABLE sl_later (n INTEGER); SELECT FROM nothing")]
    monkeypatch.setattr(schema, "migrations", lambda: broken)
    with pytest.raises(Exception, match="syntax"):
        open_schema(database)
    assert (version(database), tables(database)) == (str(newest), before)


def test_a_newer_ledger_is_refused_with_both_versions_named(database: SqliteDatabase) -> None:
    Ledger(database)
    newest = migrations()[-1][0]
    with database.write() as tx:
        tx.execute("UPDATE sl_meta SET value = ? WHERE key = 'version'", (str(newest + 1),))
    before = tables(database)
    with pytest.raises(LedgerTooNew, match=rf"version {newest + 1}.*up to {newest}.*pip install"):
        Ledger(database)
    assert tables(database) == before and version(database) == str(newest + 1)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        ("-- only a comment; with a semicolon\n", []),
        ("SELECT 1;", ["SELECT 1"]),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1 -- one; really\n, 2;\n\n;", ["SELECT 1 \n, 2"]),
    ],
)
def test_statements(script: str, expected: list[str]) -> None:
    assert statements(script) == expected
