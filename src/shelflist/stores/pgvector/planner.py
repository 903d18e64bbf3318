"""Which way a search goes, and the one statement that it sends.

    vector  the vector index, scanned on until enough rows have passed the condition; for no filter, or one that most of
            the collection matches. A filter that is correlated against the query starves it at any effort.
    signs   all matching rows ranked by the sign bits in the field's covering index, the first `depth` of them rescored:
            its work grows with the matching rows in a straight line, and no filter is hard for it
    exact   all matching rows, found by the indexes of their fields

The way is chosen by the statement's shape, never by `enable_…` settings: `AS MATERIALIZED` and `OFFSET 0` are fences that
Postgres's planner does not look over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shelflist.core.errors import StoreError
from shelflist.core.transaction import LiveClause
from shelflist.core.types import Flat, Hnsw, Ivf, SearchParams, Vector
from shelflist.engine.exact import prepared
from shelflist.engine.signs import sign_bits
from shelflist.postgres import PostgresTransaction, Wire
from shelflist.stores._sql import Sql
from shelflist.stores.pgvector.filters import is_covered
from shelflist.stores.pgvector.rows import bit_bytes, vector_bytes
from shelflist.stores.pgvector.schema import (
    MOST_EFFORT,
    SYMBOLS,
    VectorIndex,
    bits_type,
    lists,
    row_bytes,
    vector_index,
    vector_index_name,
)
from shelflist.stores.protocol import GenerationSpec, Scope

FEW_ROWS = 2_000
"""So few are quicker read than found."""
_MOST_SIGNS = 250_000
"""Matching rows up to which their sign bits are all read: some 50 ms."""
_MOST_EXACT = 50_000
"""Matching rows up to which a filter that no covering index holds is answered exactly: some 80 ms."""
_EFFORT, _FILTERED_EFFORT = 120, 240
_DEPTH = 400
"""Before anything was measured. By sign bits of 100,000 MiniLM vectors the ten nearest stand in the first 140."""
_LARGE_SHARE = 20
"""Asked for more than the 20th part of all rows, a graph is no quicker than reading them."""

SESSION: dict[str, str | int | float] = {
    "jit": "off",
    "max_parallel_workers_per_gather": 0,
    "random_page_cost": 1.1,
    "hnsw.iterative_scan": "relaxed_order",
    "ivfflat.iterative_scan": "relaxed_order",
}
"""Of every connection that searches. To start a compiler or workers takes longer than most searches do, and no index of
this kind is served well by a disk on which the next page is four times as near as any other."""

Way = Literal["vector", "signs", "exact"]
_ID = "uuid_send(p.point_id) AS point_id"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a generation: about how many rows it has, whether its vector index can be used, and what was
    measured on its own vectors (None: nothing yet)."""

    rows: int
    is_indexed: bool
    effort: int | None = None
    depth: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One statement and how its answer is to be read: rows of (point_id, distance, candidates, live columns …),
    in no order.

    `depth`: with fewer candidates than this every match was rescored. `plan` is for people. `prepare`: one plan serves every
    such statement, so it need not be made anew, which takes as long as the search; where a filter's value decides what is
    best it is made anew each time.
    """

    way: Way
    statement: Sql
    depth: int
    plan: str
    prepare: bool = False


def read_facts(tx: PostgresTransaction, spec: GenerationSpec) -> Facts:
    """What Postgres's catalogue and the last measurement say. Rows are an estimate, by size where none is analysed."""
    found = tx.execute(
        "SELECT c.reltuples::float8, pg_relation_size(c.oid), g.effort, g.depth, "
        "(SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(?)) "
        "FROM sl_store_generations g JOIN pg_class c ON c.oid = ?::regclass WHERE g.name = ?",
        (vector_index_name(spec.name), spec.name, spec.name),
    ).fetchone()
    if found is None:
        raise StoreError(f"The store has no generation {spec.name}. Create it first.")
    analysed, size, effort, depth, valid = found
    return Facts(max(int(analysed), size // row_bytes(spec)), bool(valid), effort, depth)


def way_of(spec: GenerationSpec, scope: Scope, params: SearchParams, facts: Facts, limit: int) -> Way | None:
    """The way that a search goes; None where it depends on how many rows match (see `way_by_matches`)."""
    index = spec.index
    if params.exact or (isinstance(index, Flat) and index.quantization != "binary") or scope.point_ids is not None:
        return "exact"
    if facts.rows <= FEW_ROWS and not (isinstance(index, (Hnsw, Ivf)) and facts.is_indexed and scope.filter is None):
        return "exact"
    if scope.filter is None and scope.tenant is None:
        return "vector" if facts.is_indexed and limit * _LARGE_SHARE <= facts.rows else "exact"
    if isinstance(index, Hnsw) and index.full_scan_threshold is not None:
        return None
    return "signs" if is_covered(spec, scope) and facts.rows <= _MOST_SIGNS and _depth(spec, facts) else None


def way_by_matches(spec: GenerationSpec, scope: Scope, facts: Facts, limit: int, matches: int) -> Way:
    index = spec.index
    if isinstance(index, Hnsw) and index.full_scan_threshold is not None and matches <= index.full_scan_threshold:
        return "exact"
    if is_covered(spec, scope) and matches <= _MOST_SIGNS and _depth(spec, facts):
        return "signs"
    if matches <= _MOST_EXACT or not facts.is_indexed or limit * _LARGE_SHARE > matches:
        return "exact"
    return "vector"


def step(
    way: Way,
    spec: GenerationSpec,
    scope: Scope,
    where: Sql,
    vector: Vector,
    limit: int,
    params: SearchParams,
    facts: Facts,
) -> Step:
    """The statement that answers with the `limit` nearest by this way."""
    query = prepared(vector, spec.metric)
    sent = Wire(vector_bytes(query))
    distance = f"p.embedding {SYMBOLS[spec.metric]} ?::vector AS distance"
    name = spec.name
    if way == "exact":
        inner = f"SELECT p.point_id, {distance}, 0 AS candidates FROM {name} p WHERE {where.text} OFFSET 0"
        found = Sql(inner, (sent, *where.parameters))
        return Step(way, _answer(found, limit, scope.live), 0, "exact over the rows that match")
    if way == "signs":
        depth = depth_for(spec, facts, limit)
        bits = Wire(bit_bytes(sign_bits(query[None])[0]))
        # LATERAL and its fence: one look-up by key a candidate, where a join might read the whole table.
        inner = (
            f"WITH nearest AS MATERIALIZED (SELECT p.point_id FROM {name} p WHERE {where.text} "
            f"ORDER BY p.bits <~> ?::{bits_type(spec)} LIMIT ?) "
            "SELECT n.point_id, r.distance, (SELECT count(*) FROM nearest) AS candidates FROM nearest n CROSS JOIN LATERAL "
            f"(SELECT {distance} FROM {name} p WHERE p.point_id = n.point_id OFFSET 0) r"
        )
        found = Sql(inner, (*where.parameters, bits, depth, sent))
        return Step(way, _answer(found, limit, scope.live), depth, f"sign bits in the index, {depth} rescored")
    is_filtered = scope.filter is not None or scope.tenant is not None
    index = vector_index(spec)
    assert index is not None
    breadth = _breadth(index, spec, limit, facts)
    setting, effort = _effort(spec, params, facts, max(limit, breadth), is_filtered=is_filtered)
    kind = "HNSW" if setting.startswith("hnsw") else "IVFFlat"
    plan = f"{kind}, {setting.partition('.')[2]} {effort}"
    guarded = f"{name} p WHERE (SELECT set_config('{setting}', ?, true)) IS NOT NULL AND {where.text}"
    values = (sent, str(effort), *where.parameters)
    if index.form == "vector":
        # The index knows the distances themselves, so nothing need be rescored.
        nearest = f"SELECT {_ID}, {distance}, 0 AS candidates FROM {guarded} ORDER BY p.embedding {SYMBOLS[spec.metric]} ?::vector"
        found = Sql(f"{nearest} LIMIT {limit}", (*values, sent))
        return Step(way, _checked(found, scope.live), 0, plan, prepare=not is_filtered)
    order, ordered_by = _index_order(index, spec, query, sent)
    inner = (
        f"SELECT p.point_id, {distance}, 0 AS candidates FROM (SELECT p.point_id, p.embedding FROM {guarded} "
        f"ORDER BY {order} LIMIT {breadth}) p OFFSET 0"
    )
    found = Sql(inner, (*values, ordered_by))
    return Step(way, _answer(found, limit, scope.live), 0, plan, prepare=not is_filtered)


def _answer(found: Sql, limit: int, live: LiveClause | None) -> Sql:
    """The nearest of what was found, with the ledger's check beside each where there is one."""
    # The limit in words: a plan that is kept knows it.
    columns = f"{_ID}, p.distance, p.candidates"
    text = f"SELECT {columns} FROM ({found.text}) p ORDER BY p.distance, p.point_id LIMIT {limit}"
    return _checked(Sql(text, found.parameters), live)


def _checked(found: Sql, live: LiveClause | None) -> Sql:
    """In no order: to sort a few rows here is quicker than to ask Postgres for another sort."""
    if live is None:
        return found
    return Sql(
        f"SELECT found.*, live.* FROM ({found.text}) found LEFT JOIN LATERAL (SELECT true AS shown, own.* FROM ({live.sql}) own) "
        "live ON true",
        (*found.parameters, *live.parameters),
    )


def _breadth(index: VectorIndex, spec: GenerationSpec, limit: int, facts: Facts) -> int:
    """How many rows of the index are rescored."""
    if index.form == "bits":
        return depth_for(spec, facts, limit)
    return limit + 10 if index.form == "half" else limit


def _index_order(index: VectorIndex, spec: GenerationSpec, query: Vector, sent: Wire) -> tuple[str, Wire]:
    """What an index of less than the vectors is ordered by, and its value."""
    if index.form == "half":
        half = f"halfvec({spec.dimensions})"
        return f"p.embedding::{half} {SYMBOLS[spec.metric]} (?::vector)::{half}", sent
    return f"p.bits <~> ?::{bits_type(spec)}", Wire(bit_bytes(sign_bits(query[None])[0]))


def _effort(
    spec: GenerationSpec, params: SearchParams, facts: Facts, breadth: int, *, is_filtered: bool
) -> tuple[str, int]:
    """The setting that says how hard the index is searched, and its value."""
    index = spec.index
    if isinstance(index, Ivf):
        cells = lists(spec, facts.rows)
        probes = params.nprobe or index.nprobe or facts.effort or max(1, round(cells**0.5))
        return "ivfflat.probes", min(probes, cells)
    given = params.ef_search or (index.ef_search if isinstance(index, Hnsw) else None)
    effort = given or facts.effort or _EFFORT
    if is_filtered and given is None:
        effort = max(effort, _FILTERED_EFFORT)
    return "hnsw.ef_search", min(max(effort, breadth), MOST_EFFORT)


def _depth(spec: GenerationSpec, facts: Facts) -> int | None:
    """How many candidates by sign bits hold the ten nearest; None: their order says too little of the distances."""
    if facts.depth is not None:
        return facts.depth or None
    return _DEPTH if spec.metric == "cosine" else None


def depth_for(spec: GenerationSpec, facts: Facts, limit: int) -> int:
    # What was measured for ten grows more slowly than the limit: for a hundred it is five times as much.
    ten = _depth(spec, facts) or _DEPTH
    return max(ten // 2, round(ten * (limit / 10) ** 0.75), 2 * limit)
