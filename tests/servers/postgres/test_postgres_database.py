"""`PostgresDatabase` against a real server: values, transactions, the pool, forks, and every bad day with one clear error."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from engines import free_port
from postgres_engine import PostgresServer, database_of, small_disk

from shelflist.config import parse_url
from shelflist.core.errors import (
    ConfigError,
    LedgerBusy,
    ShelflistError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
    Transient,
)
from shelflist.postgres import PostgresDatabase, Wire, database_from_url
from shelflist.postgres.database import Link


@pytest.fixture(scope="module")
def url(postgres: PostgresServer) -> str:
    made = postgres.fresh()
    postgres.sql(
        "CREATE TABLE t (id bigint PRIMARY KEY, a text, b bytea, c text[], d double precision)",
        database=database_of(made),
    )
    postgres.sql("CREATE EXTENSION vector", database=database_of(made))
    return made


@pytest.fixture
def database(url: str) -> Iterator[PostgresDatabase]:
    found = database_from_url(parse_url(url), busy_timeout=0.5)
    with found.write() as tx:
        tx.execute("DELETE FROM t")
    yield found
    found.close()


def at(url: str, **options: Any) -> PostgresDatabase:
    return database_from_url(parse_url(url), **options)


def ask(database: PostgresDatabase, sql: str = "SELECT 1", parameters: Any = ()) -> list[tuple[Any, ...]]:
    with database.read() as tx:
        return tx.execute(sql, parameters).fetchall()


def connections(server: PostgresServer, url: str) -> int:
    ((number,),) = server.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", database_of(url))
    return int(number)


class TestValues:
    ROWS = (
        (1, "", b"", [], 0.0),
        (2, "a\0b\1c\1\1\1\2", b"\0\xff", ["\0", "x", "\1"], -0.0),
        (3, 'it\'s "%s" % ? $1 \\ \n \U0001f600', None, None, 1e-320),
        (2**62, "\x00", b"x" * 5000, ["ä" * 2000], 0.1),
    )

    @pytest.mark.parametrize("number", [1, 300], ids=["insert", "copy"])
    def test_everything_comes_back_as_it_went(self, database: PostgresDatabase, number: int) -> None:
        rows = [(key + 10 * i, *rest) for i in range(number) for key, *rest in self.ROWS]
        with database.write() as tx:
            tx.insert("t", rows)
        with database.read() as tx:
            found = tx.execute("SELECT id, a, b, c, d FROM t ORDER BY id").fetchall()
        assert sorted(map(repr, found)) == sorted(map(repr, rows))
        assert {type(value) for row in found for value in row} == {int, str, bytes, list, float, type(None)}

    def test_a_text_with_nul_is_found_and_sorted_by_code_point(self, database: PostgresDatabase) -> None:
        texts = [
            "",
            "\0",
            "\0\0",
            "\0a",
            "\1",
            "\1\0",
            "\1\1",
            "\2",
            "a",
            "a\0",
            "a\0b",
            "a\1",
            "ab",
            "é",
            "\U0001f600",
        ]
        with database.write() as tx:
            tx.insert("t (id, a)", list(enumerate(texts)))
        assert [one for (one,) in ask(database, 'SELECT a FROM t ORDER BY a COLLATE "C"')] == sorted(texts)
        for number, text in enumerate(texts):
            assert ask(database, "SELECT id FROM t WHERE a = ?", (text,)) == [(number,)]
            assert ask(database, "SELECT id FROM t WHERE a = ANY(?::text[])", ([text],)) == [(number,)]
            starts = {i for i, one in enumerate(texts) if one.startswith(text)}
            assert {i for (i,) in ask(database, "SELECT id FROM t WHERE starts_with(a, ?)", (text,))} == starts

    def test_question_marks_stand_for_values_outside_of_literals(self, database: PostgresDatabase) -> None:
        sql = """SELECT '?', E'\\'?', "one?", $$?$$, $x$ ? $$ $x$, 5 % ?, '{"k": 1}'::jsonb ?? 'k' -- ?
            FROM (SELECT 1 AS "one?") AS q /* ? */ WHERE ? = 7"""
        assert ask(database, sql, (3, 7)) == [("?", "'?", 1, "?", " ? $$ ", 2, True)]

    def test_a_type_that_nobody_knows_goes_as_it_is(self, database: PostgresDatabase) -> None:
        import struct

        value = struct.pack(">HH2f", 2, 0, 3.0, 4.0)
        with database.write() as tx:
            tx.execute("CREATE TABLE v (id bigint, v vector(2))")
            tx.insert("v", [(1, value)])
            tx.insert("v", [(i, value) for i in range(2, 500)])
        try:
            assert ask(database, "SELECT v, v <-> ?::vector FROM v WHERE id = 499", (Wire(value),)) == [(value, 0.0)]
        finally:
            with database.write() as tx:
                tx.execute("DROP TABLE v")

    def test_ints_of_every_size_make_one_statement(self, database: PostgresDatabase) -> None:
        with database.read() as tx:
            for value in (1, 2**20, 2**40) * 8:
                assert tx.execute("SELECT ? + 1", (value,)).fetchone() == (value + 1,)
            sql = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1 + 1'"
            assert tx.execute(sql).fetchone() == (1,)


class TestTransactions:
    def test_a_read_is_one_moment(self, database: PostgresDatabase, url: str) -> None:
        other = at(url)
        with database.read() as tx:
            before = tx.execute("SELECT count(*) FROM t").fetchone()
            with other.write() as writing:
                writing.execute("INSERT INTO t (id) VALUES (1)")
            assert tx.execute("SELECT count(*) FROM t").fetchone() == before == (0,)
            with database.read(single=True) as again:
                assert again is tx
            with pytest.raises(StoreReadOnly, match="read-only"):
                tx.execute("INSERT INTO t (id) VALUES (2)")
        assert ask(database, "SELECT count(*) FROM t") == [(1,)]
        other.close()

    def test_a_write_is_all_or_nothing_and_nests(self, database: PostgresDatabase) -> None:
        with pytest.raises(ZeroDivisionError), database.write() as tx:
            tx.execute("INSERT INTO t (id) VALUES (1)")
            with database.write() as inner:
                assert inner is tx
                inner.execute("INSERT INTO t (id) VALUES (2)")
            with database.read() as inner:
                assert inner.execute("SELECT count(*) FROM t").fetchone() == (2,)
            raise ZeroDivisionError
        assert ask(database, "SELECT count(*) FROM t") == [(0,)]
        with pytest.raises(AssertionError), database.read(), database.write():
            pass

    def test_an_error_that_was_swallowed_does_not_commit_silently(self, database: PostgresDatabase) -> None:
        with pytest.raises(StoreError, match="nothing was committed"), database.write() as tx:
            tx.execute("INSERT INTO t (id) VALUES (1)")
            with pytest.raises(StoreError, match="duplicate key"):
                tx.execute("INSERT INTO t (id) VALUES (1)")
        assert ask(database, "SELECT count(*) FROM t") == [(0,)]

    def test_settings_go_with_the_connection_and_not_into_others_work(self, url: str) -> None:
        database = at(f"{url}?pool_size=1")
        show = "SELECT current_setting('work_mem'), current_setting('lock_timeout')"
        ((default, _),) = ask(database, show)
        with database.read(single=True) as tx:
            tx.settings({"work_mem": "77MB"})
            tx.settings({"work_mem": "77MB"})
            assert tx.execute(show).fetchone() == ("77MB", "0")
        with database.read() as tx:
            tx.settings({"lock_timeout": "9s"})
            assert tx.execute(show).fetchone() == (default, "9s")
        with pytest.raises(ZeroDivisionError), database.write() as tx:
            tx.settings({"work_mem": "66MB"})
            raise ZeroDivisionError
        with database.read() as tx:
            tx.settings({"work_mem": "66MB"})
            assert tx.execute(show).fetchone() == ("66MB", "0")
            tx.settings({})
            assert tx.execute(show).fetchone() == (default, "0")
        database.close()

    def test_what_cannot_run_in_a_transaction_runs_alone(self, database: PostgresDatabase) -> None:
        with database.alone() as tx:
            tx.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS t_a ON t (a)")
            tx.execute("VACUUM t")
        with pytest.raises(AssertionError), database.write(), database.alone():
            pass

    def test_one_statement_costs_one_round_trip(
        self, database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands: list[bytes] = []
        command = Link.command
        monkeypatch.setattr(Link, "command", lambda self, sql: (commands.append(sql), command(self, sql)))
        with database.read(single=True) as tx:
            tx.execute("SELECT 1")
        assert commands == []
        with database.read() as tx:
            tx.execute("SELECT 1")
            tx.execute("SELECT 2")
        assert [sql[:5] for sql in commands] == [b"BEGIN", b"COMMI"]
        with database.read(), database.read():
            pass
        assert len(commands) == 2


class TestIdentity:
    def test_two_doors_to_one_database_are_one(
        self, postgres: PostgresServer, url: str, database: PostgresDatabase
    ) -> None:
        name = database_of(url)
        socket = at(postgres.url(name, socket=True, scheme="pgvector"))
        other = at(postgres.fresh())
        schema = at(postgres.url(name, options="-c search_path=pg_catalog"))
        assert socket.identity == database.identity
        assert len({one.identity for one in (database, other, schema)}) == 3
        for one in (socket, other, schema):
            one.close()

    def test_a_user_without_rights_has_an_identity_too(self, postgres: PostgresServer, url: str) -> None:
        postgres.sql("CREATE ROLE plain LOGIN PASSWORD 'x'")
        plain = at(postgres.url(database_of(url), user="plain", password="x"))
        assert plain.identity == at(url).identity
        with pytest.raises(StoreDenied, match=r"permission denied for table t\. Grant"):
            ask(plain, "SELECT * FROM t")
        with pytest.raises(StoreDenied, match="permission denied for schema public"), plain.write() as tx:
            tx.execute("CREATE TABLE mine (n int)")
        plain.close()

    def test_a_server_that_does_not_tell_of_its_cluster(self, postgres: PostgresServer) -> None:
        name = database_of(postgres.fresh())
        postgres.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public", database=name)
        postgres.sql("CREATE ROLE modest LOGIN PASSWORD 'x'")
        one, other = (at(postgres.url(name, user="modest", password="x", socket=socket)) for socket in (True, False))
        assert one.identity == other.identity != ""
        one.close()
        other.close()

    def test_the_clock_is_the_servers(self, database: PostgresDatabase) -> None:
        ((said,),) = ask(database, "SELECT extract(epoch FROM clock_timestamp())::float8")
        assert abs(database.now() - said) < 1.0


class TestPool:
    def test_nothing_is_opened_before_it_is_needed_and_little_is_kept(self, postgres: PostgresServer, url: str) -> None:
        before = connections(postgres, url)
        database = at(url)
        assert connections(postgres, url) == before
        for _ in range(20):
            ask(database)
        assert connections(postgres, url) == before + 1
        database.close()
        database.close()
        assert ask(database) == [(1,)]
        database.close()

    def test_threads_share_a_bounded_number(self, postgres: PostgresServer, url: str) -> None:
        before = connections(postgres, url)
        database = at(f"{url}?pool_size=3")
        errors: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(20):
                    assert ask(database, "SELECT ?", (7,)) == [(7,)]
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == [] and connections(postgres, url) - before <= 3
        database.close()

    def test_a_pool_that_is_used_up_says_so(self, url: str) -> None:
        database = at(f"{url}?pool_size=1", busy_timeout=0.2)
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                ask(database)
            except BaseException as error:
                caught.append(error)

        with database.read() as tx:
            tx.execute("SELECT 1")
            thread = threading.Thread(target=wait)
            thread.start()
            thread.join()
        assert len(caught) == 1 and isinstance(caught[0], StoreTimeout) and "pool_size" in str(caught[0])
        assert ask(database) == [(1,)]
        database.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
    @pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
    def test_a_child_has_its_own_and_leaves_its_parents_alone(self, database: PostgresDatabase) -> None:
        pid = "SELECT pg_backend_pid()"
        ((mine,),) = ask(database, pid)
        with database.write() as tx:
            tx.execute("INSERT INTO t (id) VALUES (1)")
            child = os.fork()
            if child == 0:
                try:
                    ((theirs,),) = ask(database, pid)  # not the parent's transaction either
                    good = theirs != mine and ask(database, "SELECT count(*) FROM t") == [(0,)]
                    database.close()
                    os._exit(0 if good else 1)
                except BaseException:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            tx.execute("INSERT INTO t (id) VALUES (2)")
        assert ask(database, "SELECT count(*) FROM t") == [(2,)]
        assert ask(database, pid) == [(mine,)]

    def test_one_that_nobody_closes_goes_with_its_owner(self, postgres: PostgresServer, url: str) -> None:
        before = connections(postgres, url)
        database = at(url)
        ask(database)
        del database
        deadline = time.monotonic() + 5
        while connections(postgres, url) > before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert connections(postgres, url) == before


class TestUrl:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("postgresql://u:secret@db.example:6432/app?sslmode=require", "postgresql://db.example:6432/app"),
            ("pgvector:///app?host=/run/postgresql&user=u", "pgvector:///app?host=/run/postgresql"),
            ("postgres://one:1,two:2/app?target_session_attrs=read-write", "postgres://one,two:1,2/app"),
            ("pgvector://h/a?password=secret&timeout=5&pool_size=2", "pgvector://h/a"),
        ],
    )
    def test_everything_that_libpq_takes_is_taken(self, text: str, address: str) -> None:
        database = at(text)
        assert database.address == address and "secret" not in repr(database)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("postgresql://u:se/cret@h/db", "%2F"),
            ("postgresql://u:se?cret@h/db", "%3F"),
            ("postgresql://h/db?no_such_option=1", "libpq"),
            ("postgresql://h/db?sslmod=require", "'sslmod' .*mean 'sslmode'"),
            ("postgresql://h/db?pol_size=2", "mean 'pool_size'"),
            ("postgresql://h/db?pasword=secret", "mean 'password'"),
            ("postgresql://h/db?timeout=soon", "timeout"),
            ("postgresql://h/db?pool_size=0", "pool_size"),
            ("postgresql://h:port/db", "HOST:PORT"),
        ],
    )
    def test_what_cannot_be_read_is_refused_without_the_secret(self, text: str, match: str) -> None:
        with pytest.raises(ConfigError, match=match) as caught:
            at(text)
        assert "cret" not in str(caught.value)


def refused(database: PostgresDatabase, kind: type[ShelflistError], *said: str) -> ShelflistError:
    with pytest.raises(kind) as caught:
        ask(database)
    text = str(caught.value)
    assert database.address in text and all(one in text for one in said), text
    assert "p@ss" not in text and "p%40ss" not in text and "wrong-secret" not in text
    return caught.value


class TestBadDays:
    def test_a_wrong_password_and_a_wrong_user(self, postgres: PostgresServer, url: str) -> None:
        name = database_of(url)
        for bad in (postgres.url(name, password="wrong-secret"), postgres.url(name, user="nobody")):
            error = refused(at(bad), StoreDenied, "password authentication failed", "PGPASSWORD")
            assert not isinstance(error, Transient)
        refused(at(postgres.url(name, user="nobody", socket=True)), StoreDenied, 'role "nobody" does not exist')

    def test_a_wrong_port_and_a_wrong_host(self) -> None:
        error = refused(at(f"postgresql://127.0.0.1:{free_port()}/x"), StoreUnavailable, "refused", "run this again")
        assert isinstance(error, Transient)
        refused(at("postgresql:///x?host=/no/such/folder"), StoreUnavailable, "cannot be reached")
        refused(at("postgresql://no-such-host.invalid/x"), StoreUnavailable, "cannot be reached")

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n"])
    @pytest.mark.parametrize("sslmode", ["prefer", "disable", "require"])
    def test_something_else_listens_there(self, answer: bytes, sslmode: str) -> None:
        import socket

        def serve() -> None:
            while True:
                try:
                    caller, _ = other.accept()
                except OSError:
                    return
                with caller:
                    caller.recv(100)
                    caller.sendall(answer)

        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            threading.Thread(target=serve, daemon=True).start()
            url = f"postgresql://127.0.0.1:{other.getsockname()[1]}/x?sslmode={sslmode}"
            assert not isinstance(refused(at(url), StoreError, "is not Postgres", "5432"), Transient)

    def test_a_server_that_is_too_old(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        ask(at(url))
        monkeypatch.setattr("shelflist.postgres.database._OLDEST", 990_000)
        refused(at(url), StoreError, "99 or newer is needed")

    def test_a_database_that_is_not_there(self, postgres: PostgresServer) -> None:
        refused(at(postgres.url("nowhere")), StoreError, "does not exist", "createdb")

    def test_tls_that_the_server_has_not(self, postgres: PostgresServer, url: str) -> None:
        refused(at(postgres.url(database_of(url), sslmode="require")), StoreError, "TLS", "sslmode")

    def test_a_server_that_never_answers(self) -> None:
        import socket

        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            port = silent.getsockname()[1]
            started = time.monotonic()
            refused(at(f"postgresql://127.0.0.1:{port}/x?connect_timeout=2"), StoreTimeout, "connect_timeout")
            assert time.monotonic() - started < 10

    def test_a_statement_that_takes_too_long(self, url: str) -> None:
        database = at(f"{url}?timeout=0.1")
        with pytest.raises(StoreTimeout, match=r"statement timeout.*\?timeout="):
            ask(database, "SELECT pg_sleep(5)")
        assert ask(database) == [(1,)]
        database.close()

    def test_a_lock_that_another_writer_holds(self, database: PostgresDatabase, url: str) -> None:
        other = at(url, busy_timeout=0.2)
        with database.write() as tx:
            tx.execute("INSERT INTO t (id) VALUES (1)")
            with pytest.raises(LedgerBusy, match=r"more than 0\.2 s"), other.write() as waiting:
                waiting.execute("INSERT INTO t (id) VALUES (1)")
        other.close()

    def test_a_deadlock_is_named_and_undone(self, database: PostgresDatabase, url: str) -> None:
        other = at(url, busy_timeout=30)
        patient = at(url, busy_timeout=30)
        with database.write() as tx:
            tx.insert("t (id)", [(1,), (2,)])
        errors: list[BaseException] = []
        both = threading.Barrier(2)

        def change(mine: PostgresDatabase, first: int, second: int) -> None:
            try:
                with mine.write() as tx:
                    tx.execute("UPDATE t SET a = 'x' WHERE id = ?", (first,))
                    both.wait()
                    tx.execute("UPDATE t SET a = 'x' WHERE id = ?", (second,))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=change, args=args) for args in ((other, 1, 2), (patient, 2, 1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [type(error) for error in errors] == [LedgerBusy] and "deadlock" in str(errors[0])
        other.close()
        patient.close()

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["shutdown", "crash"])
    def test_a_restart_between_blocks_is_not_seen(
        self, postgres: PostgresServer, database: PostgresDatabase, how: signal.Signals
    ) -> None:
        ask(database)
        postgres.restart(how)
        assert ask(database) == [(1,)]
        postgres.restart(how)
        with database.write() as tx:
            tx.execute("INSERT INTO t (id) VALUES (5)")
        assert ask(database, "SELECT id FROM t") == [(5,)]

    def test_a_connection_that_is_cut_while_it_is_used(
        self, postgres: PostgresServer, database: PostgresDatabase, url: str
    ) -> None:
        with (
            pytest.raises(StoreUnavailable, match=r"cut the connection.*run the same command again"),
            database.write() as tx,
        ):
            tx.execute("INSERT INTO t (id) VALUES (1)")
            postgres.kill_clients(database_of(url))
            tx.execute("INSERT INTO t (id) VALUES (2)")
        assert ask(database, "SELECT count(*) FROM t") == [(0,)]
        with pytest.raises(StoreUnavailable), database.write() as tx:
            tx.execute("INSERT INTO t (id) VALUES (1)")
            postgres.kill_clients(database_of(url))
        assert ask(database, "SELECT count(*) FROM t") == [(0,)]
        with pytest.raises(StoreUnavailable), database.read() as tx:
            tx.execute("SELECT 1")
            postgres.kill_clients(database_of(url))
            tx.execute("SELECT 1")

    def test_a_single_read_outlives_a_cut(self, postgres: PostgresServer, database: PostgresDatabase, url: str) -> None:
        ask(database)
        with database.read(single=True) as tx:
            postgres.kill_clients(database_of(url))
            assert tx.execute("SELECT 1").fetchone() == (1,)
        ask(database)

    def test_a_server_that_is_down_and_comes_back(self, postgres: PostgresServer, database: PostgresDatabase) -> None:
        ask(database)
        postgres.stop()
        try:
            refused(database, StoreUnavailable)
            with pytest.raises(StoreUnavailable), database.write() as tx:
                tx.execute("INSERT INTO t (id) VALUES (1)")
        finally:
            postgres.start()
        assert ask(database) == [(1,)]

    def test_a_server_that_is_starting_up_is_waited_for(
        self, postgres: PostgresServer, database: PostgresDatabase
    ) -> None:
        ask(database)
        postgres.stop(signal.SIGQUIT)
        thread = threading.Thread(target=postgres.start)
        found: list[Any] = []
        thread.start()
        deadline = time.monotonic() + 30
        while not found and time.monotonic() < deadline:
            try:
                found = ask(database)
            except StoreUnavailable as error:
                assert "starting up" not in str(error)
        thread.join()
        assert found == [(1,)]

    def test_a_full_disk(self, postgres: PostgresServer) -> None:
        name = database_of(postgres.fresh())
        with small_disk(postgres) as disk:
            postgres.sql(f"CREATE TABLESPACE tiny_{name} LOCATION '{disk}'")
            database = at(postgres.url(name, options=f"-c default_tablespace=tiny_{name}"))
            with database.write() as tx:
                tx.execute("CREATE TABLE big (id bigint, a bytea)")
                tx.insert("big", [(1, b"kept")])
            with (
                pytest.raises(StoreFull, match=r"no space is left.*run the same command again") as caught,
                database.write() as tx,
            ):
                tx.execute("ALTER TABLE big ALTER a SET STORAGE EXTERNAL")
                for _ in range(50):
                    tx.insert("big", [(2, os.urandom(100_000)) for _ in range(10)])
            assert not isinstance(caught.value, Transient)
            assert ask(database, "SELECT * FROM big") == [(1, b"kept")]
            with database.write() as tx:
                tx.execute("DROP TABLE big")
            database.close()
            postgres.sql(f"DROP TABLESPACE tiny_{name}")

    def test_a_standby_takes_no_writes(self, postgres: PostgresServer, url: str) -> None:
        database = at(postgres.url(database_of(url), options="-c default_transaction_read_only=on"))
        assert ask(database) == [(1,)]
        with database.write() as tx:  # the setting is not the server's state
            tx.execute("INSERT INTO t (id) VALUES (77)")
        with pytest.raises(StoreReadOnly), database.read(single=True) as tx:
            tx.execute("INSERT INTO t (id) VALUES (78)")
        database.close()
