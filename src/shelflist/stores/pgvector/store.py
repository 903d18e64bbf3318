"""The pgvector store: a table a generation in a Postgres database, which a ledger may share."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from shelflist.config import StoreUrl
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import StoreError, StoreMismatch
from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import Operator
from shelflist.core.types import Candidates, Metadata, Point, SearchParams, UpsertResult, Vector
from shelflist.engine.keywords import Analyzer
from shelflist.postgres import PostgresDatabase, PostgresTransaction, Wire, database_from_url
from shelflist.stores._connect import require_package, retried
from shelflist.stores.pgvector.filters import column, condition
from shelflist.stores.pgvector.planner import read_facts
from shelflist.stores.pgvector.rows import (
    OWN_COLUMNS,
    field_rows,
    point_of,
    rows_of,
    select_sql,
    terms_bytes,
    vector_of,
)
from shelflist.stores.pgvector.schema import (
    MARKERS,
    REGISTRY,
    add_column_sql,
    create_sql,
    field_index_sql,
    require_parameters,
    require_pgvector,
    require_version,
    terms_sql,
    vector_index,
)
from shelflist.stores.pgvector.search import Searches
from shelflist.stores.pgvector.upkeep import Upkeep
from shelflist.stores.protocol import GenerationSpec, Scope, Tell, checked_vector, checked_vectors, require_same_shape

_PART = 5_000
_FEW_ROWS = 100
_COMMON = """a about above after again against all am an and any are as at be because been before being below between both
but by can could did do does doing down during each few for from further had has have having he her here hers him his how i
if in into is it its just me more most my no nor not now of off on once only or other our ours out over own s same she should
so some such t than that the their theirs them then there these they this those through to too under until up very was we
were what when where which while who whom why will with would you your yours"""
"""Words that nearly every English text has."""
_REFUSALS = ("22", "23", "54")
"""Classes of errors that the data of a row bring about: a value, a constraint, a limit."""
_LOCK = "SELECT pg_advisory_xact_lock(5276011, 1)"
"""Against others who make a table at this moment: IF NOT EXISTS alone does not keep two of them apart."""


class PgvectorStore:
    """All generations of one database."""

    capabilities = Capabilities(
        store="pgvector",
        index_kinds=frozenset({"flat", "ivf", "hnsw"}),
        metrics=frozenset({"cosine", "dot", "l2"}),
        filter_operators=frozenset(Operator),
        filtering="by filter",
        exact=True,
        keyword="frequency",
        max_dimensions=16_000,
        max_batch=20_000,
        visibility="immediate",
        tenancy="filter",
        concurrent_writers=True,
        durable=True,
        upkeep=True,
        quantization=frozenset({"half", "binary"}),
        unquantized=frozenset({("half", "flat")}),  # an exact scan reads the whole vectors
        holds="declared",
        versions="pgvector 0.8 on Postgres 16 to 18",
        joins_live=True,
    )

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._analyzer: Analyzer | None = None
        self._common: frozenset[str] = frozenset()
        self._pid = os.getpid()
        self._is_checked = False
        self._searches = Searches(database)

    @classmethod
    def require_client(cls, place: StoreUrl) -> None:
        """MissingDependency if psycopg is not installed."""
        require_package("psycopg", "psycopg", "pgvector", "The pgvector store")

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> PgvectorStore:
        return cls(database_from_url(place, busy_timeout=busy_timeout))

    @property
    def database(self) -> PostgresDatabase:
        return self._database

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        require_parameters(spec)
        vector_index(spec)
        if not self._is_checked:
            with self._database.write() as tx:
                tx.execute(_LOCK)
                require_pgvector(tx, self._database.address)
            self._is_checked = True
        with self._database.write() as tx:
            tx.execute(_LOCK)
            tx.execute(REGISTRY)
            known = tx.execute(
                "SELECT dimensions, metric FROM sl_store_generations WHERE name = ?", (spec.name,)
            ).fetchone()
            if known is not None:
                require_same_shape(known[0], known[1], spec, self._database.address)
                if self._complete(tx, spec):
                    return
            elif _exists(tx, spec.name):
                raise StoreMismatch(
                    f"{self._database.address} has a table {spec.name} that Shelflist did not make. Rename it, or drop it."
                )
            for statement in create_sql(spec):
                tx.execute(statement)
            tx.execute(
                "INSERT INTO sl_store_generations (name, dimensions, metric) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (spec.name, spec.dimensions, spec.metric),
            )
        self._database.forget_types()
        self._searches.forget(spec.name)

    def _complete(self, tx: PostgresTransaction, spec: GenerationSpec) -> bool:
        """Make way for, or make, the tables of a known generation that somebody has dropped; whether they are all there."""
        if not _exists(tx, spec.name):
            tx.execute(f"DROP TABLE IF EXISTS {spec.name}_terms")
            tx.execute("UPDATE sl_store_generations SET measured_rows = 0 WHERE name = ?", (spec.name,))
            return False
        if not _exists(tx, f"{spec.name}_terms"):
            for statement in terms_sql(spec):
                tx.execute(statement)
        return True

    def drop(self, name: str) -> None:
        with self._database.write() as tx:
            if not _exists(tx, "sl_store_generations"):
                return
            if tx.execute("DELETE FROM sl_store_generations WHERE name = ?", (name,)).rowcount:
                tx.execute(f"DROP TABLE IF EXISTS {name}, {name}_terms")
        self._searches.forget(name)

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        if not points:
            return UpsertResult(stored=[])
        vectors = checked_vectors(spec, points)
        unique = list({point.point_id: i for i, point in enumerate(points)}.values())
        failed: dict[bytes, str] = {}
        self._written(lambda tx: self._insert(tx, spec, [points[i] for i in unique], vectors[unique], failed))
        return UpsertResult(stored=[one.point_id for one in points if one.point_id not in failed], failed=failed)

    def _insert(
        self,
        tx: PostgresTransaction,
        spec: GenerationSpec,
        points: Sequence[Point],
        vectors: Vector,
        failed: dict[bytes, str],
    ) -> None:
        """Insert the points that are not there. What is refused, by the server or because it has no
        form that could be sent, is halved until the bad one is alone."""
        name = spec.name
        while True:
            found = tx.execute(
                f"SELECT uuid_send(point_id) FROM {name} WHERE point_id = ANY(?::uuid[])",
                (_hex([point.point_id for point in points]),),
            )
            present = {point_id for (point_id,) in found}
            new = [i for i, point in enumerate(points) if point.point_id not in present]
            if not new:
                return
            columns = ", ".join([*OWN_COLUMNS, *(column(field) for field in spec.fields)])
            tx.execute("SAVEPOINT upsert")
            try:
                chosen = [points[i] for i in new]
                self._insert_rows(tx, f"{name} ({columns})", len(new), rows_of(spec, chosen, vectors[new]))
                self._insert_words(tx, name, chosen)
            except (StoreError, TypeError, ValueError, OverflowError) as error:
                state = str(getattr(error.__cause__, "sqlstate", None) or "")
                if isinstance(error, StoreError) and state[:2] not in _REFUSALS:
                    raise
                tx.execute("ROLLBACK TO SAVEPOINT upsert")
                if state == "23505":  # another writer was quicker, or words are there whose points somebody has deleted
                    tx.execute(
                        f"DELETE FROM {name}_terms t WHERE t.point_id = ANY(?::uuid[]) "
                        f"AND NOT EXISTS (SELECT FROM {name} p WHERE p.point_id = t.point_id)",
                        (_hex([points[i].point_id for i in new]),),
                    )
                    continue
                if len(new) == 1:
                    known = isinstance(error, StoreError)
                    failed[points[new[0]].point_id] = str(error) if known else f"{type(error).__name__}: {error}"
                    return
                half = len(new) // 2
                for part in (new[:half], new[half:]):
                    self._insert(tx, spec, [points[i] for i in part], vectors[part], failed)
                return
            tx.execute("RELEASE SAVEPOINT upsert")
            return

    def _insert_rows(self, tx: PostgresTransaction, into: str, count: int, rows: Iterator[tuple[Any, ...]]) -> None:
        if count > _FEW_ROWS:
            tx.copy(into, rows)
        else:
            tx.insert(into, list(rows))

    def _insert_words(self, tx: PostgresTransaction, name: str, points: Sequence[Point]) -> None:
        analyse = self._terms()
        words = ((uuid.UUID(bytes=point.point_id), terms_bytes(analyse(point.content))) for point in points)
        if len(points) > _FEW_ROWS:
            tx.copy(f"{name}_terms (point_id, terms)", words)
            return
        values = ", ".join(["(?::uuid, ?::tsvector)"] * len(points))
        tx.execute(
            f"INSERT INTO {name}_terms VALUES {values}", [one for row, terms in words for one in (row, Wire(terms))]
        )

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        if point_ids:
            self._change(
                spec,
                point_ids,
                f"WITH gone AS (DELETE FROM {spec.name} WHERE point_id IN ({{locked}}) RETURNING point_id) "
                f"DELETE FROM {spec.name}_terms USING gone WHERE {spec.name}_terms.point_id = gone.point_id",
            )

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        if point_ids:
            self._change(
                spec,
                point_ids,
                f"UPDATE {spec.name} SET index_status = 'stale' WHERE index_status <> 'stale' AND point_id IN ({{locked}})",
            )

    def _change(self, spec: GenerationSpec, point_ids: Sequence[bytes], statement: str) -> None:
        # In the order of their ids: so two writers of the same points wait for each other, and not in a circle.
        locked = f"SELECT point_id FROM {spec.name} WHERE point_id = ANY(?::uuid[]) ORDER BY point_id FOR UPDATE"
        self._written(lambda tx: tx.execute(statement.format(locked=locked), (_hex(point_ids),)))

    def _written(self, write: Callable[[PostgresTransaction], object]) -> None:
        """One write transaction, again while it fails for a passing reason; in a caller's own that is his to decide."""

        def once() -> None:
            with self._database.write() as tx:
                write(tx)

        if self._database.in_transaction:
            once()
        else:
            retried(once, self._database.address)

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        found = self._by_ids(select_sql(spec), point_ids)
        return [point_of(spec, row) for row in found]

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        found = self._by_ids(f"SELECT uuid_send(point_id), vector_send(embedding) FROM {spec.name}", point_ids)
        return {point_id: vector_of(vector) for point_id, vector in found}

    def _by_ids(self, select: str, point_ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
        if not point_ids:
            return []
        with self._database.read(single=True) as tx:
            return tx.execute(f"{select} WHERE point_id = ANY(?::uuid[])", (_hex(point_ids),)).fetchall()

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        return self._searches.nearest(spec, checked_vector(spec, vector), limit, scope, params)

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        analyse = self._terms()
        return self._searches.by_words(spec, analyse(text), self._common, limit, scope)

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        self.capabilities.require_hybrid()
        raise AssertionError("unreachable: hybrid is not claimed")

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        where = condition(spec, scope)
        with self._database.read(single=True) as tx:
            found = tx.execute(
                f"SELECT count(*) FROM {spec.name} p WHERE {where.text}", where.parameters, prepare=False
            )
            return int(found.fetchone()[0])

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        last = bytes(16)
        first = True
        while True:
            with self._database.read(single=True) as tx:
                rows = tx.execute(
                    f"SELECT uuid_send(point_id), index_status FROM {spec.name} "
                    f"WHERE point_id {'>=' if first else '>'} ?::uuid ORDER BY point_id LIMIT 10000",
                    (last.hex(),),
                ).fetchall()
            if not rows:
                return
            last, first = rows[-1][0], False
            yield from rows

    def flush(self, spec: GenerationSpec) -> None:
        """Nothing waits: every write is visible when its transaction commits."""

    def build(self, spec: GenerationSpec) -> None:
        """Build the vector index that is due, and measure on the generation's own vectors what it takes to meet recall.

        Inside a caller's transaction, where neither is possible, nothing is done: every search is right without them.
        """
        if not self._database.in_transaction:
            Upkeep(self._database, spec).run()
            self._searches.forget(spec.name)

    def wait_for_build(self, tell: Tell | None = None) -> None:
        """Nothing is built aside: `build` returns when it is done."""

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: Iterable[tuple[bytes, Metadata]]) -> None:
        added = Fields({field: kind for field, kind in new.fields.items() if field not in old.fields})
        columns = [column(field) for field in added]
        name = new.name
        with self._database.write() as tx:
            for field in added:
                tx.execute(add_column_sql(new, field))
            typed = ", ".join(f"p.{one}" for one in columns)
            tx.execute(
                f"CREATE TEMPORARY TABLE sl_added ON COMMIT DROP AS SELECT p.point_id, p.overflow, {typed} FROM {name} p "
                "WITH NO DATA"
            )
            self._database.forget_types()
            into = f"sl_added (point_id, overflow, {', '.join(columns)})"
            part: list[tuple[bytes, Metadata]] = []
            for row in rows:
                part.append(row)
                if len(part) == _PART:
                    tx.insert(into, field_rows(added, part))
                    part = []
            tx.insert(into, field_rows(added, part))
            sets = ", ".join(f"{one} = a.{one}" for one in columns)
            tx.execute(
                f"UPDATE {name} p SET {sets}, overflow = CASE WHEN a.overflow IS NULL THEN p.overflow "
                "ELSE coalesce(p.overflow, '{}') || a.overflow END FROM sl_added a WHERE p.point_id = a.point_id"
            )
            tx.execute("DROP TABLE sl_added")
            for field in added:
                tx.execute(field_index_sql(new, field))
        self._database.forget_types()
        self._searches.forget(name)

    def repair(self, spec: GenerationSpec) -> list[str]:
        """Mend what a killed build has left, and measure anew."""
        done = Upkeep(self._database, spec).repair()
        self._searches.forget(spec.name)
        return done

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        with self._database.read() as tx:
            (points,) = tx.execute(f"SELECT count(*) FROM {spec.name}").fetchone()
            (words,) = tx.execute(
                f"SELECT count(*) FROM {spec.name} p JOIN {spec.name}_terms t ON t.point_id = p.point_id"
            ).fetchone()
            (size,) = tx.execute(
                "SELECT pg_total_relation_size(?::regclass) + pg_total_relation_size(?::regclass)",
                (spec.name, f"{spec.name}_terms"),
            ).fetchone()
            effort, depth, recall = tx.execute(
                "SELECT effort, depth, recall FROM sl_store_generations WHERE name = ?", (spec.name,)
            ).fetchone()
            facts = read_facts(tx, spec)
        return {
            "points": points,
            "keyword_rows": words,
            "bytes": int(size),
            "indexed": facts.is_indexed,
            "effort": effort,
            "depth": depth,
            "recall": recall,
        }

    def read_marker(self, collection: str) -> str | None:
        with self._database.read() as tx:
            if not self._is_checked:  # every opening comes by here
                installed = tx.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()
                if installed is not None:
                    require_version(installed[0], self._database.address)
            if not _exists(tx, "sl_store_markers"):
                return None
            found = tx.execute("SELECT ledger_id FROM sl_store_markers WHERE collection = ?", (collection,)).fetchone()
            return str(found[0]) if found else None

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        with self._database.write() as tx:
            tx.execute(_LOCK)
            tx.execute(MARKERS)
            if ledger_id is None:
                tx.execute("DELETE FROM sl_store_markers WHERE collection = ?", (collection,))
            else:
                tx.execute(
                    "INSERT INTO sl_store_markers VALUES (?, ?) "
                    "ON CONFLICT (collection) DO UPDATE SET ledger_id = excluded.ledger_id",
                    (collection, ledger_id),
                )

    def close(self) -> None:
        self._database.close()

    def _terms(self) -> Callable[[str], list[str]]:
        if self._analyzer is None or self._pid != os.getpid():  # its lock may be held by a thread of the parent
            self._analyzer, self._pid = Analyzer(), os.getpid()
            self._common = frozenset(self._analyzer.terms(_COMMON))
        return self._analyzer.terms


def _exists(tx: PostgresTransaction, table: str) -> bool:
    return bool(tx.execute("SELECT to_regclass(?) IS NOT NULL", (table,)).fetchone()[0])


def _hex(point_ids: Sequence[bytes]) -> str:
    """Ids as Postgres writes an array of them: one text is sent in a hundredth of the time that its members take."""
    return f"{{{','.join([one.hex() for one in point_ids])}}}"
