"""The Milvus store: one collection a generation, on a server or in the file of Milvus Lite.

Milvus applies writes late: a search (at Bounded consistency, 3 ms) sees what the node has consumed. `flush` asks once at
Strong consistency, which waits until the node has consumed everything, so that every later search sees it too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from shelflist.config import StoreUrl
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import StoreDenied, StoreError, StoreFull, StoreMismatch, Transient
from shelflist.core.filters.nodes import Operator
from shelflist.core.locks import ProcessLock
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
from shelflist.engine.keywords import Analyzer
from shelflist.stores._connect import require_package, retried
from shelflist.stores.milvus import rows as shapes
from shelflist.stores.milvus.asking import Asking, Counts, require_ef
from shelflist.stores.milvus.filters import LATER
from shelflist.stores.milvus.link import OLDEST, Client, Link
from shelflist.stores.milvus.markers import Markers
from shelflist.stores.milvus.rows import METRICS, VECTOR, WORDS, Unfit
from shelflist.stores.milvus.sealing import seal
from shelflist.stores.protocol import GenerationSpec, Scope, Tell, checked_vector, checked_vectors, require_same_shape

_REQUEST_ROWS, _REQUEST_BYTES = 1_000, 4_000_000
"""Larger inserts are slower, and Pulsar takes no message above 5 MB."""
_IDS = 8_192
_SEAL_ROWS = 5_000
"""Rows from which `build` seals them: from here on Milvus searches unsealed rows by an approximation."""
_BOUNDED = 5.0
"""Seconds that a read at Bounded consistency may lie behind: `common.gracefulTime` of the server."""


_CLAIMS = Capabilities(
    store="milvus",
    index_kinds=frozenset({"flat", "hnsw", "ivf"}),
    metrics=frozenset({"cosine", "dot", "l2"}),
    filter_operators=frozenset(Operator),
    filtering="in-traversal",
    exact=True,
    keyword="bm25",
    max_dimensions=32_768,
    max_batch=10_000,
    visibility="after_flush",
    tenancy="partition",
    concurrent_writers=True,
    durable=True,
    hybrid=True,
    quantization=frozenset({"scalar"}),
    unquantized=frozenset({("scalar", "flat")}),
    upkeep=True,
    holds="declared",
    versions=f"{OLDEST[0]}.{OLDEST[1]} to 2.6, Lite 3.2 (BM25 and hybrid from 2.5, scalar quantization of hnsw from 2.6)",
)


class _Claims:
    """Of the class, what some version can; of a store, what its server can, which is asked when this is first read."""

    def __get__(self, store: MilvusStore | None, owner: type[MilvusStore]) -> Capabilities:
        return _CLAIMS if store is None else store.narrowed()


class MilvusStore:
    """Collections on one Milvus."""

    capabilities = _Claims()

    def __init__(self, place: StoreUrl) -> None:
        self._link = Link(place)
        self._analyzer = Analyzer()
        self._columns: dict[str, frozenset[str]] = {}
        self._counts = Counts()
        self._markers = Markers(self._link)
        self._replicas: dict[str, int] = {}
        self._lock = ProcessLock()
        self._writing: dict[str, ProcessLock] = {}
        self._claims: Capabilities | None = None

    @classmethod
    def require_client(cls, place: StoreUrl) -> None:
        """MissingDependency if pymilvus is not installed, or for a file milvus-lite, which brings it."""
        if place.host is None:
            require_package("milvus_lite", "milvus-lite", "milvus-lite", "Milvus Lite")
        require_package("pymilvus", "pymilvus", "milvus", "The Milvus store")

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> MilvusStore:
        return cls(place)

    @property
    def database(self) -> Database | None:
        return None

    def narrowed(self) -> Capabilities:
        """What the server's version can. Reaches the server, if nothing has yet."""
        if self._claims is None:
            version, claims = self._link.version, _CLAIMS
            if version.lite:
                claims = replace(claims, concurrent_writers=False)
            if not version.has(2, 5):
                claims = replace(claims, keyword=None, hybrid=False)
            if not version.has(2, 6):
                claims = replace(claims, unquantized=claims.unquantized | {("scalar", "hnsw")})
            self._claims = claims
        return self._claims

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        if isinstance(spec.index, Hnsw):
            require_ef(spec.index.ef_search)
        link = self._link
        if not self._exists(spec.name):
            keyword = self.capabilities.keyword is not None
            partitions = {"num_partitions": shapes.PARTITIONS} if spec.tenanted and not link.version.lite else {}
            try:
                link.insist(
                    f"create {spec.name}",
                    lambda client: client.create_collection(
                        spec.name,
                        schema=shapes.schema(client, spec, keyword),
                        consistency_level="Bounded",
                        num_shards=1,
                        timeout=link.timeout,
                        **partitions,
                    ),
                )
            except StoreError:
                if not self._exists(spec.name):  # else somebody else was quicker
                    raise
        self._require_same_shape(spec)
        self._load(spec.name)

    def _exists(self, name: str) -> bool:
        return bool(
            self._link.insist(
                f"look for {name}", lambda client: client.has_collection(name, timeout=self._link.timeout)
            )
        )

    def _described(self, name: str) -> Mapping[str, Any]:
        found = self._link.insist(
            f"describe {name}", lambda client: client.describe_collection(name, timeout=self._link.timeout)
        )
        return dict(found)

    def _require_same_shape(self, spec: GenerationSpec) -> None:
        """StoreMismatch for a collection of another shape; makes the indexes that are missing."""
        fields = {field["name"]: field for field in self._described(spec.name)["fields"]}
        columns = frozenset(fields)
        if not {"id", VECTOR, "index_status", LATER} <= columns:
            raise StoreMismatch(
                f"{spec.name} at {self._link.address} was not made by Shelflist: it has the fields "
                f"{', '.join(sorted(columns))}. Use another database (db= of the URL), or drop it yourself."
            )
        stored = int(fields[VECTOR]["params"]["dim"])
        dimensions = spec.dimensions if stored == shapes.width(spec) else stored
        described = Asking(self._link, spec, columns, self.capabilities, self._counts).index()
        metric: Metric = spec.metric
        if described:
            metric = next(own for own, theirs in METRICS.items() if theirs == described["metric_type"])
        require_same_shape(dimensions, metric, spec, self._link.address)
        with self._lock:
            self._columns[spec.name] = columns
        if not described:
            self._link.insist(
                f"make the indexes of {spec.name}", lambda client: self._make_indexes(client, spec, columns)
            )

    def _make_indexes(self, client: Client, spec: GenerationSpec, columns: frozenset[str]) -> None:
        # The vector's last: where it stands, all of them do.
        for one in reversed(shapes.indexes(client, spec, self._link.version, columns)):
            client.create_index(spec.name, one, timeout=self._link.timeout, sync=False)

    def _load(self, name: str) -> None:
        self._link.insist(
            f"load {name}", lambda client: client.load_collection(name, timeout=self._link.timeout, _async=True)
        )

        def left(client: Client) -> object:
            found = client.get_load_state(name, timeout=self._link.timeout)
            state = getattr(found["state"], "name", str(found["state"]))
            return None if state == "Loaded" else (state, found.get("progress"))

        self._link.wait(f"load {name}", lambda: self._link.insist(f"load {name}", left))

    def _asking(self, spec: GenerationSpec) -> Asking:
        columns = self._columns.get(spec.name)
        if columns is None:
            columns = frozenset(field["name"] for field in self._described(spec.name)["fields"])
            self._load(spec.name)  # Lite forgets what was loaded when it is closed
            with self._lock:
                self._columns[spec.name] = columns
        return Asking(self._link, spec, columns, self.capabilities, self._counts)

    def drop(self, name: str) -> None:
        with self._lock:
            self._columns.pop(name, None)
            self._replicas.pop(name, None)
        if self._exists(name):
            self._link.insist(f"drop {name}", lambda client: client.drop_collection(name, timeout=self._link.timeout))

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        vectors = shapes.padded(spec, checked_vectors(spec, points))
        if not points:
            return UpsertResult(stored=[])
        asking = self._asking(spec)
        columns = self._columns[spec.name]
        failed: dict[bytes, str] = {}
        made: dict[bytes, dict[str, Any]] = {}
        ids = [point.point_id for point in points]
        # Under a lock: two threads that find the same point missing would both insert it, and then it is there twice.
        threads = self._link.threads
        with self._turn(spec.name):
            looking = threads.submit(self._present, asking, ids)
            for point, vector in zip(points, vectors, strict=True):
                try:
                    made[point.point_id] = self._row(spec, point, vector, columns)
                except (Unfit, TypeError, ValueError, OverflowError) as error:
                    failed[point.point_id] = f"{point.document_id!r}: {error}"
            present: list[set[bytes]] = []

            def write() -> dict[bytes, str]:
                # Looked up again when it is tried again: what came before the error is not written twice.
                present.append(looking.result() if not present else self._present(asking, ids))
                missing = [row for point_id, row in made.items() if point_id not in present[-1]]
                refused: dict[bytes, str] = {}
                for one in threads.map(lambda rows: self._insert(spec, rows), self._requests(spec, missing)):
                    refused |= one
                return refused

            failed |= retried(write, f"Writing to {spec.name}")
        return UpsertResult(stored=[one for one in dict.fromkeys(ids) if one not in failed], failed=failed)

    def _turn(self, name: str) -> ProcessLock:
        with self._lock:
            return self._writing.setdefault(name, ProcessLock())

    def _row(self, spec: GenerationSpec, point: Point, vector: Vector, columns: frozenset[str]) -> dict[str, Any]:
        terms = shapes.words(self._analyzer.terms(point.content)) if WORDS in columns else None
        return shapes.row(spec, point, vector, columns, terms)

    def _present(self, asking: Asking, ids: Sequence[bytes]) -> set[bytes]:
        return {bytes.fromhex(row["id"]) for row in asking.rows(ids, ["id"], "Strong")}

    def _requests(self, spec: GenerationSpec, rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        most = max(1, min(_REQUEST_ROWS, _REQUEST_BYTES // (4 * spec.dimensions + 500)))
        left = iter(rows)
        while some := list(islice(left, most)):
            yield some

    def _insert(self, spec: GenerationSpec, rows: list[dict[str, Any]]) -> dict[bytes, str]:
        """Insert rows; the ids that Milvus refuses, each with the reason."""
        try:
            self._link.ask(
                f"insert into {spec.name}", lambda client: client.insert(spec.name, rows, timeout=self._link.timeout)
            )
        except (StoreDenied, StoreFull, StoreMismatch):
            raise
        except StoreError as error:
            if isinstance(error, Transient):
                raise
            if len(rows) == 1:
                return {bytes.fromhex(rows[0]["id"]): str(error)}
            half = len(rows) // 2
            return self._insert(spec, rows[:half]) | self._insert(spec, rows[half:])
        return {}

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        left = iter(point_ids)
        while some := [one.hex() for one in islice(left, _IDS)]:
            self._link.insist(
                f"delete from {spec.name}", partial(_delete, name=spec.name, ids=some, timeout=self._link.timeout)
            )

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        def stale(row: dict[str, Any]) -> bool:
            changed = row["index_status"] != IndexStatus.STALE
            row["index_status"] = str(IndexStatus.STALE)
            return bool(changed)

        self._change(spec, point_ids, stale)

    def _change(self, spec: GenerationSpec, point_ids: Sequence[bytes], change: Any) -> None:
        """Write rows anew that `change` has changed; it says whether it did."""
        asking = self._asking(spec)
        fields = shapes.outputs(spec, self._columns[spec.name])
        left = iter(dict.fromkeys(point_ids))
        with self._turn(spec.name):
            while some := list(islice(left, _REQUEST_ROWS)):
                rows = [dict(row) for row in asking.rows(some, fields, "Strong")]
                changed = [row for row in rows if change(row)]
                for request in self._requests(spec, changed):
                    self._replace(spec, request)

    def _replace(self, spec: GenerationSpec, rows: list[dict[str, Any]]) -> None:
        def write(client: Client) -> None:
            timeout = self._link.timeout
            if spec.tenanted and not self._link.version.has(2, 4):
                # Upsert puts the rows of a collection with a partition key where no filter on the key finds them. Between
                # these two a search misses them, for some tenths of a second.
                _delete(client, spec.name, [row["id"] for row in rows], timeout)
                client.insert(spec.name, rows, timeout=timeout)
            else:
                client.upsert(spec.name, rows, timeout=timeout)

        self._link.insist(f"upsert into {spec.name}", write)

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        asking = self._asking(spec)
        columns = self._columns[spec.name]
        fields = [name for name in shapes.outputs(spec, columns) if name != WORDS]
        return [shapes.point(spec, row, columns) for row in asking.rows(point_ids, fields)]

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        rows = self._asking(spec).rows(point_ids, ["id", VECTOR])
        return {bytes.fromhex(row["id"]): shapes.vector_of(spec, row) for row in rows}

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        query = checked_vector(spec, vector)
        return self._asking(spec).dense(query, limit=limit, scope=scope, params=params)

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        asking = self._asking(spec)
        self.capabilities.require_keyword()
        return asking.keyword(self._terms(text), limit=limit, scope=scope)

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        asking = self._asking(spec)
        self.capabilities.require_hybrid()
        query = checked_vector(spec, vector)
        return asking.hybrid(self._terms(text), query, limit=limit, scope=scope, params=params)

    def _terms(self, text: str) -> list[str]:
        return shapes.words(self._analyzer.terms(text)).split()

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        asking = self._asking(spec)
        return asking.count(asking.condition(scope))

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        for page in self._asking(spec).each('id != ""', ["id", "index_status"], "Strong"):
            for row in page:
                yield bytes.fromhex(row["id"]), row["index_status"]

    def flush(self, spec: GenerationSpec) -> None:
        self._asking(spec).count('id == ""', "Strong")
        if self._replicas_of(spec.name) > 1:  # one of them has answered, and the others are less than this behind
            time.sleep(_BOUNDED)

    def _replicas_of(self, name: str) -> int:
        if self._link.version.lite:
            return 1
        if name not in self._replicas:
            found = self._link.insist(
                f"replicas of {name}", lambda client: client.describe_replica(name, timeout=self._link.timeout)
            )
            with self._lock:
                self._replicas[name] = len(found)
        return self._replicas[name]

    def build(self, spec: GenerationSpec) -> None:
        """Have Milvus close the segments that it writes to, if they are worth an index, and wait until it is built."""
        if self._link.version.lite:  # builds its indexes by itself, while one waits
            return
        asking = self._asking(spec)
        own = spec.index.indexing_threshold if isinstance(spec.index, Hnsw) else None
        if asking.growing() < max(1, _SEAL_ROWS if own is None else own):
            return
        seal(self._link, asking, spec.name)

    def wait_for_build(self, tell: Tell | None = None) -> None:
        """Nothing is built aside: `build` returns when it is done."""

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows: Iterable[tuple[bytes, Metadata]]) -> None:
        self._asking(new)
        columns = self._columns[new.name]
        left = iter(rows)
        while some := dict(islice(left, _REQUEST_ROWS)):

            def fill(row: dict[str, Any], metadata: Mapping[bytes, Metadata] = some) -> bool:
                shapes.set_fields(row, new.fields, metadata[bytes.fromhex(row["id"])], columns)
                return True

            self._change(new, list(some), fill)

    def repair(self, spec: GenerationSpec) -> list[str]:
        self.create(spec)
        done = ["checked the collection and its indexes"]
        doubled = self._doubled(spec)
        if doubled:
            self._change(spec, doubled, lambda row: True)
            done.append(f"wrote {len(doubled)} points anew that were there twice")
        return done

    def _doubled(self, spec: GenerationSpec) -> list[bytes]:
        """Points that two processes have inserted at once: searches see them once, counts twice."""
        asking = self._asking(spec)
        ids = [one for one, _ in self.scan(spec)]
        if asking.count('id != ""', "Strong") == len(ids):
            return []
        return [
            one for start in range(0, len(ids), _IDS) for one in self._counted_twice(asking, ids[start : start + _IDS])
        ]

    def _counted_twice(self, asking: Asking, ids: list[bytes]) -> list[bytes]:
        if asking.count(f"id in [{','.join(repr(one.hex()) for one in ids)}]") == len(ids):
            return []
        if len(ids) == 1:
            return ids
        half = len(ids) // 2
        return self._counted_twice(asking, ids[:half]) + self._counted_twice(asking, ids[half:])

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        asking = self._asking(spec)
        points, index = asking.count('id != ""', "Strong"), asking.index()
        return {
            "points": points,
            "rows": points,
            "indexed_rows": int(index.get("indexed_rows", 0)),
            "pending_rows": int(index.get("pending_index_rows", 0)),
        }

    def read_marker(self, collection: str) -> str | None:
        return self._markers.read(collection)

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        self._markers.write(collection, ledger_id)

    def close(self) -> None:
        self._link.close()


def _delete(client: Client, name: str, ids: list[str], timeout: float) -> None:
    client.delete(name, ids=ids, timeout=timeout)
