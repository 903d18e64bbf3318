"""Postgres as a `Database`: a small pool of psycopg connections, opened when they are needed and reopened after a fork.

psycopg_pool is left out on purpose: its threads do not survive a fork, and a server that refuses a password shows as a
time-out of the pool. Here the thread that needs a connection makes it, and gets the server's own answer at once.

A pooler in between (PgBouncer) has to pool sessions: settings and prepared statements belong to a connection.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import finalize

from shelflist.core.errors import MissingDependency, StoreDenied, StoreError, StoreTimeout
from shelflist.core.log import log
from shelflist.postgres.errors import is_starting, mapped, refused
from shelflist.postgres.statements import Wire, wire_dumper
from shelflist.postgres.transaction import PostgresTransaction

if TYPE_CHECKING:
    import psycopg

DEFAULT_POOL = 16
_OLDEST = 160_000
"""The version of the server, as libpq gives it, from which on everything here has been run."""
_CONNECT_SECONDS = 10
_START_SECONDS = 15.0
"""How long a server that is starting up, or recovering from a crash, is waited for."""
_IDLE_SECONDS = 300.0
_CLOCK_SECONDS = 60.0
_READ = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITE = (
    b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
    # The locks of a machine that lost its power must not outlive it for the two hours of the system's own default.
    b"SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10; SET LOCAL tcp_keepalives_count = 3; "
)
_ABANDONED: list[psycopg.Connection[Any]] = []
"""Connections of a parent process: a child must neither use nor close them, so they are kept from being collected."""


class Link:
    """One connection of the pool. `settings`: what was set in its session beyond the server's own; None: not known."""

    __slots__ = ("connection", "epoch", "is_used", "pid", "settings", "since")

    def __init__(self, connection: psycopg.Connection[Any], epoch: int) -> None:
        self.connection = connection
        self.epoch = epoch
        self.pid = os.getpid()
        self.is_used = False
        self.settings: dict[str, str] | None = {}
        self.since = time.monotonic()

    def command(self, sql: bytes) -> None:
        """A statement without parameters or result, on the quickest way there is."""
        import psycopg

        result = self.connection.pgconn.exec_(sql)
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)

    def is_lost(self) -> bool:
        import psycopg

        return bool(self.connection.closed or self.connection.pgconn.status != psycopg.pq.ConnStatus.OK)

    def has_failed(self) -> bool:
        import psycopg

        return bool(self.connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.INERROR)

    def is_idle(self) -> bool:
        """Alive, as far as is known here, and outside a transaction."""
        return bool(not self.connection.closed and self.connection.pgconn.transaction_status == 0)

    def is_quiet(self) -> bool:
        """Whether the server has said nothing since: when it is shut down it says good-bye."""
        return not _has_input(self.connection.pgconn.socket)


class PostgresDatabase:
    """A database of a Postgres server. Nothing is connected before the first statement.

    `parameters`: what libpq takes (host, port, dbname, user, password, …). `address`: how messages call it, without
    secrets. `busy_timeout`: seconds to wait for another writer's lock. `timeout`: seconds that a statement may take, None
    for no limit. `pool_size`: connections at most; a thread that finds them all taken waits for one. Thread-safe.
    """

    dialect = "postgres"

    def __init__(
        self,
        parameters: Mapping[str, Any],
        *,
        address: str,
        busy_timeout: float = 30.0,
        timeout: float | None = None,
        pool_size: int = DEFAULT_POOL,
    ) -> None:
        self.address = address
        self.busy_timeout = busy_timeout
        self.timeout = timeout
        self._parameters = dict(parameters)
        self._pool_size = pool_size
        self._begin_write = _WRITE + f"SET LOCAL lock_timeout = {max(1, int(busy_timeout * 1000))}".encode()
        self._pid = os.getpid()
        self._epoch = 0
        self._identity: str | None = None
        self._types: dict[str, list[int]] = {}
        self._clock: tuple[float, float] | None = None
        self._server_version = 0
        self._idle: deque[Link] = deque()
        self._reset()
        finalize(self, _close_all, self._idle)

    def __repr__(self) -> str:
        return f"<PostgresDatabase {self.address}>"

    @property
    def identity(self) -> str:
        """The same for every way to reach the same tables: cluster, timeline, database and schema."""
        if self._identity is None:
            try:
                self._identity = self._asked(_CLUSTER)
            except StoreDenied:  # where the functions that tell of the cluster are not for everybody
                self._identity = self._asked("pg_postmaster_start_time()")
        return self._identity

    def _asked(self, server: str) -> str:
        with self.read(single=True) as tx:
            (name,) = tx.execute(f"SELECT concat_ws('/', {server}, {_PLACE})").fetchone()
        return f"postgresql:{name}"

    @property
    def server_version(self) -> int:
        """As libpq gives it: 180004 is 18.4. Connects if nothing has yet."""
        if not self._server_version:
            self._release(self._acquire())
        return self._server_version

    def now(self) -> float:
        """Seconds since 1970 by the clock of the server, which all writers share; late by up to a round trip, never early."""
        clock = self._clock
        if clock is None or time.monotonic() - clock[0] > _CLOCK_SECONDS:
            with self.read(single=True) as tx:
                (said,) = tx.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
            clock = self._clock = (time.monotonic(), said)
        return clock[1] + time.monotonic() - clock[0]

    @contextmanager
    def read(self, *, single: bool = False) -> Iterator[PostgresTransaction]:
        """A snapshot of the database; joins the transaction that this thread already has.

        `single`: the block runs one SELECT, which is a snapshot by itself, so that no round trip is spent on BEGIN and
        COMMIT; a block that runs more sees each of them at its own moment.
        """
        current = self._current()
        if current is not None:
            yield current
            return
        with self._lent(None if single else _READ, writable=False) as transaction:
            yield transaction
            transaction.end_read()

    @contextmanager
    def write(self) -> Iterator[PostgresTransaction]:
        """A write transaction: commits at the end, rolls back on any exception. Other writers run at the same time:
        rows that must not change meanwhile are locked by the statements (FOR UPDATE), in the order of their keys."""
        current = self._current()
        if current is not None:
            if not current.writable:
                raise AssertionError("A write transaction cannot start inside a read transaction.")
            yield current
            return
        with self._lent(self._begin_write, writable=True) as transaction:
            yield transaction
            transaction.commit()

    @contextmanager
    def alone(self) -> Iterator[PostgresTransaction]:
        """For statements that cannot run in a transaction (CREATE INDEX CONCURRENTLY, VACUUM): each commits by itself."""
        if self._current() is not None:
            raise AssertionError("Statements that stand alone cannot run inside a transaction.")
        with self._lent(None, writable=True) as transaction:
            yield transaction

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has one, which the next read or write would join."""
        return self._current() is not None

    def close(self) -> None:
        """Close what is open; what is used afterwards is opened again."""
        self._after_fork()
        self._epoch += 1
        self._discard_idle()

    def column_types(self, into: str, tx: PostgresTransaction) -> list[int]:
        """Type OIDs of the columns that `table` or `table (column, …)` names, in that order; remembered."""
        known = self._types.get(into)
        if known is None:
            table, _, listed = into.partition("(")
            names = [name.strip().strip('"') for name in listed.rstrip(") ").split(",")] if listed else None
            rows = tx.execute(
                "SELECT attname::text, atttypid::int8 FROM pg_attribute "
                "WHERE attrelid = ?::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                (table.strip(),),
            )
            found: dict[str, int] = dict(rows.fetchall())
            known = [found[name] for name in (found if names is None else names)]
            self._types[into] = known
        return known

    def has_foreign_types(self, into: str, tx: PostgresTransaction) -> bool:
        from psycopg import adapters

        return any(adapters.types.get(oid) is None for oid in self.column_types(into, tx))

    def forget_types(self) -> None:
        """After a table was made anew, or got a column."""
        self._types.clear()

    def replaced(self, link: Link) -> Link:
        """A new connection for one that has died in the pool; the others of its age have died with it."""
        self._discard_idle()
        link.connection.close()
        fresh = self._connect()
        with self._lock:
            self._lent_out.discard(link)
            self._lent_out.add(fresh)
        return fresh

    def _discard_idle(self) -> None:
        with self._lock:
            idle = list(self._idle)
            self._idle.clear()
        for link in idle:
            link.connection.close()

    @contextmanager
    def _lent(self, begin: bytes | None, *, writable: bool) -> Iterator[PostgresTransaction]:
        import psycopg

        transaction = PostgresTransaction(self, self._acquire(), begin, writable=writable)
        self._local.transaction = transaction
        try:
            yield transaction
        except psycopg.Error as error:  # of a commit, or of what ends a read
            raise mapped(
                error, self.address, lock_seconds=self.busy_timeout, lost=transaction.link.is_lost()
            ) from error
        finally:
            self._local.transaction = None
            if not transaction.link.is_idle():
                transaction.roll_back()
            self._release(transaction.link)

    def _current(self) -> PostgresTransaction | None:
        self._after_fork()
        return getattr(self._local, "transaction", None)

    def _reset(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._free = threading.Semaphore(self._pool_size)
        self._idle.clear()
        self._lent_out: set[Link] = set()

    def _after_fork(self) -> None:
        # Sockets are shared with the parent: closing one here would say good-bye to the server in the parent's name.
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._epoch += 1
            _ABANDONED.extend(link.connection for link in (*self._idle, *self._lent_out))
            self._reset()

    def _acquire(self) -> Link:
        self._after_fork()
        if not self._free.acquire(timeout=self.busy_timeout):
            raise StoreTimeout(
                f"All {self._pool_size} connections to {self.address} were in use for {self.busy_timeout:g} s. Allow more "
                "with ?pool_size=N, or use fewer threads."
            )
        try:
            while True:
                with self._lock:
                    link = self._idle.pop() if self._idle else None
                if link is None:
                    link = self._connect()
                    break
                link.is_used = True
                if link.is_quiet():
                    break
                link.connection.close()
            with self._lock:
                self._lent_out.add(link)
            return link
        except BaseException:
            self._free.release()
            raise

    def _release(self, link: Link) -> None:
        now = link.since = time.monotonic()
        old: list[Link] = []
        with self._lock:
            self._lent_out.discard(link)
            (self._idle if link.epoch == self._epoch and link.is_idle() else old).append(link)
            while self._idle and now - self._idle[0].since > _IDLE_SECONDS:
                old.append(self._idle.popleft())
        self._free.release()
        for one in old:
            one.connection.close()

    def _connect(self) -> Link:
        try:
            import psycopg
        except ImportError:
            raise MissingDependency.for_extra("psycopg", "pgvector", f"Postgres ({self.address})") from None
        parameters = {
            "connect_timeout": _CONNECT_SECONDS,
            "fallback_application_name": "shelflist",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
            **self._parameters,
            "client_encoding": "UTF8",
        }
        options = "-c statement_timeout=" + str(int(self.timeout * 1000)) if self.timeout else ""
        if options:
            parameters["options"] = f"{parameters.get('options', '')} {options}".strip()
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                connection = psycopg.connect(autocommit=True, cursor_factory=psycopg.RawCursor, **parameters)
                break
            except psycopg.Error as error:
                if is_starting(error) and time.monotonic() < deadline:
                    log.debug("%s is starting up; waiting for it.", self.address)
                    time.sleep(0.1)
                    continue
                raise refused(error, self.address, float(parameters["connect_timeout"])) from None
        self._server_version = connection.info.server_version
        if self._server_version < _OLDEST:
            connection.close()
            raise StoreError(
                f"{self.address} is Postgres {self._server_version // 10_000}; {_OLDEST // 10_000} or newer is needed. "
                "Upgrade the server, or name another one in the URL."
            )
        _adapt(connection)
        return Link(connection, self._epoch)


def _close_all(links: deque[Link]) -> None:
    """Of a database that nobody has closed. A child of a fork leaves its parent's connections alone."""
    for link in links:
        if link.pid == os.getpid():
            link.connection.close()


def _has_input(descriptor: int) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _adapt(connection: psycopg.Connection[Any]) -> None:
    """One type for every int, so that a statement is prepared once and not once for each size of number."""
    from psycopg.pq import Format

    adapters = connection.adapters
    adapters.register_dumper(int, adapters.get_dumper_by_oid(20, Format.BINARY))
    adapters.register_dumper(Wire, wire_dumper(0))


_CLUSTER = (
    "(SELECT system_identifier FROM pg_control_system()), (SELECT timeline_id FROM pg_control_checkpoint()), "
    "pg_is_in_recovery()::int"
)
_PLACE = "(SELECT oid FROM pg_database WHERE datname = current_database()), current_schema()"
