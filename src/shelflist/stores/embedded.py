"""The embedded store: one directory, SQLite rows as the truth, everything else a cache.

Tables of a generation NAME:  NAME (points with one typed, indexed column `f_FIELD` a declared field),
NAME_vectors (float32 blobs, apart so that filters read small rows), NAME_lists (members of list fields: what GIN does
in Postgres), NAME_unlisted (deleted rows that the keyword index still holds), NAME_removed (see `_removed`). A row number
is never used twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from shelflist.config import (
    INDEX_DATABASE,
    INDEX_KEYWORDS,
    INDEX_VECTORS,
    StoreUrl,
    require_no_file,
    require_no_options,
)
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import StoreReadOnly, StoreTooNew, UnsupportedIndex
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.nodes import Operator
from shelflist.core.transaction import Transaction
from shelflist.core.types import (
    Candidate,
    Candidates,
    Hnsw,
    IndexSpec,
    IndexStatus,
    Metadata,
    Point,
    SearchParams,
    UpsertResult,
    Vector,
)
from shelflist.database import SqliteDatabase
from shelflist.engine.exact import prepared
from shelflist.engine.keywords import KeywordRow
from shelflist.stores._blobs import vector_of
from shelflist.stores._embedded_keywords import EmbeddedKeywords
from shelflist.stores._embedded_vectors import EmbeddedVectors, by_ids
from shelflist.stores._removed import create_log, log_removed
from shelflist.stores._sql import field_column
from shelflist.stores.protocol import GenerationSpec, Scope, Tell, checked_vector, checked_vectors, require_same_shape

_SQL_TYPES = {
    FieldType.STR: "TEXT",
    FieldType.INT: "INTEGER",
    FieldType.FLOAT: "REAL",
    FieldType.BOOL: "INTEGER",
    FieldType.DATETIME: "INTEGER",
    FieldType.LIST: "INTEGER",
}


_FORMAT = 0
"""Of the tables, as SQLite's `user_version` says it. One that older versions cannot read gets the next number, and is to
be written when it is made."""


class EmbeddedStore:
    """All generations of one directory."""

    capabilities = Capabilities(
        store="embedded",
        index_kinds=frozenset({"flat", "hnsw", "ivf"}),
        quantization=frozenset({"rabitq", "rabitq2"}),
        metrics=frozenset({"cosine", "dot", "l2"}),
        filter_operators=frozenset(Operator),
        filtering="by filter",
        exact=True,
        keyword="bm25",
        max_dimensions=65_536,
        max_batch=100_000,
        visibility="immediate",
        tenancy="filter",
        concurrent_writers=True,
        durable=True,
        builds_aside=True,
    )

    def __init__(self, path: Path, *, busy_timeout: float = 30.0) -> None:
        self.path = path
        require_no_file(path, "The index")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreReadOnly(
                f"The index directory {path} cannot be made ({error.strerror}). Choose a directory that you may write."
            ) from error
        self._database = SqliteDatabase(path / INDEX_DATABASE, busy_timeout=busy_timeout)
        self._keywords = EmbeddedKeywords(path / INDEX_KEYWORDS)
        self._vectors = EmbeddedVectors(path / INDEX_VECTORS, self._database)

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> EmbeddedStore:
        require_no_options(place)
        return cls(Path(place.path), busy_timeout=busy_timeout)

    @property
    def database(self) -> SqliteDatabase:
        return self._database

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        _require_parameters(spec.index)
        with self._database.write() as tx:
            self._require_known(tx)
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
            create_log(tx, name)
            for field, kind in spec.fields.items():
                _add_column(tx, name, field, kind)
            place, stamp = self._keywords.create(name)
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
            for suffix in ("", "_vectors", "_lists", "_unlisted", "_removed"):
                tx.execute(f"DROP TABLE IF EXISTS {name}{suffix}")
            if _has_table(tx, "store_snapshots"):
                tx.execute("DELETE FROM store_snapshots WHERE name = ?", (name,))
            tx.execute("DELETE FROM store_generations WHERE name = ?", (name,))
        self._vectors.drop(name)
        self._keywords.drop(name)

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        vectors = checked_vectors(spec, points)
        name = spec.name
        with self._database.write() as tx:
            (last_row,) = tx.execute("SELECT last_row FROM store_generations WHERE name = ?", (name,)).fetchone()
            present = {row[0] for row in by_ids(tx, f"SELECT point_id FROM {name}", [p.point_id for p in points])}
            rows: list[tuple[Any, ...]] = []
            blobs: list[tuple[int, bytearray]] = []
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
                        str.__str__(point.index_status),
                        point.content,
                        orjson.dumps(point.metadata).decode(),
                        *columns,
                    )
                )
                blobs.append((row, bytearray(vector)))
                words.append(KeywordRow(row, point.content, point.tenant_id))
            if rows:
                fields = "".join(f", {field_column(field)}" for field in spec.fields)
                self._keywords.write(tx, name, words, above=last_row)
                tx.insert(
                    f"{name} (row, point_id, chunk_id, document_id, tenant_id, index_status, content, "
                    f"metadata{fields})",
                    rows,
                )
                tx.insert(f"{name}_vectors", blobs)
                tx.insert(f"{name}_lists", members)
                tx.execute(
                    "UPDATE store_generations SET last_row = ?, sequence = sequence + 1 WHERE name = ?", (row, name)
                )
        return UpsertResult(stored=[point.point_id for point in points])

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        name = spec.name
        with self._database.write() as tx:
            rows = [(row[0],) for row in by_ids(tx, f"SELECT row FROM {name}", point_ids)]
            if not rows:
                return
            since = time.time()
            create_log(tx, name)
            log_removed(tx, name, [row for (row,) in rows])
            tx.executemany(f"INSERT INTO {name}_unlisted VALUES (?, ?)", ((row, since) for (row,) in rows))
            for suffix in ("_lists", "_vectors", ""):
                tx.executemany(f"DELETE FROM {name}{suffix} WHERE row = ?", rows)
            tx.execute("UPDATE store_generations SET sequence = sequence + 1 WHERE name = ?", (name,))

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        name = spec.name
        with self._database.write() as tx:
            create_log(tx, name)
            log_removed(tx, name, [row for (row,) in by_ids(tx, f"SELECT row FROM {name}", point_ids)])
            tx.executemany(
                f"UPDATE {name} SET index_status = 'stale' WHERE point_id = ?", ((one,) for one in point_ids)
            )
            tx.execute("UPDATE store_generations SET sequence = sequence + 1 WHERE name = ?", (name,))

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        name = spec.name
        with self._database.read() as tx:
            found = by_ids(
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
                    vector=vector_of(vector),
                    index_status=IndexStatus(status),
                )
                for point_id, chunk_id, document_id, tenant_id, content, metadata, status, vector in found
            ]

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        name = spec.name
        with self._database.read() as tx:
            found = by_ids(tx, f"SELECT point_id, vector FROM {name} JOIN {name}_vectors USING (row)", point_ids)
            return {point_id: vector_of(vector) for point_id, vector in found}

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        query = prepared(checked_vector(spec, vector), spec.metric)
        with self._database.read() as tx:
            state, matches = self._vectors.matching(tx, spec, scope)
        found = self._vectors.search(state, matches, query, limit, spec, params)
        ids = state.ids[found.positions].tobytes()
        items = [Candidate(ids[16 * i : 16 * i + 16], distance) for i, distance in enumerate(found.distances.tolist())]
        return Candidates(items, exact=found.exact, exhausted=limit >= matches.count, plan=found.plan)

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        with self._database.read() as tx:
            state, matches = self._vectors.matching(tx, spec, scope)
            with self._keywords.reading(tx, spec.name) as index:
                asked = max(2 * limit, 64)
                while True:
                    hits = index.search(text, asked, scope.tenant)
                    positions, allowed = state.positions(hits.rows)
                    allowed[allowed] = matches.mask[positions[allowed]]
                    if hits.exhausted or np.count_nonzero(allowed) > limit:
                        break
                    asked *= 4
        chosen = positions[allowed]
        scores = hits.scores[allowed].tolist()
        items = [
            Candidate(state.ids[position].tobytes(), value)
            for position, value in zip(chosen[:limit].tolist(), scores, strict=False)
        ]
        return Candidates(items, exact=True, exhausted=len(chosen) <= limit, plan=f"BM25 over {matches.count} rows")

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        self.capabilities.require_hybrid()
        raise AssertionError("unreachable: hybrid is not claimed")

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        with self._database.read() as tx:
            return self._vectors.matching(tx, spec, scope)[1].count

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
        """Have a snapshot of the vectors, with the index over them, built aside if it is due; `close` waits for it.

        Every point can be found without it: what is newer than the last snapshot is compared exactly.
        """
        self._vectors.build(spec)

    def wait_for_build(self, tell: Tell | None = None) -> None:
        self._vectors.wait(tell)

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
        """Rebuild the keyword index and the snapshot of the vectors, in new places; readers move to them at their next query.

        Both, since damage may show to a query that is not seen from here; what is said tells them apart.
        """
        before = self.stats(spec)
        sound_words = before["keyword_rows"] == before["points"]
        with self._database.write() as tx:
            self._keywords.rebuild(tx, spec.name)
        done = [f"keyword index {_rebuilt(sound_words)} from {self.stats(spec)['points']} rows"]
        if self._vectors.rebuild(spec):
            done.append(f"vector index {_rebuilt(bool(before['snapshot_rows']))}")
        return done

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        with self._database.read() as tx:
            (points,) = tx.execute(f"SELECT count(*) FROM {spec.name}").fetchone()
            (last_row,) = tx.execute("SELECT last_row FROM store_generations WHERE name = ?", (spec.name,)).fetchone()
            keyword_rows = self._keywords.rows(tx, spec.name, last_row)
            size = sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())
            snapshot_rows = self._vectors.rows(tx, spec)
        return {"points": points, "keyword_rows": keyword_rows, "snapshot_rows": snapshot_rows, "bytes": size}

    def read_marker(self, collection: str) -> str | None:
        with self._database.read() as tx:
            self._require_known(tx)  # whoever opens a collection asks for its marker first
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

    def _require_known(self, tx: Transaction) -> None:
        (version,) = tx.execute("PRAGMA user_version").fetchone()
        if version > _FORMAT:
            raise StoreTooNew(
                f"The index in {self.path} has store version {version}; this Shelflist knows up to {_FORMAT}. "
                "Upgrade with: pip install -U shelflist. Nothing was changed."
            )

    def close(self) -> None:
        self._vectors.close()
        self._keywords.close()
        self._database.close()


def _require_parameters(index: IndexSpec | None) -> None:
    """UnsupportedIndex for a graph that FAISS would end the process over, or never end building."""
    limits = {"m": (2, 256), "ef_construction": (1, 10_000)} if isinstance(index, Hnsw) else {}
    for name, (least, most) in limits.items():
        value = getattr(index, name)
        if not least <= value <= most:
            raise UnsupportedIndex(f"The embedded store takes {name} from {least} to {most}, not {value}.")


def _rebuilt(was_sound: bool) -> str:
    return "showed no damage, rebuilt all the same" if was_sound else "rebuilt"


def _add_column(tx: Transaction, name: str, field: str, kind: FieldType) -> None:
    tx.execute(f"ALTER TABLE {name} ADD COLUMN {field_column(field)} {_SQL_TYPES[kind]}")
    tx.execute(f"CREATE INDEX {name}_{field_column(field)} ON {name} ({field_column(field)})")


def _has_table(tx: Transaction, table: str) -> bool:
    found = tx.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    return found is not None
