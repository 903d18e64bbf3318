"""The reference store: points in a dict, filters by `Filter.matches`, exact search. Slow and plainly right."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from shelflist.config import StoreUrl, require_no_options
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import TenantRequired
from shelflist.core.filters.nodes import Operator
from shelflist.core.transaction import Database
from shelflist.core.types import Candidate, Candidates, IndexStatus, Metadata, Point, SearchParams, UpsertResult, Vector
from shelflist.engine.exact import distances, nearest, prepared
from shelflist.engine.keywords import KeywordIndex, KeywordRow
from shelflist.stores.protocol import GenerationSpec, Scope, Tell, checked_vector, checked_vectors, require_same_shape


@dataclass(slots=True)
class _Generation:
    spec: GenerationSpec
    points: dict[bytes, Point] = field(default_factory=dict)
    rows: dict[int, bytes] = field(default_factory=dict)
    keywords: KeywordIndex = field(default_factory=lambda: KeywordIndex(None))


class MemoryStore:
    """Everything in this process, gone with it."""

    capabilities = Capabilities(
        store="memory",
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
        durable=False,
    )

    def __init__(self) -> None:
        self._generations: dict[str, _Generation] = {}
        self._markers: dict[str, str] = {}
        self._next_row = 0
        self._lock = threading.RLock()

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> MemoryStore:
        require_no_options(place)
        return cls()

    @property
    def database(self) -> Database | None:
        return None

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        with self._lock:
            there = self._generations.setdefault(spec.name, _Generation(spec)).spec
        require_same_shape(there.dimensions, there.metric, spec, "memory:")

    def drop(self, name: str) -> None:
        with self._lock:
            self._generations.pop(name, None)

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        with self._lock:
            generation = self._generations[spec.name]
            words = []
            vectors = checked_vectors(spec, points)  # a copy: the caller may reuse its own
            for point, vector in zip(points, vectors, strict=True):
                if point.point_id in generation.points:
                    continue
                generation.points[point.point_id] = replace(point, vector=vector)
                self._next_row += 1
                generation.rows[self._next_row] = point.point_id
                words.append(KeywordRow(self._next_row, point.content, point.tenant_id))
            if words:
                generation.keywords.write(words)
        return UpsertResult(stored=[point.point_id for point in points])

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        with self._lock:
            generation = self._generations[spec.name]
            gone = {point_id for point_id in point_ids if generation.points.pop(point_id, None)}
            rows = [row for row, point_id in generation.rows.items() if point_id in gone]
            for row in rows:
                del generation.rows[row]
            if rows:
                generation.keywords.write([], deleted=rows)

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        with self._lock:
            points = self._generations[spec.name].points
            for point_id in point_ids:
                if point_id in points:
                    points[point_id] = replace(points[point_id], index_status=IndexStatus.STALE)

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        with self._lock:
            points = self._generations[spec.name].points
            return [points[point_id] for point_id in dict.fromkeys(point_ids) if point_id in points]

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        return {point.point_id: point.vector for point in self.get(spec, point_ids)}

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        query = prepared(checked_vector(spec, vector), spec.metric)
        matching = self._matching(spec, scope)
        if not matching:
            return Candidates((), exact=True, exhausted=True, plan="exact over 0 rows")
        matrix = prepared(np.stack([point.vector for point in matching]), spec.metric)
        found = distances(matrix, query, spec.metric)
        items = [Candidate(matching[i].point_id, float(found[i])) for i in nearest(found, limit)]
        return Candidates(items, exact=True, exhausted=limit >= len(matching), plan=f"exact over {len(matching)} rows")

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        with self._lock:
            generation = self._generations[spec.name]
            matching = {point.point_id for point in self._matching(spec, scope)}
            hits = generation.keywords.search(text, max(1, len(generation.rows)))
            pairs = [
                (generation.rows[row], value)
                for row, value in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True)
                if generation.rows.get(row) in matching
            ]
        items = [Candidate(point_id, value) for point_id, value in pairs[:limit]]
        return Candidates(items, exact=True, exhausted=len(pairs) <= limit, plan=f"BM25 over {len(matching)} rows")

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        self.capabilities.require_hybrid()
        raise AssertionError("unreachable: hybrid is not claimed")

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        return len(self._matching(spec, scope))

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        with self._lock:
            points = list(self._generations[spec.name].points.values())
        return iter([(point.point_id, str(point.index_status)) for point in points])

    def flush(self, spec: GenerationSpec) -> None:
        """Nothing waits: every write is visible when it returns."""

    def build(self, spec: GenerationSpec) -> None:
        """Nothing waits: search is exact."""

    def wait_for_build(self, tell: Tell | None = None) -> None:
        """Nothing is built aside: `build` returns when it is done."""

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: Iterable[tuple[bytes, Metadata]]) -> None:
        with self._lock:
            generation = self._generations[new.name]
            generation.spec = new
            for point_id, point in generation.points.items():
                generation.points[point_id] = replace(
                    point, metadata=new.fields.newly_declared(point.metadata, old.fields)
                )

    def repair(self, spec: GenerationSpec) -> list[str]:
        with self._lock:
            generation = self._generations[spec.name]
            generation.keywords = KeywordIndex(None)
            generation.keywords.write(
                [
                    KeywordRow(row, generation.points[point_id].content, generation.points[point_id].tenant_id)
                    for row, point_id in generation.rows.items()
                ]
            )
        return ["keyword index rebuilt"]

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        with self._lock:
            generation = self._generations[spec.name]
            return {"points": len(generation.points), "keyword_rows": generation.keywords.rows}

    def read_marker(self, collection: str) -> str | None:
        return self._markers.get(collection)

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        self._markers.pop(collection, None)
        if ledger_id is not None:
            self._markers[collection] = ledger_id

    def close(self) -> None:
        """Keeps everything: the store lives as long as the object."""

    def _matching(self, spec: GenerationSpec, scope: Scope) -> list[Point]:
        if spec.tenanted and not scope.tenant:
            raise TenantRequired("This collection is searched per tenant. Use collection.tenant(id).")
        with self._lock:
            points = self._generations[spec.name].points
            chosen = points.values() if scope.point_ids is None else self.get(spec, scope.point_ids)
            return [
                point
                for point in chosen
                if point.index_status == IndexStatus.INDEXED
                and (scope.tenant is None or point.tenant_id == scope.tenant)
                and (scope.filter is None or scope.filter.matches(point.metadata))
            ]
