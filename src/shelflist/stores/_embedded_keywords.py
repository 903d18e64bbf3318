"""The keyword leg of the embedded store: one tantivy directory a generation, a cache of its rows.

An index commits before SQLite does. So whoever sees a row also finds its words, and a crash in between leaves words
without a row, which no search returns and the next write removes. A damaged index is rebuilt beside the old one, in a
place with the next number.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from shelflist.core.errors import CacheDamaged, StoreError, StoreFull, StoreReadOnly
from shelflist.core.log import log
from shelflist.core.transaction import Transaction
from shelflist.database import SqliteTransaction
from shelflist.engine.keywords import KeywordIndex, KeywordIndexDamaged, KeywordRow

_UNLISTED_GRACE = 60.0
"""Seconds for which an index keeps deleted rows: longer than a query that began before the delete."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Write:
    """A write of an index under way: where, which deleted rows it drops, and how to wait for it."""

    place: str
    due: list[int]
    done: Callable[[], tuple[int, KeywordIndex]]


class EmbeddedKeywords:
    """The indexes of one directory's generations. Where each is, and its last commit, stands in `store_generations`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: dict[str, tuple[str, int, KeywordIndex]] = {}
        self._under_way: dict[str, _Write] = {}
        self._own_lock = threading.RLock()
        self._pid = os.getpid()

    def create(self, name: str) -> tuple[str, int]:
        """Place and stamp of a new index without rows."""
        place = f"{name}.1"
        stamp, _ = self._make(place, [])
        return place, stamp

    def drop(self, name: str) -> None:
        with self._lock:
            self._opened.pop(name, None)
        for place in self.path.glob(f"{name}.*"):
            shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        with self._lock:
            self._opened.clear()

    @contextmanager
    def reading(self, tx: SqliteTransaction, name: str) -> Iterator[KeywordIndex]:
        """The index as this transaction sees it; CacheDamaged or StoreError for what goes wrong in the block."""
        self._settle(tx, name)
        try:
            place, stamp = _place(tx, name)
            if self._lacks_rows(tx, name, place, stamp):
                raise self._lacking(place)
            yield self._index(name, place, stamp)
        except KeywordIndexDamaged as error:
            raise _damaged(error) from error
        except OSError as error:
            raise StoreError(f"The keyword index cannot be read ({error}). Check the permissions there.") from error

    def rows(self, tx: SqliteTransaction, name: str, last_row: int) -> int | None:
        """How many rows up to this one an index holds, deleted ones not counted; None if it cannot be used."""
        self._settle(tx, name)
        (unlisted,) = tx.execute(f"SELECT count(*) FROM {name}_unlisted").fetchone()
        try:
            index = self._index(name, *_place(tx, name))
            index.check()
            return index.rows_up_to(last_row) - int(unlisted)
        except (KeywordIndexDamaged, OSError):
            return None

    def write(self, tx: SqliteTransaction, name: str, words: Sequence[KeywordRow], *, above: int) -> None:
        """Write rows, in a thread that the transaction waits for before it commits.

        Both the index and SQLite work outside the interpreter's lock. If the transaction is rolled back, the index keeps
        rows that nobody has, until the next write drops them.
        """
        self._settle(tx, name)
        place, stamp = _place(tx, name)
        now = time.time()  # who was deleted later than that, was before the clock was set back
        query = f"SELECT row FROM {name}_unlisted WHERE since NOT BETWEEN ? AND ?"
        lacks_rows = self._lacks_rows(tx, name, place, stamp)
        due = [row for (row,) in tx.execute(query, (now - _UNLISTED_GRACE, now))]

        def write_rows() -> tuple[int, KeywordIndex]:
            if lacks_rows:
                raise self._lacking(place)
            index = self._index(name, place, stamp)
            return index.write(words, deleted=due, expected=stamp, above=above), index

        self._under_way[name] = _Write(place, due, _background(write_rows))
        tx.before_commit(partial(self._settle, tx, name), otherwise=partial(self._abandon, name))

    def _settle(self, tx: SqliteTransaction, name: str) -> None:
        """Wait for this transaction's write, if there is one, and note its commit."""
        if not tx.writable or name not in self._under_way:
            return
        write = self._under_way[name]
        try:
            stamp, index = write.done()
        except KeywordIndexDamaged as error:
            log.warning("%s Rebuilding it from the rows.", _damaged(error))
            del self._under_way[name]
            self.rebuild(tx, name)
            return
        except OSError as error:
            raise self._unwritten(error) from error
        del self._under_way[name]
        with self._lock:
            self._opened[name] = (write.place, stamp, index)
        tx.execute("UPDATE store_generations SET keyword_stamp = ? WHERE name = ?", (stamp, name))
        tx.executemany(f"DELETE FROM {name}_unlisted WHERE row = ?", ((row,) for row in write.due))

    def _abandon(self, name: str) -> None:
        write = self._under_way.pop(name, None)
        if write is not None:
            with suppress(Exception):
                write.done()

    def rebuild(self, tx: SqliteTransaction, name: str) -> None:
        """A fresh index of the rows as this transaction sees them, beside the old one."""
        self._settle(tx, name)
        number = int(_place(tx, name)[0].rsplit(".", 1)[1])
        # The old index stays until the next rebuild: a reader of the snapshot before this one may be opening it.
        shutil.rmtree(self.path / f"{name}.{number - 1}", ignore_errors=True)
        rows = [
            KeywordRow(row, content, tenant)
            for row, content, tenant in tx.execute(f"SELECT row, content, tenant_id FROM {name} ORDER BY row")
        ]
        place = f"{name}.{number + 1}"
        stamp, index = self._make(place, rows)
        tx.execute(
            "UPDATE store_generations SET keywords = ?, keyword_stamp = ?, sequence = sequence + 1 WHERE name = ?",
            (place, stamp, name),
        )
        tx.execute(f"DELETE FROM {name}_unlisted")
        with self._lock:
            self._opened[name] = (place, stamp, index)

    @property
    def _lock(self) -> threading.RLock:
        # Locks and mapped files of a parent process are not ours: another of its threads may have held them at the fork.
        if self._pid != os.getpid():
            self._own_lock = threading.RLock()
            self._abandoned, self._opened = self._opened, {}
            self._pid = os.getpid()
        return self._own_lock

    def _index(self, name: str, place: str, stamp: int) -> KeywordIndex:
        with self._lock:
            known = self._opened.get(name)
            if known is not None and known[0] == place:
                if known[1] != stamp:
                    known[2].require(stamp)
                    known[2].reload()
                    self._opened[name] = (place, stamp, known[2])
                return known[2]
            index = KeywordIndex(self.path / place)
            index.require(stamp)
            self._opened[name] = (place, stamp, index)
            return index

    def _lacks_rows(self, tx: SqliteTransaction, name: str, place: str, stamp: int) -> bool:
        """Whether an index that is ahead of the database has dropped rows that are there.

        After a crash it never has, as it drops only what was deleted long before. But a database that was put back from a
        backup has rows which have been deleted since. An index that this process has opened was looked at then.
        """
        with self._lock:
            known = self._opened.get(name)
        if known is not None and known[0] == place:
            return False
        try:
            index = self._index(name, place, stamp)
            if not index.require(stamp):
                return False
            living, last = tx.execute(f"SELECT count(*), coalesce(max(row), 0) FROM {name}").fetchone()
            lacks = index.rows_up_to(last) < living
        except (KeywordIndexDamaged, OSError):
            return False  # whoever uses it finds that out, and knows what to do
        if lacks:
            with self._lock:
                self._opened.pop(name, None)
        return lacks

    def _lacking(self, place: str) -> KeywordIndexDamaged:
        return KeywordIndexDamaged(f"{self.path / place} lacks rows of the database, which was put back from a backup")

    def _make(self, place: str, rows: Sequence[KeywordRow]) -> tuple[int, KeywordIndex]:
        try:
            index = KeywordIndex(self.path / place, create=True)
            return index.write(rows), index
        except (OSError, KeywordIndexDamaged) as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError | KeywordIndexDamaged) -> StoreError:
        """Why an index could not be written."""
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull(
                f"No space is left to write the keyword index in {self.path} ({error}). Everything acknowledged before "
                "is kept. Free some space and run the same command again."
            )
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreReadOnly(
                f"The keyword index in {self.path} cannot be written ({error}). Search with mode='dense' (--mode dense) "
                "until somebody who may write there has run: shelflist repair"
            )
        return StoreError(
            f"The keyword index in {self.path} cannot be written ({error}). Check the disk, then run this again."
        )


def _place(tx: Transaction, name: str) -> tuple[str, int]:
    """Where the index of a generation is, and the stamp of its last commit: as this transaction sees them."""
    found: tuple[str, int] = tx.execute(
        "SELECT keywords, keyword_stamp FROM store_generations WHERE name = ?", (name,)
    ).fetchone()
    return found


def _damaged(error: KeywordIndexDamaged) -> CacheDamaged:
    return CacheDamaged(f"The keyword index is damaged ({str(error)[:200]}).")


def _background(work: Callable[[], _Result]) -> Callable[[], _Result]:
    """Start `work` in a thread; the returned function waits for it and gives its result or raises its error."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="shelflist-keywords")
    thread.start()

    def wait() -> _Result:
        thread.join()
        return future.result()

    return wait
