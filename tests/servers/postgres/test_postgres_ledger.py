"""A ledger in Postgres keeps the promises that one in SQLite keeps: the same tests, and what many writers add.

The tests that come by `import *` run here with a collection whose ledger is in Postgres: see the fixtures.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crash_worker
import pytest
from counting import CountingEmbedder, chunks, contents, document, documents
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from places import Place
from postgres_engine import PostgresServer, database_of
from test_opening import *  # noqa: F403
from test_opening import TestOptions as TestOptionsOfOpen  # noqa: F401
from test_revisions import *  # noqa: F403
from test_revisions import revision_of, write
from test_search import *  # noqa: F403
from test_state_machine import _SETTINGS, Histories
from test_sync import *  # noqa: F403
from test_sync_all import *  # noqa: F403
from test_tenancy import *  # noqa: F403
from test_threads_and_fork import *  # noqa: F403
from test_under_a_handle import *  # noqa: F403

import shelflist
from shelflist.config import parse_url
from shelflist.core.errors import CollectionNotFound, ConfigError, InvalidInput, LedgerTooNew, StoreUnavailable
from shelflist.database import SqliteDatabase
from shelflist.ledger import schema
from shelflist.ledger.catalog import CollectionRecord
from shelflist.ledger.ledger import Ledger
from shelflist.ledger.schema import is_ledger, open_schema
from shelflist.postgres import PostgresDatabase, PostgresTransaction, database_from_url

Made = Callable[[], tuple[str, str]]


@dataclass
class PostgresPlace(Place):
    """A store of its own, and the ledger in a schema of Postgres."""

    server: PostgresServer | None = None
    schema: str = ""

    @property
    def apart(self) -> bool:
        return self.ledger is not None

    def databases(self) -> list[Path]:
        return [] if self.directory is None else [self.directory / "shelflist.db"]

    def sql(self, statement: str, *parameters: Any, ledger: bool = False) -> list[tuple[Any, ...]]:
        if not ledger and self.directory is not None:
            return super().sql(statement, *parameters)
        if "sqlite_master" in statement:
            statement = f"SELECT tablename FROM pg_tables WHERE schemaname = '{self.schema}'"
        database = database_from_url(parse_url(self.ledger or self.url))
        try:
            with database.write() as tx:
                return tx.execute(statement, parameters).fetchall()
        finally:
            database.close()


@pytest.fixture(scope="module")
def ledgers(postgres: PostgresServer) -> Made:
    """Makes an empty schema, which is quicker than a database; returns its name and its URL."""
    name = database_of(postgres.fresh())
    postgres.sql("CREATE EXTENSION vector", database=name)

    def made() -> tuple[str, str]:
        schema = f"s_{secrets.token_hex(6)}"
        postgres.sql(f"CREATE SCHEMA {schema}", database=name)
        return schema, postgres.url(name, socket=True, options=f"-c search_path={schema},public")

    return made


def place_with(kind: str, folder: Path, server: PostgresServer, made: tuple[str, str]) -> PostgresPlace:
    schema, ledger = made
    if kind == "pgvector":  # store and ledger in one database
        return PostgresPlace(ledger.replace("postgresql:", "pgvector:", 1), None, server=server, schema=schema)
    urls = {"late": f"late://{folder.name}-{schema}", "file": f"file:{folder / 'index'}"}
    return PostgresPlace(urls[kind], ledger, folder / "index" if kind == "file" else None, server=server, schema=schema)


@pytest.fixture(params=["late", "file", "pgvector"])
def place(request: pytest.FixtureRequest, folder: Path, postgres: PostgresServer, ledgers: Made) -> Iterator[Place]:
    found = place_with(request.param, folder, postgres, ledgers())
    yield found
    found.close()


@pytest.fixture
def directory(folder: Path, postgres: PostgresServer, ledgers: Made) -> Iterator[Place]:
    found = place_with("file", folder, postgres, ledgers())
    yield found
    found.close()


@pytest.fixture
def database(ledgers: Made) -> Iterator[PostgresDatabase]:
    found = database_from_url(parse_url(ledgers()[1]))
    yield found
    found.close()


class TestSchema:
    def test_it_has_the_columns_that_sqlite_has(self, database: PostgresDatabase) -> None:
        assert not is_ledger(database)
        open_schema(database)
        assert is_ledger(database)
        lite = SqliteDatabase(None)
        open_schema(lite)
        with lite.read() as tx:
            expected = set(
                tx.execute(
                    "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c "
                    "WHERE m.type = 'table' AND m.name LIKE 'sl_%' AND m.name <> 'sl_keys'"
                )
            )
        with database.read() as tx:
            found = set(
                tx.execute(
                    "SELECT table_name::text, column_name::text FROM information_schema.columns "
                    "WHERE table_schema = current_schema() AND table_name <> 'sl_lexemes'"
                )
            )
        assert found == expected

    def test_many_open_it_at_once_and_it_is_made_once(self, ledgers: Made) -> None:
        _, url = ledgers()
        names: list[str] = []
        errors: list[BaseException] = []

        def make() -> None:
            database = database_from_url(parse_url(url))
            try:
                names.append(open_schema(database))
            except BaseException as error:
                errors.append(error)
            finally:
                database.close()

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == [] and len(names) == 8 and len(set(names)) == 1

    def test_a_step_that_fails_changes_nothing(
        self, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_schema(database)
        steps = schema.migrations()
        broken = [*steps, (len(steps) + 1, "CREATE TABLE sl_later (n INTEGER); SELECT FROM nothing")]
        monkeypatch.setattr(schema, "migrations", lambda: broken)
        with pytest.raises(Exception, match="nothing"):
            open_schema(database)
        with database.read() as tx:
            assert tx.execute("SELECT to_regclass('sl_later')").fetchone() == (None,)
        good = [
            *steps,
            (len(steps) + 1, "CREATE TABLE sl_later (n INTEGER); -- why; not\nINSERT INTO sl_later VALUES (7)"),
        ]
        monkeypatch.setattr(schema, "migrations", lambda: good)
        open_schema(database)
        with database.read() as tx:
            assert tx.execute("SELECT n FROM sl_later").fetchall() == [(7,)]
        monkeypatch.undo()
        with pytest.raises(LedgerTooNew, match="pip install"):
            Ledger(database)

    def test_the_oldest_version_of_the_server_does(self, oldest_postgres: PostgresServer, folder: Path) -> None:
        url = oldest_postgres.fresh()
        with shelflist.open(f"file:{folder / 'index'}", "docs", embedder=CountingEmbedder(), ledger=url) as docs:
            docs.sync_all(documents(5), source="x")
            report = docs.sync_all(documents(3), source="x", delete="missing", allow_removal=True)
            assert (report.documents_unchanged, report.documents_removed) == (3, 2)
            assert docs.count() == 6 and docs.verify()["ok"]


class TestWhereItIs:
    def test_looking_makes_nothing(self, ledgers: Made, folder: Path, postgres: PostgresServer) -> None:
        _, url = ledgers()
        assert shelflist.collections("memory:", ledger=url) == []
        with pytest.raises(CollectionNotFound):
            shelflist.open("memory:", "docs", ledger=url, create=False)
        database = database_from_url(parse_url(url))
        assert not is_ledger(database)
        database.close()

    def test_a_ledger_that_is_the_stores_own_database_is_its_own(self, folder: Path) -> None:
        file = folder / "index" / "shelflist.db"
        with shelflist.open(f"file:{folder / 'index'}", "docs", embedder=CountingEmbedder()) as docs:
            docs.sync("a", chunks("text"))
        with shelflist.open(
            f"file:{folder / 'index'}", "docs", embedder=CountingEmbedder(), ledger=f"sqlite:{file}"
        ) as docs:
            assert docs._parts.ledger.database is docs._parts.store.database
            docs.sync("b", chunks("more"))
            assert docs.count() == 2

    def test_a_store_without_a_database_needs_to_be_told(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match=r"ledger=.*--ledger.*SHELFLIST_LEDGER"):
            shelflist.open(f"late://{folder.name}", "docs", embedder=CountingEmbedder())
        with pytest.raises(ConfigError, match=r"mysql.*not known.*postgresql://"):
            shelflist.open("memory:", "docs", embedder=CountingEmbedder(), ledger="mysql://h/d")


def test_a_check_that_was_planned_for_a_small_ledger_is_planned_anew(ledgers: Made) -> None:
    database = database_from_url(parse_url(f"{ledgers()[1]}&pool_size=1"))
    ledger = Ledger(database)
    docs = _collection(ledger)
    one = revision_of(ledger, docs, "first", *(f"first {i}" for i in range(10)))
    assert write(ledger, docs, one)
    ids = [chunk.point_id for chunk in one.new]
    prepared = "SELECT name, statement FROM pg_prepared_statements WHERE statement LIKE '%point_id = ANY%indexed%'"

    def plan() -> str:
        for _ in range(12):
            assert len(ledger.documents.live(docs.collection_id, docs.generation_id, ids, None)) == 10
        with database.read() as tx:
            ((name, _),) = tx.execute(prepared).fetchall()
            points = ", ".join(f"decode('{one.hex()}', 'hex')" for one in ids)
            rows = tx.execute(f'EXPLAIN EXECUTE "{name}" ({docs.generation_id}, {docs.generation_id}, ARRAY[{points}])')
            return "\n".join(line for (line,) in rows)

    assert "Seq Scan on sl_states" in plan()  # which is right for ten rows
    assert write(ledger, docs, revision_of(ledger, docs, "second", *(f"text {i}" for i in range(3_000))))
    assert "Seq Scan on sl_states" not in plan()
    database.close()


def test_an_id_that_is_too_long_for_an_index(ledgers: Made) -> None:
    """Random, as what repeats itself is packed and takes no room."""
    with shelflist.open(
        "late://" + secrets.token_hex(6), "docs", ledger=ledgers()[1], embedder=CountingEmbedder()
    ) as docs:
        docs.sync_all([document(secrets.token_hex(1_300), "fits"), document("é" * 1_300, "fits")])
        for name in (secrets.token_hex(1_301), secrets.token_hex(5_000), "é" * 1_301):
            with pytest.raises(InvalidInput, match=r"bytes. In a ledger in Postgres it may have 2,600") as found:
                docs.sync(name, chunks("too long"))
            assert len(str(found.value)) < 300
        assert docs.count() == 2


def test_a_query_of_stop_words_alone(ledgers: Made) -> None:
    with shelflist.open(
        "late://" + secrets.token_hex(6), "docs", ledger=ledgers()[1], embedder=CountingEmbedder()
    ) as docs:
        docs.sync_all([document("hamlet", "To be or not to be"), document("who", "The Who"), document("b", "words")])
        assert contents(docs.search("to be, or not?", mode="keyword")) == ["To be or not to be"]
        assert sorted(contents(docs.search("the not", mode="keyword"))) == ["The Who", "To be or not to be"]
        assert contents(docs.search("the words", mode="keyword")) == ["words"]
        assert contents(docs.search("?!", mode="keyword")) == []


class TestManyWriters:
    def test_the_second_of_two_that_begin_waits_and_loses(self, database: PostgresDatabase) -> None:
        ledger = Ledger(database)
        docs = _collection(ledger)
        first, second = revision_of(ledger, docs, "a", "first"), revision_of(ledger, docs, "a", "second")
        other, alone = revision_of(ledger, docs, "b", "other"), []
        began = threading.Event()

        def later() -> None:
            began.set()
            alone.append(ledger.revisions.begin(docs.collection_id, docs.generation_id, [other, second], durable=True))

        with database.write():
            assert ledger.revisions.begin(docs.collection_id, docs.generation_id, [first], durable=True) == []
            thread = threading.Thread(target=later)
            thread.start()
            began.wait()
            time.sleep(0.2)
            assert alone == []
        thread.join()
        assert alone == [[second]] and other.document_key and not second.document_key

    def test_one_that_begins_after_a_rollback_wins(self, database: PostgresDatabase) -> None:
        ledger = Ledger(database)
        docs = _collection(ledger)
        first, second = revision_of(ledger, docs, "a", "first"), revision_of(ledger, docs, "a", "second")
        won: list[bool] = []
        with pytest.raises(KeyboardInterrupt), database.write():
            ledger.revisions.begin(docs.collection_id, docs.generation_id, [first], durable=True)
            thread = threading.Thread(target=lambda: won.append(write(ledger, docs, second)))
            thread.start()
            time.sleep(0.1)
            raise KeyboardInterrupt
        thread.join()
        assert won == [True]

    def test_two_that_purge_share_the_work(self, database: PostgresDatabase) -> None:
        ledger = Ledger(database)
        docs = _collection(ledger)
        for name in "abcd":
            assert write(ledger, docs, revision_of(ledger, docs, name, "text"))
            assert write(ledger, docs, revision_of(ledger, docs, name))
        taken: list[int] = []

        def rest() -> None:
            with database.write():
                taken.extend(one.chunk_key for one in ledger.revisions.due(docs.generation_id, 10))

        with database.write():
            mine = [one.chunk_key for one in ledger.revisions.due(docs.generation_id, 3)]
            thread = threading.Thread(target=rest)
            thread.start()
            thread.join()
        assert len(mine) == 3 and len(taken) == 1 and not set(mine) & set(taken)

    def test_processes_that_write_the_same_documents_lose_none_and_never_lock_up(self, ledgers: Made) -> None:
        _, url = ledgers()
        database = database_from_url(parse_url(url))
        ledger = Ledger(database)
        docs = _collection(ledger)
        assert _in_processes(_churn, url) == []
        there = ledger.documents.present(docs.collection_id, "")
        assert len(there) == 40
        members = ledger.documents.members(docs.generation_id, [one.document_key for one in there])
        assert all(len(members[one.document_key]) == one.chunk_count == 2 for one in there)
        assert ledger.revisions.open_count(docs.generation_id) == 0
        database.close()

    def test_processes_that_write_points_and_ledger_in_one_transaction(self, ledgers: Made) -> None:
        url = ledgers()[1].replace("postgresql:", "pgvector:", 1)
        docs = shelflist.open(url, "docs", embedder=CountingEmbedder())
        assert _in_processes(_sync_often, url) == []
        assert docs.count() == 60 and docs.verify()["ok"]
        docs.purge()
        assert docs.status()["chunks"] == {"pending": 0, "indexed": 60, "stale": 0, "failed": 0, "condemned": 0}
        docs.close()


def _in_processes(work: Callable[[str, int], None], url: str, number: int = 3) -> list[str]:
    """What went wrong in each process of a few that do the same."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    writers = [context.Process(target=_telling, args=(work, url, i, results)) for i in range(number)]
    for writer in writers:
        writer.start()
    said = [results.get(timeout=300) for _ in writers]
    for writer in writers:
        writer.join()
    return [one for one in said if one]


def _telling(work: Callable[[str, int], None], url: str, number: int, results: Any) -> None:
    try:
        work(url, number)
        results.put("")
    except BaseException:
        results.put(traceback.format_exc())


def _collection(ledger: Ledger, name: str = "docs") -> CollectionRecord:
    from shelflist.core.fields import Fields

    return ledger.catalog.create(
        name,
        tenancy="none",
        fields=Fields(),
        target_recall=0.95,
        embedder=None,
        fingerprint="x",
        dimensions=2,
        metric="cosine",
        index=None,
    )


def _churn(url: str, number: int) -> None:
    """Gives the same forty documents content of its own, in an order of its own, again and again."""
    database = database_from_url(parse_url(url))
    ledger = Ledger(database)
    docs = ledger.catalog.find("docs")
    assert docs is not None
    order = random.Random(number)
    for turn in range(25):
        names = order.sample([f"d{i}" for i in range(40)], 40 if turn % 5 == 0 else 15)
        planned = [revision_of(ledger, docs, name, f"{number} {turn} one", "two") for name in names]
        lost = ledger.revisions.begin(docs.collection_id, docs.generation_id, planned, durable=True)
        begun = [one for one in planned if one not in lost]
        ledger.revisions.acknowledge(docs.generation_id, [new.chunk_key for one in begun for new in one.new])
        ledger.revisions.switch(docs.generation_id, begun, grace=0, durable=True)
        with database.write():
            due = ledger.revisions.due(docs.generation_id, 20)
            ledger.revisions.purged(docs.generation_id, [one.chunk_key for one in due])
    database.close()


def _sync_often(url: str, number: int) -> None:
    order = random.Random(number)
    with shelflist.open(url, "docs", embedder=CountingEmbedder()) as docs:
        for turn in range(8):
            names = order.sample([f"d{i}" for i in range(30)], 30 if turn in (0, 7) else 12)
            # The same texts in many documents: the cache of vectors is written by everybody too.
            report = docs.sync_all([document(name, f"text {order.randrange(9)}", f"{name} {turn}") for name in names])
            assert report.failed == 0, report.failures


def test_random_histories(postgres: PostgresServer, ledgers: Made) -> None:
    class PostgresHistories(Histories):
        kind = "postgres"

        def make_place(self, folder: Path) -> Place:
            return place_with("file", folder, postgres, ledgers())

    run_state_machine_as_test(PostgresHistories, settings=settings(_SETTINGS, max_examples=8))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_kill_9_of_a_writer_loses_nothing(
    ledgers: Made, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = ledgers()
    monkeypatch.setattr(
        crash_worker.Trial, "_job", lambda self: {"url": f"file:{self.directory / 'index'}", "ledger": url}
    )
    monkeypatch.setattr(crash_worker, "count_statements", _count_statements)
    trial = crash_worker.Trial(tmp_path, seed=seed, separate_ledger=True)
    trial.run(kills=8)
    assert trial.kills >= 8 and trial.embedded > 0


def _count_statements(fatal: int | None) -> list[int]:
    """Counts what this process asks of the ledger, and kills it before the question with the number `fatal`."""
    counted = [0]
    run = PostgresTransaction._run

    def counting(self: PostgresTransaction, call: Any) -> Any:
        counted[0] += 1
        if counted[0] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, call)

    PostgresTransaction._run = counting  # type: ignore[method-assign]
    return counted


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["shutdown", "crash"])
def test_a_load_goes_on_after_a_restart_of_the_server(
    postgres: PostgresServer, ledgers: Made, folder: Path, how: signal.Signals
) -> None:
    _, url = ledgers()
    docs = shelflist.open(f"file:{folder / 'index'}", "docs", embedder=CountingEmbedder(), ledger=url)
    docs.sync_all(documents(3), source="x")

    def stream() -> Iterator[shelflist.Document]:
        yield from documents(1_500)
        postgres.stop(how)
        yield document("last", "the last")

    with pytest.raises(StoreUnavailable, match=r"postgresql:///.*cannot be reached.*run this again") as caught:
        docs.sync_all(stream(), source="x")
    assert "p@ss" not in str(caught.value) and "p%40ss" not in str(caught.value)
    postgres.start()
    embedder = docs.embedder
    assert len(docs.search("d1 first", limit=1)) == 1
    report = docs.sync_all([*documents(1_500), document("last", "the last")], source="x")
    assert report.failed == 0 and report.documents_unchanged >= 3
    assert docs.count() == 3_001 and docs.verify()["ok"]
    assert embedder is not None
    docs.close()


def test_a_restart_between_two_calls_goes_unnoticed(postgres: PostgresServer, ledgers: Made, folder: Path) -> None:
    _, url = ledgers()
    with shelflist.open(f"file:{folder / 'index'}", "docs", embedder=CountingEmbedder(), ledger=url) as docs:
        docs.sync("a", chunks("one", "two"))
        postgres.restart()
        assert contents(docs.search("one")) == ["one", "two"]
        postgres.restart(signal.SIGQUIT)
        docs.sync("b", chunks("three"))
        assert docs.count() == 3
