"""The embedded store: one directory, SQLite rows as the truth, everything else a cache.

Tables of a generation NAME:  NAME (points with one typed, indexed column `f_FIELD` a declared field),
NAME_vectors (float32 blobs, apart so that filters read small rows), NAME_lists (members of list fields: what GIN does
in Postgres), NAME_unlisted (rows that the keyword index still holds). A row number is never used twice.

The keyword index commits before SQLite does. So whoever sees a row also finds its words, and a crash in between leaves
words without a row, which no search returns and the next write removes.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson

from shelflist.config import StoreUrl
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import CacheDamaged, StoreError, StoreFull, StoreReadOnly, TenantRequired
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.nodes import Operator
from shelflist.core.log import log
from shelflist.core.transaction import Transaction
from shelflist.core.types import (
    Candidate,
    Candidates,
    IndexStatus,
    Metadata,
    Point,
    SearchParams,
    UpsertResult,
    Vector,
)
from shelflist.database import SqliteDatabase, SqliteTransaction
from shelflist.engine.exact import nearest, prepared
from shelflist.engine.keywords import KeywordIndex, KeywordIndexDamaged, KeywordRow
from shelflist.stores._row_cache import RowCache
from shelflist.stores._sql import compile_sql, field_column
from shelflist.stores.protocol import GenerationSpec, Scope, checked_vector, checked_vectors, require_same_shape

_UNLISTED_GRACE = 60.0
"""Seconds for which the keyword index keeps deleted rows: longer than a query that began before the delete."""
_SQL_TYPES = {
    FieldType.STR: "TEXT",
    FieldType.INT: "INTEGER",
    FieldType.FLOAT: "REAL",
    FieldType.BOOL: "INTEGER",
    FieldType.DATETIME: "INTEGER",
    FieldType.LIST: "INTEGER",
}
_IDS_PER_STATEMENT = 500
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Listing:
    """A write of the keyword index under way: where, which deleted rows it drops, and how to wait for it."""

    place: str
    due: list[int]
    written: Callable[[], tuple[int, KeywordIndex]]

    def abandon(self) -> None:
        """Wait, and forget what was written: its rows were not, so the next write drops it."""
        with suppress(Exception):
            self.written()


class EmbeddedStore:
    """All generations of one directory."""

    capabilities = Capabilities(
        store="embedded",
        index_kinds=frozenset({"flat"}),
        metrics=frozenset({"cosine", "dot", "l2"}),
        filter_operators=frozenset(Operator),
        filtering="pre",
        exact=True,
        keyword="bm25",
        max_dimensions=65_536,
        max_batch=100_000,
        visibility="immediate",
        tenancy="filter",
        concurrent_writers=True,
        durable=True,
    )

    def __init__(self, path: Path, *, busy_timeout: float = 30.0) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreReadOnly(
                f"The index directory {path} cannot be made ({error.strerror}). Choose a directory that you may write."
            ) from error
        self._database = SqliteDatabase(path / "shelflist.db", busy_timeout=busy_timeout)
        self._own_lock = threading.RLock()
        self._rows: dict[str, RowCache] = {}
        self._keywords: dict[str, tuple[str, int, KeywordIndex]] = {}
        self._pid = os.getpid()

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> EmbeddedStore:
        return cls(Path(place.path), busy_timeout=busy_timeout)

    @property
    def database(self) -> SqliteDatabase:
        return self._database

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        with self._database.write() as tx:
            tx.execute(
                "CREATE TABLE IF NOT EXISTS store_generations (name TEXT PRIMARY KEY, last_row INTEGER NOT NULL, "
                "sequence INTEGER NOT NULL, keywords TEXT NOT NULL, keyword_stamp INTEGER NOT NULL, "
                "dimensions INTEGER NOT NULL, metric TEXT NOT NULL)"
            )
            there = tx.execute(
                "SELECT dimensions, metric FROM store_generations WHERE name = ?", (spec.name,)
            ).fetchone()
            if there is not None:
                require_same_shape(there[0], there[1], spec, str(self.path))
                return
            name = spec.name
            tx.execute(
                f"CREATE TABLE {name} (row INTEGER PRIMARY KEY, point_id BLOB NOT NULL UNIQUE, chunk_id BLOB NOT NULL, "
                "document_id TEXT NOT NULL, tenant_id TEXT, index_status TEXT NOT NULL, content TEXT NOT NULL, "
                "metadata TEXT NOT NULL)"
            )
            tx.execute(f"CREATE INDEX {name}_status ON {name} (index_status)")
            if spec.tenanted:
                tx.execute(f"CREATE INDEX {name}_tenant ON {name} (tenant_id, index_status)")
            tx.execute(f"CREATE TABLE {name}_vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)")
            tx.execute(
                f"CREATE TABLE {name}_lists (field TEXT, value TEXT, row INTEGER, PRIMARY KEY (field, value, row)) "
                "WITHOUT ROWID"
            )
            tx.execute(f"CREATE INDEX {name}_lists_row ON {name}_lists (row)")
            tx.execute(f"CREATE TABLE {name}_unlisted (row INTEGER PRIMARY KEY, since REAL NOT NULL)")
            for field, kind in spec.fields.items():
                _add_column(tx, name, field, kind)
            place = f"{name}.1"
            try:
                index = KeywordIndex(self.path / "keywords" / place, create=True)
                stamp = index.write([])
            except (OSError, KeywordIndexDamaged) as error:
                raise self._unwritten(error) from error
            tx.execute(
                "INSERT INTO store_generations VALUES (?, 0, 0, ?, ?, ?, ?)",
                (name, place, stamp, spec.dimensions, spec.metric),
            )

    def drop(self, name: str) -> None:
        with self._database.write() as tx:
            if not _has_table(tx, "store_generations"):
                return
            found = tx.execute("SELECT keywords FROM store_generations WHERE name = ?", (name,)).fetchone()
            if found is None:
                return
            for suffix in ("", "_vectors", "_lists", "_unlisted"):
                tx.execute(f"DROP TABLE IF EXISTS {name}{suffix}")
            tx.execute("DELETE FROM store_generations WHERE name = ?", (name,))
        with self._lock:
            self._rows.pop(name, None)
            self._keywords.pop(name, None)
        for place in (self.path / "keywords").glob(f"{name}.*"):
            shutil.rmtree(place, ignore_errors=True)

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        vectors = checked_vectors(spec, points)
        name = spec.name
        with self._database.write() as tx:
            (last_row,) = tx.execute("SELECT last_row FROM store_generations WHERE name = ?", (name,)).fetchone()
            present = {row[0] for row in _by_ids(tx, f"SELECT point_id FROM {name}", [p.point_id for p in points])}
            rows: list[tuple[Any, ...]] = []
            blobs: list[tuple[int, bytes]] = []
            members: list[tuple[str, str, int]] = []
            words: list[KeywordRow] = []
            row = last_row
            declared = list(spec.fields.items())
            for point, vector in zip(points, vectors, strict=True):
                if point.point_id in present:
                    continue
                present.add(point.point_id)
                row += 1
                columns = []
                for field, kind in declared:
                    value = point.metadata.get(field)
                    if kind is FieldType.LIST and value is not None:
                        members += [(field, member, row) for member in dict.fromkeys(value)]
                        value = 1
                    columns.append(value)
                rows.append(
                    (
                        row,
                        point.point_id,
                        point.chunk_id,
                        point.document_id,
                        point.tenant_id,
                        str(point.index_status),
                        point.content,
                        orjson.dumps(point.metadata).decode(),
                        *columns,
                    )
                )
                blobs.append((row, vector.tobytes()))
                words.append(KeywordRow(row, point.content, point.tenant_id))
            if rows:
                fields = "".join(f", {field_column(field)}" for field in spec.fields)
                listing = self._list_keywords(tx, name, words, above=last_row)
                try:
                    tx.insert(
                        f"{name} (row, point_id, chunk_id, document_id, tenant_id, index_status, content, "
                        f"metadata{fields})",
                        rows,
                    )
                    tx.insert(f"{name}_vectors", blobs)
                    tx.insert(f"{name}_lists", members)
                except BaseException:
                    listing.abandon()
                    raise
                self._settle_keywords(tx, name, listing)
                tx.execute(
                    "UPDATE store_generations SET last_row = ?, sequence = sequence + 1 WHERE name = ?", (row, name)
                )
        return UpsertResult(stored=[point.point_id for point in points])

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        name = spec.name
        with self._database.write() as tx:
            rows = [(row[0],) for row in _by_ids(tx, f"SELECT row FROM {name}", point_ids)]
            if not rows:
                return
            since = time.time()
            tx.executemany(f"INSERT INTO {name}_unlisted VALUES (?, ?)", ((row, since) for (row,) in rows))
            for suffix in ("_lists", "_vectors", ""):
                tx.executemany(f"DELETE FROM {name}{suffix} WHERE row = ?", rows)
            tx.execute("UPDATE store_generations SET sequence = sequence + 1 WHERE name = ?", (name,))

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        name = spec.name
        with self._database.write() as tx:
            tx.executemany(
                f"UPDATE {name} SET index_status = 'stale' WHERE point_id = ?", ((one,) for one in point_ids)
            )
            tx.execute("UPDATE store_generations SET sequence = sequence + 1 WHERE name = ?", (name,))

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        name = spec.name
        with self._database.read() as tx:
            found = _by_ids(
                tx,
                "SELECT point_id, chunk_id, document_id, tenant_id, content, metadata, index_status, vector "
                f"FROM {name} JOIN {name}_vectors USING (row)",
                list(dict.fromkeys(point_ids)),
            )
            return [
                Point(
                    point_id=point_id,
                    chunk_id=chunk_id,
                    document_id=document_id,
                    tenant_id=tenant_id,
                    content=content,
                    metadata=orjson.loads(metadata),
                    vector=np.frombuffer(vector, dtype=np.float32),
                    index_status=IndexStatus(status),
                )
                for point_id, chunk_id, document_id, tenant_id, content, metadata, status, vector in found
            ]

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        name = spec.name
        with self._database.read() as tx:
            found = _by_ids(tx, f"SELECT point_id, vector FROM {name} JOIN {name}_vectors USING (row)", point_ids)
            return {point_id: np.frombuffer(vector, dtype=np.float32) for point_id, vector in found}

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        query = prepared(checked_vector(spec, vector), spec.metric)
        with self._database.read() as tx:
            cache = self._row_cache(tx, spec)
            sequence = self._generation(tx, spec.name)[0]
            rows = self._matching(tx, spec, scope, cache, sequence)
            found = cache.distances(tx, rows, query)
            best = nearest(found, limit)
            ids = _point_ids(tx, spec.name, rows[best].tolist())
            items = [
                Candidate(ids[row], float(found[i])) for i, row in zip(best.tolist(), rows[best].tolist(), strict=True)
            ]
        return Candidates(items, exact=True, exhausted=limit >= len(rows), plan=f"exact over {len(rows)} rows")

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        with self._database.read() as tx:
            sequence, place, stamp = self._generation(tx, spec.name)
            rows = self._matching(tx, spec, scope, self._row_cache(tx, spec), sequence)
            try:
                index = self._keyword_index(spec.name, place, stamp)
                asked = max(2 * limit, 64)
                while True:
                    hits = index.search(text, asked, scope.tenant)
                    allowed = np.isin(hits.rows, rows, assume_unique=True)
                    if hits.exhausted or np.count_nonzero(allowed) > limit:
                        break
                    asked *= 4
            except KeywordIndexDamaged as error:
                raise self._damaged(error) from error
            except OSError as error:
                raise StoreError(f"The keyword index cannot be read ({error}). Check the permissions there.") from error
            chosen = hits.rows[allowed].tolist()
            ids = _point_ids(tx, spec.name, chosen[:limit])
            scores = hits.scores[allowed].tolist()
            items = [Candidate(ids[row], value) for row, value in zip(chosen[:limit], scores, strict=False)]
        return Candidates(items, exact=True, exhausted=len(chosen) <= limit, plan=f"BM25 over {len(rows)} rows")

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        self.capabilities.require_hybrid()
        raise AssertionError("unreachable: hybrid is not claimed")

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        with self._database.read() as tx:
            sequence = self._generation(tx, spec.name)[0]
            return len(self._matching(tx, spec, scope, self._row_cache(tx, spec), sequence))

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        last = 0
        while True:
            with self._database.read() as tx:
                rows = tx.execute(
                    f"SELECT row, point_id, index_status FROM {spec.name} WHERE row > ? ORDER BY row LIMIT 10000",
                    (last,),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from ((point_id, status) for _, point_id, status in rows)

    def flush(self, spec: GenerationSpec) -> None:
        """Nothing waits: every write is visible when its transaction commits."""

    def build(self, spec: GenerationSpec) -> None:
        """Nothing waits: search is exact."""

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: Iterable[tuple[bytes, Metadata]]) -> None:
        name = new.name
        added = Fields({field: kind for field, kind in new.fields.items() if field not in old.fields})
        with self._database.write() as tx:
            for field, kind in added.items():
                _add_column(tx, name, field, kind)
            last = 0
            while stored := tx.execute(
                f"SELECT row, metadata FROM {name} WHERE row > ? ORDER BY row LIMIT 5000", (last,)
            ).fetchall():
                last = stored[-1][0]
                for row, text in stored:
                    metadata = orjson.loads(text)
                    if any(metadata.get(field) is not None for field in added):
                        self._backfill(tx, name, row, new.fields.newly_declared(metadata, old.fields), added)
            tx.execute("UPDATE store_generations SET sequence = sequence + 1 WHERE name = ?", (name,))

    def _backfill(self, tx: Transaction, name: str, row: int, metadata: Metadata, added: Fields) -> None:
        columns = []
        for field, kind in added.items():
            value = metadata.get(field)
            if kind is FieldType.LIST and value is not None:
                tx.executemany(
                    f"INSERT INTO {name}_lists VALUES (?, ?, ?)",
                    ((field, member, row) for member in dict.fromkeys(value)),
                )
                value = 1
            columns.append(value)
        sets = ", ".join(f"{field_column(field)} = ?" for field in added)
        tx.execute(
            f"UPDATE {name} SET metadata = ?, {sets} WHERE row = ?", (orjson.dumps(metadata).decode(), *columns, row)
        )

    def repair(self, spec: GenerationSpec) -> list[str]:
        """Rebuild the keyword index in a new place; readers move to it at their next query."""
        with self._database.write() as tx:
            self._rebuild_keywords(tx, spec.name)
        return [f"keyword index rebuilt from {self.stats(spec)['points']} rows"]

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        with self._database.read() as tx:
            (points,) = tx.execute(f"SELECT count(*) FROM {spec.name}").fetchone()
            (unlisted,) = tx.execute(f"SELECT count(*) FROM {spec.name}_unlisted").fetchone()
            (last_row,) = tx.execute("SELECT last_row FROM store_generations WHERE name = ?", (spec.name,)).fetchone()
            _, place, stamp = self._generation(tx, spec.name)
            try:
                index = self._keyword_index(spec.name, place, stamp)
                index.check()
                keyword_rows: int | None = index.rows_up_to(last_row) - unlisted
            except (KeywordIndexDamaged, OSError):
                keyword_rows = None
            size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
        return {"points": points, "keyword_rows": keyword_rows, "bytes": size}

    def read_marker(self, collection: str) -> str | None:
        with self._database.read() as tx:
            if not _has_table(tx, "store_markers"):
                return None
            found = tx.execute("SELECT ledger_id FROM store_markers WHERE collection = ?", (collection,)).fetchone()
            return str(found[0]) if found else None

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        with self._database.write() as tx:
            tx.execute(
                "CREATE TABLE IF NOT EXISTS store_markers (collection TEXT PRIMARY KEY, ledger_id TEXT NOT NULL)"
            )
            tx.execute("DELETE FROM store_markers WHERE collection = ?", (collection,))
            if ledger_id is not None:
                tx.execute("INSERT INTO store_markers VALUES (?, ?)", (collection, ledger_id))

    def close(self) -> None:
        with self._lock:
            self._rows.clear()
            self._keywords.clear()
        self._database.close()

    def _generation(self, tx: Transaction, name: str) -> tuple[int, str, int]:
        """Sequence, place of the keyword index, stamp of its last commit: as this transaction sees them."""
        found = tx.execute(
            "SELECT sequence, keywords, keyword_stamp FROM store_generations WHERE name = ?", (name,)
        ).fetchone()
        if found is None:
            raise StoreError(f"{name} is not in {self.path}: somebody has dropped it, or the directory is another one.")
        return found[0], found[1], found[2]

    def _row_cache(self, tx: SqliteTransaction, spec: GenerationSpec) -> RowCache:
        if tx.writable:  # what a transaction reads of its own writes is gone if it rolls back: remember none of it
            return RowCache(spec)
        with self._lock:
            return self._rows.setdefault(spec.name, RowCache(spec))

    @property
    def _lock(self) -> threading.RLock:
        # Locks and mapped files of a parent process are not ours: another of its threads may have held them at the fork.
        if self._pid != os.getpid():
            self._own_lock = threading.RLock()
            self._abandoned = (self._rows, self._keywords)
            self._rows, self._keywords = {}, {}
            self._pid = os.getpid()
        return self._own_lock

    def _matching(
        self, tx: Transaction, spec: GenerationSpec, scope: Scope, cache: RowCache, sequence: int
    ) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Row numbers, ascending, of the indexed points in scope."""
        if spec.tenanted and not scope.tenant:
            raise TenantRequired("This collection is searched per tenant. Use collection.tenant(id).")
        conditions = ["p.index_status = 'indexed'"]
        parameters: list[Any] = []
        if scope.tenant is not None:
            conditions.append("p.tenant_id = ?")
            parameters.append(scope.tenant)
        if scope.point_ids is not None:
            chosen = _by_ids(tx, f"SELECT row FROM {spec.name}", scope.point_ids)
            conditions.append("p.row IN (SELECT value FROM json_each(?))")
            parameters.append(orjson.dumps([row for (row,) in chosen]).decode())
        if scope.filter is not None:
            condition, values = compile_sql(scope.filter, spec.fields, f"{spec.name}_lists")
            conditions.append(f"({condition})")
            parameters += values
        return cache.matching(tx, " AND ".join(conditions), tuple(parameters), sequence)

    def _keyword_index(self, name: str, place: str, stamp: int) -> KeywordIndex:
        with self._lock:
            known = self._keywords.get(name)
            if known is not None and known[0] == place:
                if known[1] != stamp:
                    known[2].require(stamp)
                    known[2].reload()
                    self._keywords[name] = (place, stamp, known[2])
                return known[2]
            index = KeywordIndex(self.path / "keywords" / place)
            index.require(stamp)
            self._keywords[name] = (place, stamp, index)
            return index

    def _list_keywords(self, tx: Transaction, name: str, words: Sequence[KeywordRow], above: int) -> _Listing:
        """Begin to write the keyword index, in a thread: both it and SQLite work outside the interpreter's lock."""
        _, place, stamp = self._generation(tx, name)
        query = f"SELECT row FROM {name}_unlisted WHERE since < ?"
        due = [row for (row,) in tx.execute(query, (time.time() - _UNLISTED_GRACE,))]

        def write() -> tuple[int, KeywordIndex]:
            index = self._keyword_index(name, place, stamp)
            return index.write(words, deleted=due, expected=stamp, above=above), index

        return _Listing(place, due, background(write))

    def _settle_keywords(self, tx: Transaction, name: str, listing: _Listing) -> None:
        try:
            stamp, index = listing.written()
        except KeywordIndexDamaged as error:
            log.warning("%s Rebuilding it from the rows.", self._damaged(error))
            self._rebuild_keywords(tx, name)
            return
        except OSError as error:
            raise self._unwritten(error) from error
        with self._lock:
            self._keywords[name] = (listing.place, stamp, index)
        tx.execute("UPDATE store_generations SET keyword_stamp = ? WHERE name = ?", (stamp, name))
        tx.executemany(f"DELETE FROM {name}_unlisted WHERE row = ?", ((row,) for row in listing.due))

    def _rebuild_keywords(self, tx: Transaction, name: str) -> None:
        """A fresh keyword index of the rows as this transaction sees them, beside the old one."""
        _, place, _ = self._generation(tx, name)
        number = int(place.rsplit(".", 1)[1])
        place = f"{name}.{number + 1}"
        # The old index stays until the next rebuild: a reader of the snapshot before this one may be opening it.
        shutil.rmtree(self.path / "keywords" / f"{name}.{number - 1}", ignore_errors=True)
        rows = [
            KeywordRow(row, content, tenant)
            for row, content, tenant in tx.execute(f"SELECT row, content, tenant_id FROM {name} ORDER BY row")
        ]
        try:
            index = KeywordIndex(self.path / "keywords" / place, create=True)
            stamp = index.write(rows)
        except (OSError, KeywordIndexDamaged) as error:
            raise self._unwritten(error) from error
        tx.execute(
            "UPDATE store_generations SET keywords = ?, keyword_stamp = ?, sequence = sequence + 1 WHERE name = ?",
            (place, stamp, name),
        )
        tx.execute(f"DELETE FROM {name}_unlisted")
        with self._lock:
            self._keywords[name] = (place, stamp, index)

    def _unwritten(self, error: OSError | KeywordIndexDamaged) -> StoreError:
        """Why a keyword index could not be written."""
        place = self.path / "keywords"
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT):
            return StoreFull(
                f"No space is left to write the keyword index in {place} ({error}). Everything acknowledged before "
                "is kept. Free some space and run the same command again."
            )
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StoreReadOnly(
                f"The keyword index in {place} cannot be written ({error}). Search with mode='dense' (--mode dense) until "
                "somebody who may write there has run: shelflist repair"
            )
        return StoreError(
            f"The keyword index in {place} cannot be written ({error}). Check the disk, then run this again."
        )

    def _damaged(self, error: KeywordIndexDamaged) -> CacheDamaged:
        return CacheDamaged(f"The keyword index is damaged ({str(error)[:200]}).")


def _add_column(tx: Transaction, name: str, field: str, kind: FieldType) -> None:
    tx.execute(f"ALTER TABLE {name} ADD COLUMN {field_column(field)} {_SQL_TYPES[kind]}")
    tx.execute(f"CREATE INDEX {name}_{field_column(field)} ON {name} ({field_column(field)})")


def _has_table(tx: Transaction, table: str) -> bool:
    found = tx.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    return found is not None


def _by_ids(tx: Transaction, select: str, point_ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(point_ids), _IDS_PER_STATEMENT):
        part = point_ids[start : start + _IDS_PER_STATEMENT]
        rows += tx.execute(f"{select} WHERE point_id IN ({', '.join('?' * len(part))})", part).fetchall()
    return rows


def _point_ids(tx: Transaction, name: str, rows: Sequence[int]) -> dict[int, bytes]:
    ids: dict[int, bytes] = {}
    for start in range(0, len(rows), _IDS_PER_STATEMENT):
        part = rows[start : start + _IDS_PER_STATEMENT]
        ids.update(tx.execute(f"SELECT row, point_id FROM {name} WHERE row IN ({', '.join('?' * len(part))})", part))
    return ids


def background(work: Callable[[], _Result]) -> Callable[[], _Result]:
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
