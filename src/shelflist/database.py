"""SQLite as a `Database`: one connection a thread, one writer at a time, reopened after a fork.

WAL mode: readers see a snapshot and never block the writer. Commits are synced to disk before they return.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakSet

from shelflist.core.errors import LedgerBusy, ShelflistError, StoreDamaged, StoreError, StoreFull, StoreReadOnly

_SLOW_WAIT = 5.0
_PARAMETERS_PER_INSERT = 8_000
_ROWS_PER_INSERT = 1_000
_PAGE_SIZE = 8_192
"""Bytes; SQLite's own 4,096 holds two vectors of 384 dimensions and wastes a quarter."""
_CACHE_KIBIBYTES = 16_384
"""Of pages, for each thread; with four times as many neither loading nor searching 100,000 rows was quicker."""
_MAPPED_BYTES = 2**31 - 65_536 if os.name == "posix" else 0
"""Of the file, read without a copy: a search reads some forty pages that are nowhere near each other. The most that SQLite maps;
elsewhere than on POSIX systems a file that is mapped cannot be cut."""
_PAGES_BETWEEN_CHECKPOINTS = 8_000
"""64 MB of log; SQLite's own 1,000 has large writes copied into the file at each commit, and synced once more."""
_LITTLE_SPACE = 1_000_000
_WRITE_LOCK = "120"
"""The byte of the file NAME-shm that SQLite locks for the one writer of a log."""


class SqliteTransaction:
    """An open transaction on one sqlite3 connection."""

    __slots__ = ("_connection", "_last", "writable")

    def __init__(self, connection: sqlite3.Connection, writable: bool) -> None:
        self._connection = connection
        self._last: list[tuple[Callable[[], None], Callable[[], None]]] = []
        self.writable = writable

    def before_commit(self, work: Callable[[], None], *, otherwise: Callable[[], None]) -> None:
        """Have `work` done last, inside the transaction; `otherwise` is called instead if it is rolled back."""
        self._last.append((work, otherwise))

    def finish(self) -> None:
        for work, _ in self._last:
            work()

    def give_up(self) -> None:
        for _, otherwise in self._last:
            otherwise()

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> sqlite3.Cursor:
        return self._connection.executemany(sql, rows)

    def insert(self, into: str, rows: Sequence[Sequence[Any]]) -> None:
        # Many rows a statement: fewer steps, and the interpreter's lock changes hands once a statement, not once a row.
        # Three sizes, so that each statement is compiled once and found again.
        most = min(_ROWS_PER_INSERT, max(1, _PARAMETERS_PER_INSERT // len(rows[0]))) if rows else 1
        start = 0
        for many in (most, max(1, most // 16), 1):
            while start + many <= len(rows):
                self._insert(into, rows[start : start + many])
                start += many

    def _insert(self, into: str, rows: Sequence[Sequence[Any]]) -> None:
        marks, columns = [], []
        for column in zip(*rows, strict=True):
            kinds = set(map(type, column))
            if kinds == {type(None)}:
                marks.append("NULL")
                continue
            marks.append("?")
            # The sqlite3 module looks for an adapter each time that it binds None or bytes, not for a bytearray.
            columns.append(map(bytearray, column) if kinds == {bytes} else column)
        one = f"({', '.join(marks)})"
        self._connection.execute(
            f"INSERT INTO {into} VALUES {', '.join([one] * len(rows))}",
            tuple(chain.from_iterable(zip(*columns, strict=True))),
        )


class _Reading:
    """A read transaction. Every search opens one, and a context manager made of a generator takes several times as long."""

    __slots__ = ("_connection", "_database", "_transaction")

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._connection: sqlite3.Connection | None = None
        self._transaction: SqliteTransaction | None = None

    def __enter__(self) -> SqliteTransaction:
        database = self._database
        connection = self._connection = database._connection()
        try:
            if connection.in_transaction:  # an interrupt has left it so
                connection.execute("ROLLBACK")
            connection.execute("BEGIN")
        except sqlite3.Error as error:
            raise database._mapped(error) from error
        transaction = self._transaction = database._local.transaction = SqliteTransaction(connection, writable=False)
        return transaction

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._end()
        except sqlite3.Error as failed:
            raise self._database._mapped(failed) from failed
        if isinstance(error, sqlite3.Error):
            raise self._database._mapped(error) from error

    def __del__(self) -> None:
        # An interrupt on the way into __exit__ leaves it out, and the thread would read this moment for ever.
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._end()

    def _end(self) -> None:
        connection, local = self._connection, self._database._local
        if getattr(local, "transaction", None) not in (None, self._transaction):
            return  # it is another's by now
        local.transaction = None
        if connection is not None and connection.in_transaction:
            connection.execute("ROLLBACK")
        self._connection = None


class _Connection(sqlite3.Connection):
    """Only to be weakly referenced: a connection goes with the thread that used it."""


class SqliteDatabase:
    """A SQLite file, or with `path=None` a private database in memory; `spill` moves what outgrows its cache to a file
    that nobody sees and that goes with it."""

    dialect = "sqlite"

    def __init__(self, path: Path | None, *, busy_timeout: float = 30.0, spill: bool = False) -> None:
        self.path = path
        self._spill = spill
        self.busy_timeout = busy_timeout
        self.identity = f"sqlite:{path.resolve()}" if path else f"sqlite:memory:{id(self)}"
        self._local = threading.local()
        self._pid = os.getpid()
        self._write_lock = threading.RLock()
        self._opened: WeakSet[sqlite3.Connection] = WeakSet()
        self._memory: sqlite3.Connection | None = None
        if path is None:
            self._memory = self._connect()

    def now(self) -> float:
        return time.time()

    def read(self, *, single: bool = False) -> AbstractContextManager[SqliteTransaction]:
        """A snapshot of the database; joins the transaction that this thread already has. `single` makes no difference."""
        self._reset_after_fork()
        current: SqliteTransaction | None = getattr(self._local, "transaction", None)
        if current is not None:
            return nullcontext(current)
        return _Reading(self) if self._memory is None else self._in_memory_read()

    @contextmanager
    def _in_memory_read(self) -> Iterator[SqliteTransaction]:
        # There is one connection, so its readers take turns with its writer.
        with self._write_lock, _Reading(self) as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[SqliteTransaction]:
        """The one write transaction: waits for another writer, commits at the end, rolls back on any exception."""
        self._reset_after_fork()
        current = getattr(self._local, "transaction", None)
        if current is not None:
            if not current.writable:
                raise AssertionError("A write transaction cannot start inside a read transaction.")
            yield current
            return
        with self._write_lock:
            connection = self._connection()
            with self._mapped_errors():
                self._begin_immediate(connection)
                transaction = self._local.transaction = SqliteTransaction(connection, writable=True)
                try:
                    yield transaction
                    transaction.finish()
                    connection.execute("COMMIT")
                except BaseException:
                    transaction.give_up()
                    raise
                finally:
                    self._local.transaction = None
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")

    def close(self) -> None:
        if self._pid == os.getpid():
            for connection in list(self._opened):
                connection.close()
        self._opened.clear()
        self._local = threading.local()
        self._memory = None

    def _reset_after_fork(self) -> None:
        # A SQLite connection must not be used, nor even closed, in a forked child.
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._write_lock = threading.RLock()  # another thread of the parent may have held it
            if self._memory is not None:
                return
            self._abandoned = list(self._opened)  # kept alive: closing them here would drop the parent's locks
            self._opened = WeakSet()
            self._local = threading.local()

    def _connection(self) -> sqlite3.Connection:
        if self._memory is not None:
            return self._memory
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection
        writable = False
        with self._mapped_errors():
            if self.path is None:
                connection = sqlite3.connect(
                    "" if self._spill else ":memory:",
                    isolation_level=None,
                    check_same_thread=False,
                    factory=_Connection,
                )
            elif writable := _may_write(self.path):
                connection = sqlite3.connect(
                    self.path,
                    isolation_level=None,
                    check_same_thread=False,
                    timeout=min(1.0, self.busy_timeout),
                    factory=_Connection,
                )
            else:
                connection = self._connect_read_only(self.path)
            try:
                if writable:
                    connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")  # of a file that is yet to be made
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = FULL")
                    connection.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_BETWEEN_CHECKPOINTS}")
                # Called as the statement runs, after its snapshot was taken: no commit that it sees is of a later time.
                connection.create_function("sl_now", 0, lambda: time.time())
                connection.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
                connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
                if not self._spill:
                    connection.execute("PRAGMA temp_store = MEMORY")
            except BaseException:
                connection.close()
                raise
            self._opened.add(connection)
            return connection

    def _connect_read_only(self, path: Path) -> sqlite3.Connection:
        # WAL needs a writable directory for its shared memory. A directory that nobody here can write is
        # read as immutable, unless a log shows that a writer with more rights is at work or has crashed.
        log = path.with_name(path.name + "-wal")
        immutable = "&immutable=1" if not log.exists() or log.stat().st_size == 0 else ""
        return sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro{immutable}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )

    def _begin_immediate(self, connection: sqlite3.Connection) -> None:
        from shelflist.core.log import log

        started = time.monotonic()
        said = False
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):
                    raise
            waited = time.monotonic() - started
            if waited > self.busy_timeout:
                raise LedgerBusy(
                    f"{_writer_of(self.path)} has been writing to {self.path} for more than {self.busy_timeout:g} s. "
                    "Wait for it to finish, or stop it, then run this again."
                )
            if waited > _SLOW_WAIT and not said:
                said = True
                log.warning("Waiting for another writer of %s.", self.path)

    @contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except ShelflistError:
            raise
        except sqlite3.Error as error:
            raise self._mapped(error) from error

    def _mapped(self, error: sqlite3.Error) -> StoreError | LedgerBusy:
        text = str(error)
        place = self.path or "the database in memory"
        if "readonly" in text or "unable to open" in text:
            return StoreReadOnly(
                f"{place} cannot be written ({text}). Check the permissions of its directory, "
                "or use a directory that you own."
            )
        if "disk I/O" in text and self.path is not None and shutil.disk_usage(self.path.parent).free > _LITTLE_SPACE:
            return StoreError(f"{place}: the system reports a {text}. Check the disk, then run this again.")
        if "full" in text or "disk I/O" in text:
            return StoreFull(
                f"No space is left to write {place} ({text}). Everything acknowledged before is kept. "
                "Free some space and run the same command again."
            )
        if "malformed" in text or "not a database" in text:
            return StoreDamaged(
                f"{place} is not a sound SQLite file ({text}). Restore it from a backup, "
                "or delete the directory and sync again."
            )
        if "locked" in text or "busy" in text:
            return LedgerBusy(f"{place} is locked by another process. Run this again when it has finished.")
        return StoreError(f"{place}: {text}")


def _writer_of(path: Path | None) -> str:
    """The process that holds the write lock, by its number where the system tells."""
    try:
        wanted = str(Path(f"{path}-shm").stat().st_ino)
        for lock in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            _, _, _, kind, pid, file, first, _ = lock.replace("-> ", "").split()
            if (
                (kind, file.rpartition(":")[2], first) == ("WRITE", wanted, _WRITE_LOCK)
                and pid.isdecimal()
                and pid != "0"
            ):
                return (
                    f"Another process ({pid})" if int(pid) != os.getpid() else f"Another handle of this process ({pid})"
                )
    except (OSError, ValueError):
        pass
    return "Another process"


def _may_write(path: Path) -> bool:
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
