"""The Chroma store: a server by HTTP, or a directory that this process runs itself.

`chroma://host:8000?tls=1&tenant=T&database=D` or `chroma:./directory`. Vectors are in Chroma's HNSW graph, declared
metadata beside them. A filter of Chroma's reads every matching record from SQLite before the graph is asked, so a
filter that lets much through is first tried on what the graph finds without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from shelflist.config import StoreUrl
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import (
    ConfigError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreReadOnly,
    Transient,
    UnsupportedIndex,
)
from shelflist.core.fields import FieldType
from shelflist.core.filters.nodes import Operator
from shelflist.core.transaction import Database
from shelflist.core.types import (
    Candidates,
    Hnsw,
    IndexStatus,
    Metadata,
    Metric,
    Point,
    SearchParams,
    UpsertResult,
    Vector,
)
from shelflist.stores._connect import require_package, server
from shelflist.stores.chroma import client as chroma_client
from shelflist.stores.chroma.client import CollectionMissing, Hidden, WriteUnapplied
from shelflist.stores.chroma.link import MAX_BATCH, Link, parts_of
from shelflist.stores.chroma.records import point_id, point_of, record, record_id, vectors_of, written
from shelflist.stores.chroma.search import STALE, Searcher, ef_search
from shelflist.stores.protocol import GenerationSpec, Scope, Tell, checked_vector, checked_vectors, require_same_shape

_PORT = 8000
_SPACES: Mapping[Metric, str] = {"cosine": "cosine", "dot": "ip", "l2": "l2"}
_METRICS: Mapping[str, Metric] = {space: metric for metric, space in _SPACES.items()}
_MARKERS = "shelflist-markers"

_REQUEST_BYTES = 20_000_000
_BYTES_A_DIMENSION = 6
_BYTES_OF_METADATA = 1_500
"""Chroma's server takes 40 MB in one request."""

_TEXT_ORDER = (Operator.LT, Operator.LE, Operator.GT, Operator.GE, Operator.BETWEEN)


class ChromaStore:
    """Chroma 1.x. One request at a time is its best speed: it has one writer, and two in flight were no faster."""

    capabilities = Capabilities(
        store="chroma",
        index_kinds=frozenset({"hnsw"}),
        metrics=frozenset({"cosine", "dot", "l2"}),
        filter_operators=frozenset(Operator) - {Operator.STARTS_WITH},
        unsupported_on=frozenset((operator, FieldType.STR) for operator in _TEXT_ORDER),
        filtering="by filter",
        exact=True,
        keyword=None,
        max_dimensions=65_536,
        max_batch=MAX_BATCH,
        visibility="immediate",
        tenancy="filter",
        concurrent_writers=True,
        durable=True,
        holds="declared",
        vectors="normalised",
        versions="1.0.20 to 1.5.9 (a server tells only that it is 1, so only that is checked), 1.5 in a directory",
    )

    def __init__(
        self, address: str, connect: Callable[[], Any], directory: Path | None = None, hidden: Hidden = str
    ) -> None:
        self._link = Link(address, connect, directory, hidden)
        if directory is not None:
            self.capabilities = replace(type(self).capabilities, concurrent_writers=False)
        self._searcher = Searcher(self._link, self.capabilities)

    @classmethod
    def require_client(cls, place: StoreUrl) -> None:
        """MissingDependency if chromadb is not installed."""
        require_package("chromadb", "chromadb", "chroma", "The Chroma store")

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> ChromaStore:
        if not place.netloc:
            if not place.path:
                raise ConfigError(
                    f"{place} names no place. Write for example: chroma://127.0.0.1:{_PORT} or chroma:./index"
                )
            if place.query:
                raise ConfigError(f"{place.bare} has options. A Chroma in a directory takes none.")
            path, address = Path(place.path), f"chroma:{place.path}"
            return cls(address, lambda: chroma_client.in_directory(path, address, busy_timeout), path)
        where = server(place, port=_PORT, options=frozenset({"tenant", "database"}), users=True)
        if place.path:
            raise ConfigError(f"{place} has a path. Name Chroma's database by ?database={place.path}")
        user = place.username
        hidden = chroma_client.secrets_of(where, user)
        return cls(where.address, lambda: chroma_client.on_server(where, user), hidden=hidden)

    @property
    def database(self) -> Database | None:
        return None

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        index = spec.index if isinstance(spec.index, Hnsw) else None
        if index is not None and index.indexing_threshold is not None:
            raise UnsupportedIndex(
                "The chroma store builds its graph from the first row. Leave out indexing_threshold."
            )
        hnsw: dict[str, Any] = {"space": _SPACES[spec.metric], "ef_search": ef_search(spec)}
        if index is not None:
            hnsw |= {"max_neighbors": index.m, "ef_construction": index.ef_construction}

        made = self._link.made(
            spec.name,
            metadata={"made_by": "shelflist", "dimensions": spec.dimensions},
            configuration={"hnsw": hnsw},
        )
        self._require_own(made, spec)

    def _require_own(self, made: Any, spec: GenerationSpec) -> None:
        # The dimensions are Chroma's once a record is there, until then what we wrote beside them.
        notes = made.metadata or {}
        space = (made.configuration_json.get("hnsw") or {}).get("space", "another index")
        known = notes.get("dimensions", spec.dimensions) if made._model.dimension is None else made._model.dimension
        require_same_shape(known, _METRICS.get(space, space), spec, self._link.address)
        if notes.get("made_by") != "shelflist":
            raise StoreMismatch(
                f"{spec.name} at {self._link.address} was not made by Shelflist. Somebody else uses the name: remove or rename "
                "that collection, or use another database of the server by ?database="
            )

    def drop(self, name: str) -> None:
        self._link.drop(name)

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        vectors = checked_vectors(spec, points)
        rows: dict[str, tuple[Vector, dict[str, Any]]] = {}
        failed: dict[bytes, str] = {}
        for point, vector in zip(points, vectors, strict=True):
            try:
                rows[record_id(point.point_id)] = vector, record(spec.fields, point)
            except TypeError as error:
                failed[point.point_id] = str(error)
        for part in parts_of(list(rows), self._rows_a_request(spec)):
            self._add(spec, part, rows, failed)
        return UpsertResult([point.point_id for point in points if point.point_id not in failed], failed)

    def _add(
        self,
        spec: GenerationSpec,
        ids: Sequence[str],
        rows: Mapping[str, tuple[Vector, dict[str, Any]]],
        failed: dict[bytes, str],
    ) -> None:
        """Write records, of which those that are there stay as they are; the items that Chroma refuses go to `failed`."""
        vectors = np.stack([rows[one][0] for one in ids])
        records = [rows[one][1] for one in ids]
        try:
            self._link.ask(spec.name, "add", ids=list(ids), embeddings=vectors, metadatas=records)
        except StoreError as error:
            if isinstance(
                error,
                (Transient, StoreDenied, StoreFull, StoreReadOnly, StoreMismatch, CollectionMissing, WriteUnapplied),
            ):
                raise
            if len(ids) == 1:
                failed[point_id(ids[0])] = str(error)
                return
            half = len(ids) // 2
            self._add(spec, ids[:half], rows, failed)
            self._add(spec, ids[half:], rows, failed)

    def _rows_a_request(self, spec: GenerationSpec) -> int:
        fitting = _REQUEST_BYTES // (_BYTES_A_DIMENSION * spec.dimensions + _BYTES_OF_METADATA)
        return max(1, min(self._link.batch(), fitting))

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        for part in parts_of(list(map(record_id, point_ids)), self._link.batch()):
            self._link.ask(spec.name, "delete", ids=part)

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        self._update(
            spec, ((record_id(one), {"index_status": str(IndexStatus.STALE)}) for one in dict.fromkeys(point_ids))
        )

    def _update(self, spec: GenerationSpec, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Set metadata keys of records, and leave their other keys and vectors; unknown ids are ignored."""
        waiting = iter(rows)
        while part := dict(islice(waiting, self._link.batch())):
            ids, records = list(part), list(part.values())
            self._link.ask(spec.name, "update", ids=ids, metadatas=records)

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        points = []
        for found in self._link.records(
            spec, list(map(record_id, dict.fromkeys(point_ids))), ["metadatas", "embeddings"]
        ):
            vectors = vectors_of(spec, found)
            for one, row, vector in zip(found["ids"], found["metadatas"], vectors, strict=True):
                if row is not None:  # it is deleted at this moment
                    points.append(point_of(spec.fields, one, row, vector))
        return points

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        return {
            point_id(one): vector
            for found in self._link.records(spec, list(map(record_id, dict.fromkeys(point_ids))), ["embeddings"])
            for one, vector in zip(found["ids"], vectors_of(spec, found), strict=True)
        }

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        return self._searcher.search(spec, checked_vector(spec, vector), limit, scope, params)

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> NoReturn:
        self.capabilities.require_keyword()
        raise AssertionError("unreachable: no keyword leg is claimed")

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> NoReturn:
        self.capabilities.require_hybrid()
        raise AssertionError("unreachable: hybrid is not claimed")

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        return self._searcher.count(spec, scope)

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        # In one answer of 36 bytes a point: pages count rows, and would pass over some when earlier ones are deleted.
        stale = self._link.ids(spec.name, where=STALE.to_json())
        for one in self._link.ids(spec.name):
            yield point_id(one), str(IndexStatus.STALE if one in stale else IndexStatus.INDEXED)

    def flush(self, spec: GenerationSpec) -> None:
        """Nothing waits: a write that is answered is in the graph."""

    def build(self, spec: GenerationSpec) -> None:
        """Nothing waits: the graph grows with every write."""

    def wait_for_build(self, tell: Tell | None = None) -> None:
        """Nothing is built aside: `build` returns when it is done."""

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: Iterable[tuple[bytes, Metadata]]) -> None:
        self._update(new, ((record_id(one), row) for one, metadata in rows if (row := written(new.fields, metadata))))

    def repair(self, spec: GenerationSpec) -> list[str]:
        """Chroma keeps no cache of ours: points that are missing are the ledger's to write again."""
        return []

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        return {"points": int(self._link.ask(spec.name, "count"))}

    def read_marker(self, collection: str) -> str | None:
        try:
            found = self._link.ask(_MARKERS, "get", ids=[_marker(collection)], include=["metadatas"])
        except CollectionMissing:
            return None
        return str(found["metadatas"][0]["ledger_id"]) if found["ids"] else None

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        if ledger_id is None:
            with suppress(CollectionMissing):
                self._link.ask(_MARKERS, "delete", ids=[_marker(collection)])
            return
        self._link.made(_MARKERS)
        note = {"collection": collection, "ledger_id": ledger_id}
        self._link.ask(_MARKERS, "upsert", ids=[_marker(collection)], embeddings=[[1.0]], metadatas=[note])

    def close(self) -> None:
        self._link.close()


def _marker(collection: str) -> str:
    return hashlib.sha256(collection.encode()).hexdigest()
