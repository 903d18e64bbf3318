"""A fake of the worst server that a collection must live with: every write shows late, and it can do little.

It has no keyword leg, lacks filter operators, keeps declared fields only, normalises vectors, and shows nothing that was
written (points, stale marks, deletes) before a flush. The real engines are tested in tests/servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from shelflist.config import StoreUrl
from shelflist.core.fields import FieldType
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or
from shelflist.core.types import Candidates, Metadata, Point, UpsertResult, Vector
from shelflist.engine.exact import prepared
from shelflist.stores import registry
from shelflist.stores.memory import MemoryStore
from shelflist.stores.protocol import GenerationSpec, Scope, checked_vectors

_SERVERS: dict[str, _Server] = {}


class _Server:
    def __init__(self) -> None:
        self.rows = MemoryStore()
        self.waiting: list[Callable[[], object]] = []


class LateStore:
    capabilities = replace(
        MemoryStore.capabilities,
        store="late",
        filter_operators=frozenset(Operator) - {Operator.STARTS_WITH},
        unsupported_on=frozenset({(Operator.LT, FieldType.STR), (Operator.CONTAINS, FieldType.LIST)}),
        keyword=None,
        max_batch=7,
        visibility="after_flush",
        durable=True,
        holds="declared",
        vectors="normalised",
    )

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._rows = server.rows

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> LateStore:
        return cls(_SERVERS.setdefault(place.netloc, _Server()))

    @property
    def database(self) -> None:
        return None

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        self._rows.create(spec)

    def drop(self, name: str) -> None:
        self._rows.drop(name)

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        assert len(points) <= self.capabilities.max_batch
        vectors = checked_vectors(spec, points)
        kept = [
            replace(
                point,
                content="",
                metadata={name: value for name, value in point.metadata.items() if name in spec.fields},
                vector=prepared(vector, spec.metric),
            )
            for point, vector in zip(points, vectors, strict=True)
        ]
        self._server.waiting.append(lambda: self._rows.upsert(spec, kept))
        return UpsertResult([point.point_id for point in points])

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        ids = list(point_ids)
        self._server.waiting.append(lambda: self._rows.delete(spec, ids))

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        ids = list(point_ids)
        self._server.waiting.append(lambda: self._rows.set_stale(spec, ids))

    def flush(self, spec: GenerationSpec) -> None:
        waiting, self._server.waiting = self._server.waiting, []
        for write in waiting:
            write()

    def build(self, spec: GenerationSpec) -> None:
        """Nothing waits: search is exact."""

    def wait_for_build(self, tell: Any = None) -> None:
        """Nothing is built aside."""

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        return self._rows.get(spec, point_ids)

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        return self._rows.vectors(spec, point_ids)

    def search(self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: Any) -> Candidates:
        self._require(spec, scope.filter)
        return self._rows.search(spec, vector, limit=limit, scope=scope, params=params)

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        self.capabilities.require_keyword()
        raise AssertionError("unreachable")

    def hybrid_search(self, spec: GenerationSpec, text: str, vector: Vector, **options: Any) -> Candidates:
        self.capabilities.require_hybrid()
        raise AssertionError("unreachable")

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        self._require(spec, scope.filter)
        return self._rows.count(spec, scope)

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        return self._rows.scan(spec)

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: Iterable[tuple[bytes, Metadata]]) -> None:
        self.flush(old)
        metadata = {one: {k: v for k, v in row.items() if k in new.fields} for one, row in rows}
        points = [replace(p, metadata=metadata[p.point_id]) for p in self._rows.get(old, list(metadata))]
        self._rows.delete(old, [point.point_id for point in points])
        self._rows.upsert(new, points)
        self._rows.set_stale(new, [point.point_id for point in points if point.index_status == "stale"])

    def repair(self, spec: GenerationSpec) -> list[str]:
        return []

    def stats(self, spec: GenerationSpec) -> dict[str, Any]:
        return {"points": self._rows.stats(spec)["points"]}

    def read_marker(self, collection: str) -> str | None:
        return self._rows.read_marker(collection)

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        self._rows.write_marker(collection, ledger_id)

    def close(self) -> None:
        """The server goes on."""

    def _require(self, spec: GenerationSpec, filter: Filter | None) -> None:
        match filter:
            case Comparison():
                self.capabilities.require_operator(filter.operator, spec.fields.require(filter.field))
            case Not():
                self._require(spec, filter.part)
            case And() | Or():
                for part in filter.parts:
                    self._require(spec, part)


registry.STORES["late"] = ("late_store", "LateStore")
