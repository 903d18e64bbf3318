"""What a store is: a place for points of one or more generations, each under its physical name."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import DimensionMismatch, InvalidVector, StoreMismatch
from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import Filter
from shelflist.core.transaction import Database, LiveClause
from shelflist.core.types import Candidates, IndexSpec, Metadata, Metric, Point, SearchParams, UpsertResult, Vector
from shelflist.core.vectors import float32

Tell = Callable[[int, int], None]
"""Hears how much of long work is done, and of how much."""


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """Everything a store must know to make room for a generation. `name` is its physical name."""

    name: str
    dimensions: int
    metric: Metric = "cosine"
    index: IndexSpec | None = None
    fields: Fields = Fields()
    tenanted: bool = False
    target_recall: float = 0.95


@dataclass(frozen=True, slots=True)
class Scope:
    """What a search, count or scan is restricted to.

    `filter` is checked and normalised (see `core.filters`). `tenant` must be given for a tenanted generation.
    Only points whose `index_status` is `indexed` answer; the ledger checks them once more. `point_ids`: only these (at
    most 10,000), where the ledger has resolved a filter that the store cannot. `live`: the ledger's check, for a store
    in the same database that can join it; a hint, which others ignore.
    """

    filter: Filter | None = None
    tenant: str | None = None
    point_ids: Sequence[bytes] | None = None
    live: LiveClause | None = None


class Store(Protocol):
    """Where a generation's vectors and metadata live.

    Every method takes the generation's spec. Methods raise `StoreError` subclasses, never a client library's own errors.
    """

    capabilities: Capabilities

    @property
    def database(self) -> Database | None:
        """The SQL database behind this store, if a ledger may share it."""
        ...

    def create(self, spec: GenerationSpec) -> None:
        """Make room for the generation; nothing happens if it exists.

        UnsupportedIndex for an index, metric or dimension that is not claimed; StoreMismatch if its place is there with
        another dimension or metric.
        """
        ...

    def drop(self, name: str) -> None:
        """Remove the generation and all its points; nothing happens if it does not exist."""
        ...

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        """Write points; writing the same point again changes nothing. Returns what is stored, item by item.

        A vector that is none (dimensions, NaN, infinity, zeros under cosine) is the caller's mistake: DimensionMismatch
        or InvalidVector names the first such point, and nothing of the batch is written. What the store cannot hold, such
        as too long a text, is in `failed` with the reason, and the other points are stored.
        """
        ...

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        """Remove points; unknown ids are ignored."""
        ...

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        """Set `index_status` of points to `stale`: the only write that a stored point ever sees."""
        ...

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        """The points with these ids, in any order; unknown ids are left out."""
        ...

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        """The vectors of these points, float32 as they were written; unknown ids are left out."""
        ...

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        """The nearest points by the generation's metric: `min(limit, matching points)` of them, nearest first."""
        ...

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        """The best points by BM25: as many as share a term with `text`, up to `limit`, best first."""
        ...

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        """The store's own fusion of both legs, best first, with its scores; UnsupportedOperation where it has none."""
        ...

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        """How many indexed points are in scope."""
        ...

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        """Every stored point as (point_id, index_status), whatever its status."""
        ...

    def flush(self, spec: GenerationSpec) -> None:
        """Return when everything written before is searchable, be it by a scan."""
        ...

    def build(self, spec: GenerationSpec) -> None:
        """Return when the index that the generation calls for is built, or (`builds_aside`) being built while every search
        finds everything without it; `close` then waits. Called at the end of a pass, not after a write."""
        ...

    def wait_for_build(self, tell: Tell | None = None) -> None:
        """Return when this process builds nothing aside any more. `tell` hears now and then how many vectors of how many
        are done; an exception, out of it or out of the wait, stops the building."""
        ...

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: Iterable[tuple[bytes, Metadata]]) -> None:
        """Make the fields that `new` declares beyond `old` filterable, for the points that are there too.

        `rows`: every point that may be there, by id, with its metadata in the stored form of `new`. A store that holds
        all metadata itself need not read them.
        """
        ...

    def repair(self, spec: GenerationSpec) -> list[str]:
        """Rebuild damaged caches from the store's own rows; returns what was done, in sentences."""
        ...

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        """Numbers for `status`: at least `points`; `rows` as well, where one id may have several, for `verify`."""
        ...

    def read_marker(self, collection: str) -> str | None:
        """The `ledger_id` that owns the collection of this name here, or None."""
        ...

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        """Say which ledger owns the collection; None takes the mark away."""
        ...

    def close(self) -> None: ...


def checked_vectors(spec: GenerationSpec, points: Sequence[Point]) -> Vector:
    """The points' vectors as one float32 array of shape (n, dimensions), or the error of the first bad one, named."""
    try:
        rows = float32([point.vector for point in points])
    except (TypeError, ValueError, OverflowError):
        rows = np.empty((0, 0), np.float32)
    whole = rows.shape == (len(points), spec.dimensions) and bool(np.isfinite(rows).all())
    if not whole or (spec.metric == "cosine" and not rows.any(axis=1).all()):
        rows = np.array([_named(spec, point) for point in points], dtype=np.float32)
    return rows.reshape(len(points), spec.dimensions)


def _named(spec: GenerationSpec, point: Point) -> Vector:
    try:
        return checked_vector(spec, point.vector)
    except InvalidVector as error:
        chunk = uuid.UUID(bytes=point.chunk_id)
        raise type(error)(f"The chunk {chunk} of document {point.document_id[:200]!r}: {error}") from None


def checked_vector(spec: GenerationSpec, vector: Vector) -> Vector:
    """The vector as float32 of shape (dimensions,), or DimensionMismatch / InvalidVector."""
    try:
        row = float32(vector)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidVector(
            f"A vector is not a row of numbers that float32 holds: {error}. Check the embedder that made it."
        ) from None
    if row.ndim != 1 or len(row) != spec.dimensions:
        raise DimensionMismatch(f"Expected a vector of {spec.dimensions} dimensions, got shape {row.shape}.")
    if 0 < np.vdot(row, row) < np.inf:  # one pass that warns of nothing, and true of all that is well
        return row
    if not np.isfinite(row).all():
        raise InvalidVector("A vector holds NaN or infinity. Check the embedder that made it.")
    if spec.metric == "cosine" and not row.any():
        raise InvalidVector(
            "A vector is all zeros, which has no direction for cosine. Check the embedder that made it."
        )
    return row


def require_same_shape(dimensions: int, metric: str, spec: GenerationSpec, place: str) -> None:
    """StoreMismatch unless the generation is in the store with the dimensions and metric that are expected."""
    if (dimensions, metric) != (spec.dimensions, spec.metric):
        raise StoreMismatch(
            f"{spec.name} at {place} holds vectors of {dimensions} dimensions under {metric}; {spec.dimensions} under "
            f"{spec.metric} are expected. Somebody else made it, or the ledger is another one: check --ledger and --url."
        )
