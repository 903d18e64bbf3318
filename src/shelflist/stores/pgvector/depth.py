"""How many candidates by sign bits hold the ten nearest: measured on a sample of a generation's own rows, outside Postgres.

Under no filter and under the filters that are hardest: the commonest value of each text field, and the largest tenant.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from shelflist.core.fields import FieldType
from shelflist.core.types import Metric, Vector
from shelflist.engine.exact import distances, nearest, prepared
from shelflist.engine.signs import Codes, sign_bits
from shelflist.postgres import PostgresTransaction
from shelflist.stores._sql import Sql
from shelflist.stores.pgvector.filters import column
from shelflist.stores.pgvector.rows import bits_of, vectors_of
from shelflist.stores.protocol import GenerationSpec

WANTED = 0.98
"""Recall at ten that a setting must show: real questions lie further from the vectors than these do from each other."""
_SAMPLE = 40_000
_PAGE = 4_000
_MARGIN = 1.5
_LEAST_DEPTH, _DEEPEST = 250, 4_000
_NEAREST = 10


def measured_depth(tx: PostgresTransaction, spec: GenerationSpec, queries: Sequence[Vector], rows: int) -> int:
    """How deep the list by sign bits must be read, also under filters; 0 where it is of no use."""
    share = min(1.0, _SAMPLE / max(1, rows))
    found, differing, matching = _looked_at(
        tx, spec, np.stack(queries), [Sql("true"), *_hard_conditions(tx, spec)], share
    )
    worst = 0.0
    for matches in matching:
        places = [_places(found[matches, one], differing[matches, one]) for one in range(len(queries))]
        # A sample of a tenth has its nearest at six tenths of the depth, as measured.
        deep = np.concatenate(places) / share**0.25
        if deep.size:
            worst = max(worst, float(np.quantile(deep, WANTED)))
    return 0 if worst * _MARGIN > _DEEPEST else max(_LEAST_DEPTH, round(worst * _MARGIN))


def nearest_of_all(tx: PostgresTransaction, spec: GenerationSpec, queries: Sequence[Vector]) -> Vector:
    """How far each query's ten nearest are: shape (10, q). The rows are read once for all queries, which is quicker than a
    scan for each."""
    asked = np.stack(queries)
    best = np.empty((0, len(queries)), np.float32)
    for page in _pages(tx, spec, Sql("vector_send(embedding)")):
        found = _distances(prepared(vectors_of([row[1] for row in page]), spec.metric), asked, spec.metric)
        best = np.sort(np.concatenate([best, _smallest(found)]), axis=0)[:_NEAREST]
    return best


def _smallest(found: Vector) -> Vector:
    return np.partition(found, min(_NEAREST, len(found)) - 1, axis=0)[:_NEAREST]


def _places(found: Vector, differing: npt.NDArray[np.int64]) -> Vector:
    """Where the nearest by distance stand in the order of differing bits, counted from 1."""
    fewer = np.cumsum(np.bincount(differing + 1))  # by number of bits: how many rows differ in fewer
    return 1 + fewer[differing[nearest(found, _NEAREST)]].astype(np.float32)


def _looked_at(
    tx: PostgresTransaction, spec: GenerationSpec, queries: Vector, conditions: Sequence[Sql], share: float
) -> tuple[Vector, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Of a sample of n rows and q queries: distances (n, q), differing bits (n, q), and who matches each condition."""
    asked_codes = sign_bits(queries)
    columns = ", ".join(["vector_send(embedding)", "bit_send(bits)", *(f"({one.text}) IS TRUE" for one in conditions)])
    values = tuple(value for one in conditions for value in one.parameters)
    found, differing, matching = [], [], []
    for page in _pages(tx, spec, Sql(columns, values), share):
        vectors = prepared(vectors_of([row[1] for row in page]), spec.metric)
        codes = bits_of([row[2] for row in page])
        found.append(_distances(vectors, queries, spec.metric))
        differing.append(differing_bits(codes, asked_codes))
        matching.append(np.array([row[3:] for row in page], dtype=np.bool_).T)
    if not found:
        nothing = np.empty((0, len(queries)), np.float32)
        return nothing, nothing.astype(np.int64), np.empty((len(conditions), 0), np.bool_)
    return np.concatenate(found), np.concatenate(differing), np.concatenate(matching, axis=1)


def _pages(
    tx: PostgresTransaction, spec: GenerationSpec, columns: Sql, share: float = 1.0
) -> Iterator[list[tuple[Any, ...]]]:
    """This share of the rows that are searched, some thousands at a time: the id of each, and `columns`."""
    last = uuid.UUID(int=0)
    end = uuid.UUID(int=min(int(share * 2**128), 2**128 - 1))  # ids are hashes: a range is a sample
    while page := tx.execute(
        f"SELECT point_id, {columns.text} FROM {spec.name} p "
        "WHERE index_status = 'indexed' AND point_id > ?::uuid AND point_id <= ?::uuid ORDER BY point_id LIMIT ?",
        (*columns.parameters, str(last), str(end), _PAGE),
        prepare=False,
    ).fetchall():
        yield page
        last = page[-1][0]


def _distances(vectors: Vector, queries: Vector, metric: Metric) -> Vector:
    """Of n prepared vectors to q prepared queries: shape (n, q)."""
    if metric == "l2":
        return np.stack([distances(vectors, query, metric) for query in queries], axis=1)
    # All queries in one product, which reads the vectors once.
    return (1.0 if metric == "cosine" else 0.0) - vectors @ queries.T


def differing_bits(codes: Codes, asked: Codes) -> npt.NDArray[np.int64]:
    """How many bits of each code (n, bytes) differ from each of those asked for (q, bytes): shape (n, q)."""
    ones, words = _ones(), np.ascontiguousarray(codes).view(np.uint16)
    return np.stack([ones[words ^ one].sum(axis=1, dtype=np.int64) for one in asked.view(np.uint16)], axis=1)


@lru_cache(maxsize=1)
def _ones() -> Codes:
    """How many bits are set in each number of 16 bits: NumPy 1 has no count of its own."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    return np.unpackbits(numbers).reshape(-1, 16).sum(axis=1, dtype=np.uint8)


def _hard_conditions(tx: PostgresTransaction, spec: GenerationSpec) -> list[Sql]:
    names = [column(field) for field, kind in spec.fields.items() if kind is FieldType.STR]
    names += ["tenant_id"] if spec.tenanted else []
    found = tx.execute(
        "SELECT attname::text, (most_common_vals::text::text[])[1], most_common_freqs[1]::float8 FROM pg_stats "
        "WHERE schemaname = current_schema() AND tablename = ? AND attname::text = ANY(?::text[]) "
        "AND most_common_freqs[1] BETWEEN 0.02 AND 0.9 ORDER BY most_common_freqs[1] DESC LIMIT 4",
        (spec.name, [name.strip('"') for name in names]),
    )
    return [Sql(f'p."{name}" = ?::text', (value,)) for name, value, _ in found]
