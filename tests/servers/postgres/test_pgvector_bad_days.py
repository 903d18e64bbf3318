"""What goes wrong with a Postgres store: a refused row, a killed build, a restart, a missing extension, a foreign table."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from counting import CountingEmbedder
from postgres_engine import NEWEST, PostgresServer, database_of, running, small_disk
from tls_proxy import certificate, tls_before

import shelflist
from shelflist import Chunk, Document
from shelflist.config import parse_url
from shelflist.core.errors import (
    LedgerBusy,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreTimeout,
    StoreUnavailable,
    Transient,
)
from shelflist.core.fields import Fields
from shelflist.core.types import Hnsw, SearchParams, Vector
from shelflist.postgres.transaction import PostgresTransaction
from shelflist.stores import _connect
from shelflist.stores.pgvector import upkeep
from shelflist.stores.pgvector.store import PgvectorStore
from shelflist.stores.pgvector.upkeep import Upkeep
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import make_point, make_points, point_id, random_vectors

SPEC = GenerationSpec("sl_days_1", 16, index=Hnsw(indexing_threshold=100), fields=Fields({"n": int}))


def opened(url: str) -> PgvectorStore:
    return PgvectorStore.at(parse_url(url), busy_timeout=10.0)


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.fresh(scheme="pgvector")


@pytest.fixture
def store(url: str) -> Iterator[PgvectorStore]:
    store = opened(url)
    store.create(SPEC)
    yield store
    store.close()


def search(store: PgvectorStore, spec: GenerationSpec = SPEC) -> int:
    return len(store.search(spec, random_vectors(1, seed=9)[0], limit=5, scope=Scope(), params=SearchParams()).items)


def test_one_bad_item_takes_no_other_with_it(store: PgvectorStore, postgres: PostgresServer, url: str) -> None:
    postgres.sql("ALTER TABLE sl_days_1 ADD CHECK (document_id <> 'p137.md')", database=database_of(url))
    points = make_points("p", 300, seed=1)
    result = store.upsert(SPEC, points)
    assert set(result.failed) == {point_id("p137")} and "check" in result.failed[point_id("p137")]
    assert len(result.stored) == 299
    assert {one for one, _ in store.scan(SPEC)} == set(result.stored)
    assert len(store.keyword_search(SPEC, "shelf", limit=400, scope=Scope()).items) == 299


@pytest.mark.parametrize("rest", [2, 299], ids=["few rows", "copied"])
def test_one_item_that_cannot_be_sent_takes_no_other_with_it(store: PgvectorStore, rest: int) -> None:
    """Values that fail on this side of the connection, before the server has seen them."""
    row = random_vectors(1, seed=2)[0]
    bad = [
        replace(make_point("text", row), metadata={"n": "1999"}),
        replace(make_point("large", row), metadata={"n": 2**70}),
        make_point("half a character", row, document_id="\ud800"),
    ]
    good = make_points("p", rest, seed=1)
    result = store.upsert(SPEC, [bad[0], *good, *bad[1:]])
    assert set(result.failed) == {one.point_id for one in bad}
    assert all(result.failed.values())
    assert sorted(result.stored) == sorted(one.point_id for one in good)
    assert {one for one, _ in store.scan(SPEC)} == set(result.stored)
    assert len(store.keyword_search(SPEC, "shelf", limit=400, scope=Scope()).items) == rest


def test_one_bad_item_inside_a_callers_transaction(store: PgvectorStore, postgres: PostgresServer, url: str) -> None:
    postgres.sql("ALTER TABLE sl_days_1 ADD CHECK (document_id <> 'p1.md')", database=database_of(url))
    with store.database.write() as tx:
        tx.execute("CREATE TABLE beside (n integer)")
        assert set(store.upsert(SPEC, make_points("p", 3, seed=1)).failed) == {point_id("p1")}
    assert store.count(SPEC, Scope()) == 2
    assert postgres.sql("SELECT count(*) FROM beside", database=database_of(url)) == [(0,)]


def valid(postgres: PostgresServer, url: str) -> list[tuple[bool]]:
    return postgres.sql(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('sl_days_1_vector')", database=database_of(url)
    )


def test_an_index_that_a_killed_build_has_left_is_mended(
    store: PgvectorStore, postgres: PostgresServer, url: str
) -> None:
    vectors = random_vectors(8_000, seed=3)
    store.upsert(SPEC, [make_point(f"p{i}", row) for i, row in enumerate(vectors)])
    building = "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database()"
    with ThreadPoolExecutor(1) as threads:
        build = threads.submit(store.build, SPEC)
        deadline = time.monotonic() + 60
        while not (found := postgres.sql(building, database=database_of(url))) and time.monotonic() < deadline:
            time.sleep(0.01)
        postgres.sql("SELECT pg_terminate_backend(%s)", found[0][0], database=database_of(url))
        with pytest.raises(StoreUnavailable):
            build.result()
    assert valid(postgres, url) == [(False,)]
    other = opened(url)
    assert search(other) == 5, "exact until the index can be used"
    other.build(SPEC)
    assert valid(postgres, url) == [(True,)]
    assert "HNSW" in other.search(SPEC, vectors[0], limit=5, scope=Scope(), params=SearchParams()).plan
    other.close()


def test_repair_mends_an_index_and_says_so(store: PgvectorStore, postgres: PostgresServer, url: str) -> None:
    store.upsert(SPEC, make_points("p", 200, seed=1))
    store.build(SPEC)
    broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass('sl_days_1_vector')"
    postgres.sql(broken, database=database_of(url))
    assert any("sl_days_1_vector" in line for line in store.repair(SPEC))
    assert valid(postgres, url) == [(True,)] and search(store) == 5
    assert not any("sl_days_1_vector" in line for line in store.repair(SPEC))


def test_two_builders_at_once(store: PgvectorStore, postgres: PostgresServer, url: str) -> None:
    store.upsert(SPEC, make_points("p", 3_000, seed=1))
    handles = [store, opened(url), opened(url)]
    with ThreadPoolExecutor(3) as threads:
        for work in [threads.submit(handle.build, SPEC) for handle in handles]:
            work.result()
    assert valid(postgres, url) == [(True,)]
    for handle in handles[1:]:
        handle.close()


def test_no_pgvector_and_no_right_to_add_it(postgres: PostgresServer) -> None:
    name = database_of(postgres.fresh())
    postgres.sql("DROP ROLE IF EXISTS reader")
    postgres.sql("CREATE ROLE reader LOGIN PASSWORD 'secret-of-reader'")
    store = opened(postgres.url(name, scheme="pgvector", user="reader", password="secret-of-reader"))
    with pytest.raises(StoreError, match="CREATE EXTENSION vector;") as found:
        store.create(SPEC)
    assert "secret" not in str(found.value) and "127.0.0.1" in str(found.value)
    store.close()
    postgres.sql(f"DROP DATABASE {name}")
    postgres.sql("DROP ROLE reader")


def test_a_pgvector_that_is_too_old(
    store: PgvectorStore, url: str, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.read_marker("docs") is None
    monkeypatch.setattr("shelflist.stores.pgvector.schema._OLDEST", (99, 0))
    for ask in (lambda: opened(url).read_marker("docs"), lambda: opened(url).create(SPEC)):
        with pytest.raises(StoreError, match=r"pgvector \d.*ALTER EXTENSION vector UPDATE"):
            ask()


def test_a_database_that_is_not_in_utf8(postgres: PostgresServer) -> None:
    postgres.sql("DROP DATABASE IF EXISTS latin")
    postgres.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    store = opened(postgres.url("latin", scheme="pgvector"))
    with pytest.raises(StoreError, match=r"LATIN1.*createdb --encoding=UTF8"):
        store.create(SPEC)
    store.close()


def test_a_table_that_somebody_else_made(store: PgvectorStore, postgres: PostgresServer, url: str) -> None:
    postgres.sql("CREATE TABLE sl_theirs_1 (id integer); INSERT INTO sl_theirs_1 VALUES (7)", database=database_of(url))
    with pytest.raises(StoreMismatch, match="sl_theirs_1"):
        store.create(GenerationSpec("sl_theirs_1", 16))
    store.drop("sl_theirs_1")
    assert postgres.sql("SELECT id FROM sl_theirs_1", database=database_of(url)) == [(7,)]


def test_what_was_dropped_behind_our_back(store: PgvectorStore) -> None:
    store.drop(SPEC.name)
    for ask in (lambda: search(store), lambda: store.count(SPEC, Scope()), lambda: store.build(SPEC)):
        with pytest.raises(StoreError, match="sl_days_1"):
            ask()


def test_wrong_port_and_wrong_password(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "_FIRST_PAUSE", 0.01)
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        opened("pgvector://postgres:hush@127.0.0.1:9/postgres").create(SPEC)
    with pytest.raises(StoreDenied, match="refuses") as found:
        opened(postgres.url(scheme="pgvector", password="not-the-one")).create(SPEC)
    assert "not-the-one" not in str(found.value)
    with pytest.raises(StoreError, match="sslmode"):
        opened(postgres.url(scheme="pgvector", sslmode="require")).create(SPEC)


def test_tls_with_a_certificate_of_ones_own(postgres: PostgresServer, tmp_path: Path) -> None:
    """The wheel's server speaks no TLS: a proxy does it in its place, as Postgres would."""
    signed, key = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = certificate(tmp_path / "other")
    url = postgres.fresh(scheme="pgvector")
    with tls_before(postgres.port, signed, key, asked_first=True) as port:
        behind = url.replace(f":{postgres.port}/", f":{port}/")
        store = opened(f"{behind}?sslmode=verify-full&sslrootcert={signed}")
        store.create(SPEC)
        assert len(store.upsert(SPEC, make_points("p", 300, seed=1)).stored) == 300
        assert search(store) == 5
        store.close()
        for options in ("sslmode=verify-full&sslrootcert=/nowhere.pem", f"sslmode=verify-full&sslrootcert={other}"):
            with pytest.raises(StoreError, match=r"TLS cannot be agreed on.*certificate.*sslrootcert") as found:
                opened(f"{behind}?{options}").create(SPEC)
            assert "p%40ss" not in str(found.value) and not isinstance(found.value, Transient)


def test_a_time_out_names_the_option(store: PgvectorStore, postgres: PostgresServer, url: str) -> None:
    store.upsert(SPEC, make_points("p", 3, seed=1))
    impatient = opened(f"{url}?timeout=0.3")
    with store.database.write() as tx:
        tx.execute("LOCK TABLE sl_days_1 IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreTimeout, match="timeout="):
            search(impatient)
    assert search(impatient) == 3
    impatient.close()


def test_the_time_out_is_not_for_upkeep(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = opened(f"{url}?timeout=0.3&pool_size=1")
    impatient.create(SPEC)
    assert not impatient.upsert(SPEC, make_points("p", 300, seed=1)).failed
    slow: list[str] = []

    def vacuum(self: Upkeep, tx: PostgresTransaction) -> None:
        tx.execute("SELECT pg_sleep(0.5)")
        slow.append("vacuum")

    def queries(tx: PostgresTransaction, spec: GenerationSpec) -> tuple[list[Vector], list[Vector]]:
        tx.execute("SELECT pg_sleep(0.5)")
        slow.append("measure")
        return [], []

    monkeypatch.setattr(Upkeep, "_vacuum", vacuum)
    monkeypatch.setattr(upkeep, "_queries", queries)
    Upkeep(impatient.database, SPEC).run()
    Upkeep(impatient.database, SPEC).measure(300)
    assert slow == ["vacuum", "measure"]
    with pytest.raises(StoreTimeout), impatient.database.write() as tx:  # on the same connection, since
        tx.execute("SELECT pg_sleep(0.5)")
    impatient.close()


def test_two_writers_of_the_same_points_in_opposite_order(store: PgvectorStore, url: str) -> None:
    """They wait for each other in a circle, Postgres stops one, and that one tries again."""
    other = opened(url)
    points = make_points("p", 2_000, seed=1)
    started = threading.Barrier(2)

    def write(handle: PgvectorStore, own: list[object]) -> None:
        started.wait()
        assert not handle.upsert(SPEC, own).failed  # type: ignore[arg-type]

    with ThreadPoolExecutor(2) as threads:
        for work in [threads.submit(write, store, points), threads.submit(write, other, points[::-1])]:
            work.result()
    assert store.count(SPEC, Scope()) == 2_000
    other.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["shutdown", "crash"])
def test_a_restart_in_the_middle_of_a_load(how: signal.Signals) -> None:
    """Nothing that was acknowledged is lost, and the load goes on, by itself or when it is run again."""
    with running(NEWEST) as server:
        store = opened(server.fresh(scheme="pgvector"))
        store.create(SPEC)
        points = [make_point(f"p{i}", row) for i, row in enumerate(random_vectors(6_000, seed=1))]
        batches = [points[start : start + 500] for start in range(0, 6_000, 500)]
        acknowledged: set[bytes] = set()
        half = threading.Event()

        def load() -> None:
            for number, batch in enumerate(batches):
                for _ in range(5):
                    try:
                        acknowledged.update(store.upsert(SPEC, batch).stored)
                        break
                    except Transient:
                        continue
                if number == 3:
                    half.set()

        with ThreadPoolExecutor(1) as threads:
            loading = threads.submit(load)
            half.wait(60)
            server.restart(how)
            loading.result()
        store.build(SPEC)
        assert acknowledged == {point.point_id for point in points}
        assert {one for one, _ in store.scan(SPEC)} == acknowledged
        assert search(store) == 5
        server.stop()
        with pytest.raises((StoreUnavailable, LedgerBusy)) as found:
            search(store)
        assert "127.0.0.1" in str(found.value) and "p%40ss" not in str(found.value)
        server.start()
        assert search(store) == 5
        store.close()


def test_the_disk_is_full_in_the_middle_of_a_load(postgres: PostgresServer) -> None:
    """With room again the same command finishes the load: nothing is lost, nothing is there twice."""
    name = database_of(postgres.fresh())
    documents = [Document(f"d{i}", [Chunk(f"text {i} {n} " + "heron " * 80) for n in range(5)]) for i in range(6_000)]
    whole = 30_000
    with small_disk(postgres, 160) as disk:
        postgres.sql(f"CREATE TABLESPACE tight_{name} LOCATION '{disk}'")
        url = postgres.url(name, scheme="pgvector", options=f"-c default_tablespace=tight_{name}")
        with shelflist.open(url, "docs", embedder=CountingEmbedder()) as docs:
            ballast = disk / "ballast"
            with ballast.open("wb") as file:
                file.write(bytes(shutil.disk_usage(disk).free - 40_000_000))
            with pytest.raises(StoreFull, match=r"127\.0\.0\.1.*no space is left.*run the same command again") as found:
                docs.sync_all(documents)
            assert "p%40ss" not in str(found.value) and not isinstance(found.value, Transient)
            kept = docs.count()
            assert 0 < kept < whole, kept
            ballast.unlink()
            report = docs.sync_all(documents)
            assert (report.unchanged, report.added, report.failed, docs.count()) == (kept, whole - kept, 0, whole)
            assert docs.verify()["ok"]
        postgres.sql(f"DROP DATABASE {name} (FORCE)")
        postgres.sql(f"DROP TABLESPACE tight_{name}")


@pytest.mark.parametrize("bad", [["d7"], ["d0", "d1", "d2"]], ids=["one", "all that change"])
def test_a_document_that_the_store_refuses_takes_no_other_with_it(
    postgres: PostgresServer, url: str, bad: list[str]
) -> None:
    """Though the ledger commits together with the store, it says that it has what the store has taken, and no more."""
    embedder = CountingEmbedder()
    with shelflist.open(url, "docs", embedder=embedder) as docs:
        docs.sync_all([Document(f"d{i}", [Chunk(f"old text {i}")]) for i in range(10)])
        table = docs._parts.spec.name
        names = ", ".join(f"'{one}'" for one in bad)
        refusing = f"ALTER TABLE {table} ADD CONSTRAINT picky CHECK (document_id NOT IN ({names})) NOT VALID"
        postgres.sql(refusing, database=database_of(url))
        numbers = range(3 if len(bad) == 3 else 10)
        changed = [Document(f"d{i}", [Chunk(f"new text {i}"), Chunk(f"more text of {i}")]) for i in numbers]
        report = docs.sync_all(changed)
        assert {failure.document_id for failure in report.failures} == set(bad)
        assert report.documents_failed == len(bad) and all("picky" in failure.error for failure in report.failures)
        found = {hit.content for hit in docs.search("text", limit=50) if hit.document_id in bad}
        assert found == {f"old text {one[1:]}" for one in bad}
        assert docs.count() == 20 - (10 - len(numbers)) - len(bad) and docs.verify()["ok"]
        postgres.sql(f"ALTER TABLE {table} DROP CONSTRAINT picky", database=database_of(url))
        embedder.take()
        assert docs.sync_all(changed).documents_failed == 0
        assert embedder.take() == [], "what was refused is kept, and not paid for again"
        assert docs.count() == 10 + len(numbers) and docs.verify()["ok"]


def test_the_module_needs_no_client() -> None:
    source = Path(__file__).parents[3] / "src" / "shelflist" / "stores"
    for path in source.glob("pgvector/*.py"):
        assert "import psycopg" not in path.read_text() and "import pgvector" not in path.read_text()
