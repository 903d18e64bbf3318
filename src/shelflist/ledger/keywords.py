"""The keyword index beside the ledger: the keyword leg of collections whose store has none.

A cache of the ledger's own texts; its rows are chunk keys, and every chunk is in it before its revision is switched to.
What it holds too much (a revision that was given up, a purge that was cut short) the ledger's check keeps out.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shelflist.core.errors import CacheDamaged
from shelflist.core.log import log
from shelflist.core.transaction import Database, Transaction
from shelflist.engine.keywords import KeywordIndex, KeywordIndexDamaged, KeywordRow

_PART = 500
_BUILD_PART = 20_000


@dataclass(frozen=True, slots=True)
class Ranking:
    """Point ids with their scores, best first; `exhausted` when no further chunk shares a term with the query."""

    items: Sequence[tuple[bytes, float]]
    exhausted: bool


class Keywords(Protocol):
    """The keyword leg of one collection. Chunks are named by their keys."""

    def add(self, chunk_keys: Sequence[int]) -> None:
        """Index these chunks; one that is there already stays. Returns when searches find them."""
        ...

    def remove(self, chunk_keys: Sequence[int]) -> None: ...

    def search(self, text: str, *, limit: int, tenant: str | None) -> Ranking:
        """The best chunks by their words, of all states: the caller checks them."""
        ...

    def rows(self) -> int: ...

    def rebuild(self) -> None:
        """Make the index anew from the ledger's texts."""
        ...

    def drop(self) -> None: ...


class TantivyKeywords:
    """BM25 by tantivy in a directory beside a SQLite ledger, or in memory with a ledger in memory.

    Only the holder of the ledger's write lock writes it, so processes take turns as they do for the ledger.
    """

    def __init__(self, database: Database, folder: Path | None, collection_id: int) -> None:
        self._database = database
        self._folder = folder
        self._collection_id = collection_id
        self._lock = threading.RLock()
        self._opened: tuple[int, int, KeywordIndex] | None = None

    def add(self, chunk_keys: Sequence[int]) -> None:
        with self._database.write() as tx:
            state = self._state(tx)
            if state is None:
                self._build(tx, 1)
                return
            rows = [
                row for part in _parts(chunk_keys) for row in self._rows(tx, f"c.chunk_key IN ({_marks(part)})", part)
            ]
            self._write(tx, state, rows, chunk_keys)

    def remove(self, chunk_keys: Sequence[int]) -> None:
        with self._database.write() as tx:
            state = self._state(tx)
            if state is not None and chunk_keys:
                self._write(tx, state, [], chunk_keys)

    def search(self, text: str, *, limit: int, tenant: str | None) -> Ranking:
        with self._database.read() as tx:
            state = self._state(tx)
            if state is None:
                return Ranking((), exhausted=True)
            try:
                hits = self._index(*state).search(text, limit, tenant)
            except (KeywordIndexDamaged, OSError) as error:
                raise CacheDamaged(f"The keyword index beside the ledger is damaged ({str(error)[:200]}).") from error
            keys: list[int] = hits.rows.tolist()
            points: dict[int, bytes] = {}
            for part in _parts(keys):
                points.update(
                    tx.execute(f"SELECT chunk_key, point_id FROM sl_chunks WHERE chunk_key IN ({_marks(part)})", part)
                )
        pairs = zip(keys, hits.scores.tolist(), strict=True)
        return Ranking([(points[key], value) for key, value in pairs if key in points], hits.exhausted)

    def rows(self) -> int:
        with self._database.read() as tx:
            state = self._state(tx)
            try:
                return 0 if state is None else self._index(*state).rows
            except (KeywordIndexDamaged, OSError):
                return -1

    def rebuild(self) -> None:
        with self._database.write() as tx:
            state = self._state(tx)
            self._build(tx, 1 if state is None else state[0] + 1)

    def drop(self) -> None:
        with self._database.write() as tx:
            state = self._state(tx)
            tx.execute("DELETE FROM sl_keywords WHERE collection_id = ?", (self._collection_id,))
        if state is not None and self._folder is not None:
            for place in (state[0] - 1, state[0]):
                shutil.rmtree(self._place(place), ignore_errors=True)

    def _state(self, tx: Transaction) -> tuple[int, int] | None:
        found = tx.execute(
            "SELECT place, stamp FROM sl_keywords WHERE collection_id = ?", (self._collection_id,)
        ).fetchone()
        return (found[0], found[1]) if found else None

    def _rows(self, tx: Transaction, condition: str, parameters: Sequence[int]) -> list[KeywordRow]:
        # CROSS, because SQLite then keeps to this order: it would read the whole collection for each few chunks.
        found = tx.execute(
            "SELECT c.chunk_key, c.content, d.tenant_id FROM sl_chunks c CROSS JOIN sl_documents d USING (document_key) "
            f"WHERE d.collection_id = ? AND {condition}",
            (self._collection_id, *parameters),
        )
        return [KeywordRow(key, content, tenant or None) for key, content, tenant in found]

    def _write(
        self, tx: Transaction, state: tuple[int, int], rows: Sequence[KeywordRow], replaced: Sequence[int]
    ) -> None:
        try:
            index = self._index(*state)
            stamp = index.write(rows, deleted=replaced)
        except (KeywordIndexDamaged, FileNotFoundError) as error:
            log.warning("The keyword index beside the ledger is damaged (%s). Building it anew.", str(error)[:200])
            self._build(tx, state[0] + 1)
            return
        self._record(tx, state[0], stamp, index)

    def _build(self, tx: Transaction, place: int) -> None:
        # The index before this one stays: a reader of an older snapshot may be opening it.
        if self._folder is not None:
            shutil.rmtree(self._place(place - 2), ignore_errors=True)
            self._place(place).parent.mkdir(parents=True, exist_ok=True)
        index = KeywordIndex(self._place(place) if self._folder is not None else None, create=self._folder is not None)
        last, stamp = 0, index.write([])
        while True:
            rows = self._rows(tx, "c.chunk_key > ? ORDER BY c.chunk_key LIMIT ?", (last, _BUILD_PART))
            if not rows:
                break
            last = rows[-1].row
            stamp = index.write(rows)
        self._record(tx, place, stamp, index)

    def _record(self, tx: Transaction, place: int, stamp: int, index: KeywordIndex) -> None:
        tx.execute(
            "INSERT INTO sl_keywords VALUES (?, ?, ?) "
            "ON CONFLICT (collection_id) DO UPDATE SET place = excluded.place, stamp = excluded.stamp",
            (self._collection_id, place, stamp),
        )
        with self._lock:
            self._opened = (place, stamp, index)

    def _index(self, place: int, stamp: int) -> KeywordIndex:
        with self._lock:
            if self._opened is not None and self._opened[0] == place:
                known = self._opened[2]
                if self._opened[1] != stamp:
                    known.require(stamp)
                    known.reload()
                    self._opened = (place, stamp, known)
                return known
            if self._folder is None:
                raise KeywordIndexDamaged("it was in another process's memory")
            index = KeywordIndex(self._place(place))
            index.require(stamp)
            self._opened = (place, stamp, index)
            return index

    def _place(self, place: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._collection_id}.{place}"


def _parts(items: Sequence[int]) -> list[Sequence[int]]:
    return [items[start : start + _PART] for start in range(0, len(items), _PART)]


def _marks(items: Sequence[int]) -> str:
    return ", ".join("?" * len(items))
