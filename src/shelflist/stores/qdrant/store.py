"""Qdrant: one collection a generation, a named dense vector and a sparse one for BM25, payload indexes for filters.

Written from the documentation and the source of the server; the tests run it on the client's own re-implementation in
memory, and on a real server where SHELFLIST_TEST_QDRANT_URL names one.

Under cosine, vectors get length 1 here, before they are sent: the server leaves a vector as it is whose squared length
is below 1.2e-7, and overflows above 3e38. Under dot and l2 they come back bit by bit. Text and undeclared metadata are
the ledger's to keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import numpy as np

from shelflist.config import StoreUrl
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import StoreError, StoreTimeout
from shelflist.core.filters.nodes import Operator
from shelflist.core.transaction import Database
from shelflist.core.types import (
    Candidates,
    IndexStatus,
    Metadata,
    Point,
    SearchParams,
    UpsertResult,
    Vector,
)
from shelflist.engine.exact import prepared
from shelflist.engine.keywords import Analyzer
from shelflist.stores import _connect
from shelflist.stores.protocol import GenerationSpec, Scope, Tell, checked_vectors
from shelflist.stores.qdrant.client import (
    NEWEST,
    OLDEST,
    Connection,
    NoSuchCollection,
    RequestRefused,
    check_options,
    shown,
)
from shelflist.stores.qdrant.points import (
    CHUNK,
    DENSE,
    DOCUMENT,
    SPARSE,
    STATUS,
    TENANT,
    as_bytes,
    as_id,
    field_payload,
    metadata_of,
    payload_of,
    sparse_of,
)
from shelflist.stores.qdrant.schema import average_length, collection_options, payload_indexes
from shelflist.stores.qdrant.search import Searches

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_MARKERS = "shelflist_markers"
_NAMESPACE = UUID("0f6c3a58-6e55-4d0b-9a3e-8f1d4c1f7b2a")
_IDS = 1_000
_REQUEST_POINTS = 512
_REQUEST_BYTES = 8_000_000
"""Of one upsert: a quarter of what the server takes over HTTP unless it is told otherwise."""
_BYTES_PER_NUMBER = 20
_IN_FLIGHT = 4
_INSERT_ONLY = (1, 17)
_FLUSH_PAUSE = 0.05
_IDLE = 60.0
"""Seconds that optimizers may take to begin."""


class QdrantStore:
    """Generations in a Qdrant server or cluster, over HTTP, or over gRPC where the URL gives a `grpc_port`."""

    capabilities = Capabilities(
        store="qdrant",
        index_kinds=frozenset({"flat", "hnsw"}),
        metrics=frozenset({"cosine", "dot", "l2"}),
        filter_operators=frozenset(Operator),
        filtering="in-traversal",
        exact=True,
        keyword="bm25",
        max_dimensions=65_536,
        max_batch=10_000,
        visibility="immediate",
        tenancy="filter",
        concurrent_writers=True,
        durable=True,
        upkeep=True,
        hybrid=True,
        quantization=frozenset({"scalar", "binary"}),
        holds="declared",
        vectors="normalised",
        versions=f"{shown(OLDEST)} to {shown(NEWEST)}",
    )

    def __init__(self, server: _connect.Server, open_client: Callable[[], QdrantClient] | None = None) -> None:
        self._server = server
        self._connection = Connection(server, open_client)
        self._average: dict[str, int] = {}
        self._analyzer = Analyzer()
        self._searches = Searches(self._connection, self.capabilities, self._analyzer)

    @classmethod
    def require_client(cls, place: StoreUrl) -> None:
        """MissingDependency if qdrant-client is not installed."""
        _connect.require_package("qdrant_client", "qdrant-client", "qdrant", "The Qdrant store")

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> QdrantStore:
        """`qdrant://host:6333?grpc_port=6334&tls=1&timeout=10&shards=2&replicas=2`; makes no connection."""
        options = frozenset({"grpc_port", "shards", "replicas"})
        server = _connect.server(place, port=6333, options=options)
        check_options(place, options)
        return cls(server)

    @property
    def database(self) -> Database | None:
        return None

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        self._average.pop(spec.name, None)
        if not self._connection.ask("collection_exists", spec.name):
            version, shards, replicas = self._connection().version, self._number("shards"), self._number("replicas")
            self._make(spec.name, collection_options(spec, version, shards, replicas))
        self._average_length(spec)
        self._index_payload(spec)

    def _make(self, name: str, options: dict[str, Any]) -> None:
        try:
            self._connection.ask("create_collection", name, **options)
        except StoreError:
            if not self._connection.ask("collection_exists", name):  # else somebody else was quicker
                raise

    def _index_payload(self, spec: GenerationSpec) -> None:
        for key, kind in payload_indexes(spec, self._connection().version):
            self._connection.ask("create_payload_index", spec.name, key, kind, wait=True)

    def _number(self, option: str) -> int | None:
        text = self._server.options.get(option)
        return None if text is None else int(text)

    def _average_length(self, spec: GenerationSpec) -> int:
        known = self._average.get(spec.name)
        if known is None:
            info = self._connection.ask("get_collection", spec.name)
            known = self._average[spec.name] = average_length(info, spec, self._server.address)
        return known

    def drop(self, name: str) -> None:
        self._average.pop(name, None)
        if self._connection.ask("collection_exists", name):
            with suppress(NoSuchCollection):
                self._connection.ask("delete_collection", name)

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        if not points:
            return UpsertResult([])
        vectors = prepared(checked_vectors(spec, points), spec.metric)
        average = self._average_length(spec)
        step = max(1, min(_REQUEST_POINTS, _REQUEST_BYTES // (spec.dimensions * _BYTES_PER_NUMBER + 2_000)))
        slices = [slice(at, at + step) for at in range(0, len(points), step)]
        failed: dict[bytes, str] = {}

        def send(part: slice) -> list[bytes]:
            return self._upsert_some(spec, points[part], vectors[part], average, failed)

        if len(slices) == 1:
            stored = send(slices[0])
        else:
            with ThreadPoolExecutor(min(_IN_FLIGHT, len(slices)), "shelflist-qdrant") as threads:
                stored = [one for some in threads.map(send, slices) for one in some]
        return UpsertResult(stored, failed)

    def _upsert_some(
        self, spec: GenerationSpec, points: Sequence[Point], vectors: Vector, average: int, failed: dict[bytes, str]
    ) -> list[bytes]:
        """Write points in one request; what the server refuses is halved, until the bad ones stand alone."""
        try:
            self._send(spec, points, vectors, average)
            return [point.point_id for point in points]
        except RequestRefused as error:
            if len(points) == 1:
                failed[points[0].point_id] = str(error)
                return []
        middle = len(points) // 2
        first = self._upsert_some(spec, points[:middle], vectors[:middle], average, failed)
        return first + self._upsert_some(spec, points[middle:], vectors[middle:], average, failed)

    def _send(self, spec: GenerationSpec, points: Sequence[Point], vectors: Vector, average: int) -> None:
        from qdrant_client import models

        sent = []
        for point, dense in zip(points, vectors.tolist(), strict=True):
            indices, weights = sparse_of(self._analyzer, point.content, average)
            vector: dict[str, Any] = {DENSE: dense}
            if indices:
                vector[f"{SPARSE}{average}"] = models.SparseVector.model_construct(indices=indices, values=weights)
            # Constructed without being looked at number by number: they are what they are said to be.
            sent.append(
                models.PointStruct.model_construct(
                    id=as_id(point.point_id), vector=vector, payload=payload_of(point, spec.fields)
                )
            )
        # A point that came late may not bring back one that is stale by now.
        only_new = {"update_mode": models.UpdateMode.INSERT_ONLY} if self._connection().version >= _INSERT_ONLY else {}
        self._connection.ask("upsert", spec.name, sent, wait=True, **only_new)

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        from qdrant_client import models

        for some in _batches(point_ids, _IDS):
            selector = models.PointIdsList(points=some)
            self._connection.ask("delete", spec.name, selector, wait=True)

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        from qdrant_client import models

        for some in _batches(point_ids, _IDS):
            # By filter, because the server answers an id that it does not know with an error.
            chosen = models.Filter(must=[models.HasIdCondition(has_id=some)])
            stale = {STATUS: IndexStatus.STALE.value}
            self._connection.ask("set_payload", spec.name, stale, chosen, wait=True)

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        return [
            Point(
                point_id=as_bytes(record.id),
                chunk_id=bytes.fromhex(record.payload[CHUNK]),
                document_id=record.payload[DOCUMENT],
                tenant_id=record.payload.get(TENANT),
                content="",
                metadata=metadata_of(record.payload, spec.fields),
                vector=np.array(record.vector[DENSE], dtype=np.float32),
                index_status=IndexStatus(record.payload[STATUS]),
            )
            for record in self._retrieved(spec, point_ids, payload=True)
        ]

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        return {
            as_bytes(record.id): np.array(record.vector[DENSE], dtype=np.float32)
            for record in self._retrieved(spec, point_ids, payload=False)
        }

    def _retrieved(self, spec: GenerationSpec, point_ids: Sequence[bytes], *, payload: bool) -> Iterator[Any]:
        step = max(1, min(_IDS, _REQUEST_BYTES // (spec.dimensions * _BYTES_PER_NUMBER)))
        for some in _batches(list(dict.fromkeys(point_ids)), step):
            yield from self._connection.ask("retrieve", spec.name, some, with_payload=payload, with_vectors=[DENSE])

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        return self._searches.dense(spec, vector, limit, scope, params)

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        return self._searches.keyword(spec, text, self._average_length(spec), limit, scope)

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        return self._searches.fused(spec, text, self._average_length(spec), vector, limit, scope, params)

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        return self._searches.count(spec, scope)

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        offset: Any = None
        while True:
            records, offset = self._connection.ask(
                "scroll", spec.name, limit=_IDS, offset=offset, with_payload=[STATUS], with_vectors=False
            )
            for record in records:
                yield as_bytes(record.id), str(record.payload[STATUS])
            if offset is None:
                return

    def flush(self, spec: GenerationSpec) -> None:
        """Nothing waits: every write is visible when it returns, be it to a scan."""

    def build(self, spec: GenerationSpec) -> None:
        """Wait for the optimizers, which build the graph, as long as they are at work; StoreTimeout if they do not begin."""
        from qdrant_client import models

        seen: tuple[Any, ...] = ()
        deadline = time.monotonic() + _IDLE
        pause = _FLUSH_PAUSE
        started = False
        while True:
            info = self._connection.ask("get_collection", spec.name)
            if info.status == models.CollectionStatus.GREEN:
                return
            failed = isinstance(info.optimizer_status, models.OptimizersStatusOneOf1)
            if failed or info.status == models.CollectionStatus.RED:
                raise self._connection.unhealthy(spec.name, info.optimizer_status)
            if info.status == models.CollectionStatus.GREY and not started:
                # After a restart they wait for a reason to start. Only once: telling them stops what they are at.
                self._start_optimizers(spec)
                started = True
            now = (info.status, info.indexed_vectors_count, info.segments_count, info.points_count)
            # Yellow is at work, and a large graph is built for hours without any of the numbers moving.
            if now != seen or info.status == models.CollectionStatus.YELLOW:
                seen, deadline = now, time.monotonic() + _IDLE
            if time.monotonic() > deadline:
                raise StoreTimeout(
                    f"The index of {spec.name} at {self._server.address} is not being built: its status is "
                    f"{info.status.value}. Look at the server's log, then run the same command again."
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def _start_optimizers(self, spec: GenerationSpec) -> None:
        from qdrant_client import models

        nothing = models.OptimizersConfigDiff()
        self._connection.ask("update_collection", spec.name, optimizers_config=nothing)

    def wait_for_build(self, tell: Tell | None = None) -> None:
        """Nothing is built aside: `build` returns when it is done."""

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: Iterable[tuple[bytes, Metadata]]) -> None:
        from qdrant_client import models

        self._index_payload(new)
        waiting: list[Any] = []

        def send() -> None:
            if waiting:
                operations = list(waiting)
                waiting.clear()
                self._connection.ask("batch_update_points", new.name, operations, wait=True)

        for point_id, metadata in rows:
            chosen = models.Filter(must=[models.HasIdCondition(has_id=[as_id(point_id)])])
            payload = models.SetPayload(payload=field_payload(metadata, new.fields), filter=chosen)
            waiting.append(models.SetPayloadOperation(set_payload=payload))
            if len(waiting) == _REQUEST_POINTS:
                send()
        send()

    def repair(self, spec: GenerationSpec) -> list[str]:
        self._index_payload(spec)
        self._start_optimizers(spec)
        return ["payload indexes are all there; optimizers told to look"]

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        info = self._connection.ask("get_collection", spec.name)
        return {
            "points": self._connection.ask("count", spec.name, exact=True).count,
            "indexed_vectors": info.indexed_vectors_count or 0,
            "segments": info.segments_count,
            "status": info.status.value,
        }

    def read_marker(self, collection: str) -> str | None:
        if not self._connection.ask("collection_exists", _MARKERS):
            return None
        found = self._connection.ask("retrieve", _MARKERS, [str(uuid5(_NAMESPACE, collection))])
        return str(found[0].payload["ledger_id"]) if found else None

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        from qdrant_client import models

        mark = str(uuid5(_NAMESPACE, collection))
        if not self._connection.ask("collection_exists", _MARKERS):
            if ledger_id is None:
                return
            replicas = self._number("replicas")
            copies = {"replication_factor": replicas, "write_consistency_factor": replicas}
            self._make(_MARKERS, {"vectors_config": {}, **copies})
        if ledger_id is None:
            self._connection.ask("delete", _MARKERS, models.PointIdsList(points=[mark]), wait=True)
        else:
            point = models.PointStruct(id=mark, vector={}, payload={"collection": collection, "ledger_id": ledger_id})
            self._connection.ask("upsert", _MARKERS, [point], wait=True)

    def close(self) -> None:
        self._connection.close()


def _batches(point_ids: Sequence[bytes], size: int) -> Iterator[list[Any]]:
    for at in range(0, len(point_ids), size):
        yield [as_id(one) for one in point_ids[at : at + size]]
