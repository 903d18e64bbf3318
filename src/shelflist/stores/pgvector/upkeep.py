"""What a generation in Postgres needs from time to time: its vector index, a vacuum, and a measurement.

A vacuum, because an index-only scan trusts only pages that one has marked. A measurement, because how hard an index must
be searched for the recall that is wanted depends on the vectors in it; it is taken against exact search on the
generation's own vectors, under the filters that are hardest: points are looked for among those of another kind.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from shelflist.core.errors import StoreFull
from shelflist.core.log import log
from shelflist.core.types import Hnsw, Ivf, SearchParams, Vector
from shelflist.engine.exact import prepared
from shelflist.postgres import PostgresDatabase, PostgresTransaction
from shelflist.stores._sql import Sql
from shelflist.stores.pgvector.depth import measured_depth, nearest_of_all
from shelflist.stores.pgvector.planner import FEW_ROWS, SESSION, Facts, read_facts, step
from shelflist.stores.pgvector.rows import vector_of
from shelflist.stores.pgvector.schema import (
    lists,
    vector_index,
    vector_index_name,
    vector_index_sql,
)
from shelflist.stores.protocol import GenerationSpec, Scope

DEFAULT_THRESHOLD = 10_000
"""Rows from which the vector index is built; below it every search is exact, and takes a few milliseconds."""
_MARKED = 0.9
_FEW_PAGES = 200
_GROWN = 2
_QUERIES, _MOVED = 16, 400
"""Recall at ten differs by .25 from query to query: with 40 of them an effort of 60 and one of 270 were found for the same
100,000 vectors, and only the latter was enough."""
_TOLD = 40
"""Where the effort is given, and its recall only told."""
_SHIFT = 0.65
"""In the middle of what engine.calibration has found to be as hard for a graph as real questions are."""
_EFFORTS = (60, 90, 120, 180, 270, 400, 600, 1000)
_MEMORY = (64, 2_048)
_UNHURRIED: dict[str, str | int | float] = {"statement_timeout": 0, "lock_timeout": 0}
"""The connection's `timeout` is for what somebody waits for: these take as long as the table is large."""
_BUILDERS = 5276012


class Upkeep:
    """One generation's. Nothing here may run inside a transaction."""

    def __init__(self, database: PostgresDatabase, spec: GenerationSpec) -> None:
        self._database = database
        self._spec = spec

    def run(self) -> None:
        """Everything that is due."""
        with self._database.alone() as tx, _unhurried(tx):
            self._vacuum(tx)
            rows, measured, valid = self._state(tx)
            if vector_index(self._spec) is not None and not valid and rows >= self._threshold():
                self._build(tx, rows)
                measured = 0
        if rows >= max(FEW_ROWS, _GROWN * measured):
            self.measure(rows)

    def repair(self) -> list[str]:
        done = []
        with self._database.alone() as tx, _unhurried(tx):
            index = vector_index_name(self._spec.name)
            rows, _, valid = self._state(tx)
            if valid is False:
                self._build(tx, rows)
                done.append(f"the vector index {index}, which a build had left unfinished, was built anew")
            tx.execute(f"VACUUM (ANALYZE) {self._spec.name}")
            tx.execute(f"VACUUM (ANALYZE) {self._spec.name}_terms")
            done.append(f"{rows} rows vacuumed and analysed")
        if rows >= FEW_ROWS:
            self.measure(rows)
        return done

    def measure(self, rows: int) -> None:
        """Find `effort` and `depth`, and write them down with the recall that they gave."""
        spec = self._spec
        with self._database.read() as tx:
            tx.settings(SESSION)
            tx.execute("SELECT set_config('statement_timeout', '0', true)")
            queries, moved = _queries(tx, spec)
            if not (queries and moved):
                return
            depth = measured_depth(tx, spec, queries, rows)
            facts = read_facts(tx, spec)
            effort, recall = (None, None)
            if facts.is_indexed:
                effort, recall = _effort(tx, spec, moved, Facts(rows, True, None, depth))
        with self._database.write() as tx:
            tx.execute(
                "UPDATE sl_store_generations SET measured_rows = ?, effort = ?, depth = ?, recall = ? WHERE name = ?",
                (rows, effort, depth, recall, spec.name),
            )
        log.info("%s: measured effort %s (recall %s), depth %s over %s rows.", spec.name, effort, recall, depth, rows)

    def _threshold(self) -> int:
        index = self._spec.index
        given = index.indexing_threshold if isinstance(index, Hnsw) else None
        return max(1, DEFAULT_THRESHOLD if given is None else given)

    def _state(self, tx: PostgresTransaction) -> tuple[int, int, bool | None]:
        """About how many rows, how many when last measured, and whether the vector index is valid (None: there is none)."""
        rows = read_facts(tx, self._spec).rows
        measured, valid = tx.execute(
            "SELECT measured_rows, (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(?)) "
            "FROM sl_store_generations WHERE name = ?",
            (vector_index_name(self._spec.name), self._spec.name),
        ).fetchone()
        return rows, measured, valid

    def _vacuum(self, tx: PostgresTransaction) -> None:
        for table in (self._spec.name, f"{self._spec.name}_terms"):
            found = tx.execute(
                "SELECT pg_relation_size(oid) / current_setting('block_size')::int, relallvisible::int8 FROM pg_class "
                "WHERE oid = to_regclass(?)",
                (table,),
            ).fetchone()
            if found is not None and found[0] >= _FEW_PAGES and found[1] < _MARKED * found[0]:
                tx.execute(f"VACUUM (ANALYZE) {table}")

    def _build(self, tx: PostgresTransaction, rows: int) -> None:
        """Build the vector index beside readers and writers; one builder at a time, the others wait for it."""
        spec = self._spec
        index = vector_index_name(spec.name)
        with _only_builder(tx, spec.name):
            valid = self._state(tx)[2]
            if valid:
                return
            if valid is False:
                log.warning("%s: a build of %s was not finished. Building it anew.", self._database.address, index)
                tx.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
            low, high = _MEMORY
            need = rows * (4 * spec.dimensions + 700) // 1_000_000 + 32
            settings: dict[str, str | int | float] = {
                **_UNHURRIED,
                "maintenance_work_mem": f"{min(high, max(low, need))}MB",
                "max_parallel_maintenance_workers": 2,
            }
            try:
                tx.settings(settings)
                tx.execute(vector_index_sql(spec, rows))
            except StoreFull:
                # Parallel workers share their memory under /dev/shm, which is small in many containers.
                tx.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
                tx.settings({**settings, "max_parallel_maintenance_workers": 0})
                tx.execute(vector_index_sql(spec, rows))
            finally:
                tx.settings(_UNHURRIED)


@contextmanager
def _unhurried(tx: PostgresTransaction) -> Iterator[None]:
    tx.settings(_UNHURRIED)
    try:
        yield
    finally:
        tx.settings({})


@contextmanager
def _only_builder(tx: PostgresTransaction, name: str) -> Iterator[None]:
    # Asked for again and again: one who waits inside a statement holds a snapshot, which a concurrent build waits for.
    key = uuid.uuid5(uuid.NAMESPACE_OID, name).int % 2**31
    while not tx.execute("SELECT pg_try_advisory_lock(?::int, ?::int)", (_BUILDERS, key)).fetchone()[0]:
        time.sleep(0.2)
    try:
        yield
    finally:
        tx.execute("SELECT pg_advisory_unlock(?::int, ?::int)", (_BUILDERS, key))


def _queries(tx: PostgresTransaction, spec: GenerationSpec) -> tuple[list[Vector], list[Vector]]:
    """What is like what is stored, and is not it: vectors between two stored ones, nearer to one; and, since a graph finds these
    too easily, stored ones moved by the difference of two others."""
    generator = np.random.default_rng(20)
    # Ids are hashes, so the next one after a random one is a random point.
    found = tx.execute(
        f"SELECT vector_send(p.embedding) FROM unnest(?::uuid[]) WITH ORDINALITY AS one (id, place) CROSS JOIN LATERAL "
        f"(SELECT embedding FROM {spec.name} WHERE index_status = 'indexed' AND point_id >= one.id ORDER BY point_id LIMIT 1) p "
        "ORDER BY one.place",
        ([generator.bytes(16).hex() for _ in range(3 * _MOVED)],),
        prepare=False,
    )
    stored = [prepared(vector_of(row), spec.metric) for (row,) in found]
    between = [a + b / 2 for a, b in zip(stored[: 2 * _QUERIES : 2], stored[1 : 2 * _QUERIES : 2], strict=False)]
    moved = [a + _SHIFT * (b - c) for a, b, c in zip(stored[::3], stored[1::3], stored[2::3], strict=False)]
    first, second = (
        [prepared(one.astype(np.float32), spec.metric) for one in some if one.any()] for some in (between, moved)
    )
    return first, second


def _effort(tx: PostgresTransaction, spec: GenerationSpec, queries: list[Vector], facts: Facts) -> tuple[int, float]:
    """The effort that the index was made with, else the least that finds the ten nearest of all; and the recall of it."""
    index = spec.index
    efforts: list[int] = list(_EFFORTS)
    if isinstance(index, Ivf):
        cells = lists(spec, facts.rows)
        efforts = sorted({max(1, round(cells * share)) for share in (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1)})
    given = index.nprobe if isinstance(index, Ivf) else index.ef_search if isinstance(index, Hnsw) else None
    if given is not None:
        efforts, queries = [given], queries[:_TOLD]
    anywhere = Sql("p.index_status = 'indexed'")
    nearest = nearest_of_all(tx, spec, queries)
    # Whoever is as near as the tenth is a hit: of texts that are there twice, which one comes is all the same.
    bounds = nearest[-1] + 1e-5 * np.abs(nearest[-1]) + 1e-6
    effort, recall = efforts[-1], 0.0
    for effort in efforts:
        params = SearchParams(ef_search=effort, nprobe=effort)
        hit = 0
        for query, bound in zip(queries, bounds, strict=True):
            asked = step("vector", spec, Scope(), anywhere, query, 10, params, facts).statement
            hit += sum(row[1] <= bound for row in tx.execute(asked.text, asked.parameters, prepare=False))
        recall = hit / nearest.size
        if recall >= spec.target_recall:
            break
    return effort, recall
