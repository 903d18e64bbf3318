"""Weaviate: a class a generation, its own tenants, BM25 and hybrid search; filters by properties that keep them exact.

With tenants a second class says which tenant each point belongs to, one small object a point: points are fetched,
hidden and deleted by id alone, and asking every tenant would wake the data of all of them.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from shelflist.config import StoreUrl
from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import (
    ConfigError,
    StoreError,
    StoreTimeout,
    TenantRequired,
    UnsupportedOperation,
)
from shelflist.core.filters.nodes import Operator
from shelflist.core.locks import ProcessLock
from shelflist.core.transaction import Database
from shelflist.core.types import Candidate, Candidates, IndexStatus, Metadata, Point, SearchParams, UpsertResult, Vector
from shelflist.engine.keywords import Analyzer
from shelflist.stores._connect import require_package, server
from shelflist.stores.protocol import GenerationSpec, Scope, Tell, checked_vector, checked_vectors
from shelflist.stores.weaviate import rows, schema
from shelflist.stores.weaviate.calls import IDS, PAGE, Calls, cut, each
from shelflist.stores.weaviate.filters import STATUS, TENANT, Conditions, WeaviateFilter, kept_text
from shelflist.stores.weaviate.schema import Place, class_name, homes_name, tenant_name
from shelflist.stores.weaviate.search import Asked, answers, counted, distance, exact_answers, parts
from shelflist.stores.weaviate.session import NoSuchObject, Session

_POINTS = 250
_BYTES = 8_000_000
_IN_FLIGHT = 4
_MAX_TERMS = 1024
_IDLE = 600.0
"""Seconds that a queue may stand still while no shard says that it indexes. A part of a batch waits for a minute or so."""
_CLOSED = 10.0
"""Seconds of the same, with a shard that takes no writes."""


class WeaviateStore:
    """Every point an object under its own id; the class is `Sl_…`."""

    capabilities = Capabilities(
        store="weaviate",
        index_kinds=frozenset({"flat", "hnsw"}),
        metrics=frozenset({"cosine", "dot", "l2"}),
        filter_operators=frozenset(Operator),
        filtering="in-traversal",
        exact=True,
        keyword="bm25",
        max_dimensions=65_535,
        max_batch=10_000,
        visibility="after_flush",
        tenancy="native",
        concurrent_writers=True,
        durable=True,
        upkeep=True,
        hybrid=True,
        quantization=frozenset({"scalar", "binary"}),
        unquantized=frozenset({("scalar", "flat")}),
        holds="declared",
        versions="1.33 to 1.38",
    )

    def __init__(self, session: Session) -> None:
        self._calls = Calls(session)
        self._places: dict[str, Place] = {}
        self._analyzer = Analyzer()
        self._lock = ProcessLock()

    @classmethod
    def require_client(cls, place: StoreUrl) -> None:
        """MissingDependency if weaviate-client is not installed."""
        require_package("weaviate", "weaviate-client", "weaviate", "The Weaviate store")

    @classmethod
    def at(cls, place: StoreUrl, *, busy_timeout: float) -> WeaviateStore:
        """`weaviate://host:8080?grpc_port=50051`; with `tls=1` both ports are 443 where they are left out."""
        there = server(place, port=8080, tls_port=443, options=frozenset({"grpc_port", "grpc_host"}))
        number = place.query.get("grpc_port") or ("443" if there.tls and not place.port else "50051")
        if not number.isdigit() or not 0 < int(number) < 65_536:
            raise ConfigError(f"{place}: grpc_port={number!r} is not a port.")
        return cls(Session(there, place.query.get("grpc_host") or there.host, int(number)))

    @property
    def database(self) -> Database | None:
        return None

    def create(self, spec: GenerationSpec) -> None:
        self.capabilities.require_index(spec.index, spec.metric, spec.dimensions)
        schema.create(self._calls.session, spec)
        self._places[spec.name] = schema.read(self._calls.session, spec)

    def drop(self, name: str) -> None:
        schema.drop(self._calls.session, name)
        self._places.pop(name, None)

    def upsert(self, spec: GenerationSpec, points: Sequence[Point]) -> UpsertResult:
        if not points:
            return UpsertResult([])
        vectors = checked_vectors(spec, points)
        # Read again: to write to a class that somebody has dropped would make one, without anything that it needs.
        place = self._places[spec.name] = schema.read(self._calls.session, spec)
        if place.tenanted and not all(point.tenant_id for point in points):
            raise TenantRequired("This collection is written per tenant. Use collection.tenant(id).")
        failed: dict[bytes, str] = {}

        def send(part: Sequence[int]) -> None:
            failed.update(self._sent(spec, place, [points[i] for i in part], vectors[list(part)]))

        each(send, list(rows.requests(points, _POINTS, _BYTES)), _IN_FLIGHT)
        return UpsertResult([p.point_id for p in points if p.point_id not in failed], failed)

    def delete(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        place = self._place(spec)
        for tenant, ids in self._homes(spec, place, point_ids):
            for part in cut(ids, IDS):
                self._calls.deleted(place.name, tenant, part)
        if place.tenanted:
            for part in cut(point_ids, IDS):
                self._calls.deleted(homes_name(spec.name), "", part)

    def set_stale(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> None:
        place = self._place(spec)
        shown = self._say.compare(STATUS, "EQUAL", str(IndexStatus.INDEXED))
        patches = [
            (tenant, rows.id_of(found), {STATUS: str(IndexStatus.STALE)})
            for tenant, found in self._fetched(spec, place, point_ids, where=shown)
        ]
        self._calls.patched(place, patches)

    def get(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> list[Point]:
        place = self._place(spec)
        found = self._fetched(spec, place, point_ids, properties=rows.READ, vectors=True)
        return [rows.point_of(one) for _, one in found]

    def vectors(self, spec: GenerationSpec, point_ids: Sequence[bytes]) -> dict[bytes, Vector]:
        found = self._fetched(spec, self._place(spec), point_ids, vectors=True)
        return {rows.id_of(one): rows.vector_of(one) for _, one in found}

    def search(
        self, spec: GenerationSpec, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        query = checked_vector(spec, vector)
        asked = self._asked(spec, scope)
        place = asked.place
        if limit < 1:
            return Candidates((), exact=True, exhausted=False, plan="nothing asked for")
        if params.exact or limit >= PAGE:
            return exact_answers(self._calls, asked, query, limit)
        wanted = limit + 1
        near = {"near_vector": self._proto.base_search_pb2.NearVector(vectors=[self._calls.near(query)])}
        ask = min(PAGE, place.limit_for(params.ef_search, wanted))
        found = answers(self._calls, asked, ask, near)[:wanted]
        if len(found) < wanted and len(found) < len(answers(self._calls, asked, wanted, {})):
            return exact_answers(self._calls, asked, query, limit, after="the index came back short, so ")
        items = [Candidate(rows.id_of(one), distance(one, place)) for one in found[:limit]]
        whole = place.flat_below is None and not place.compressed
        return Candidates(items, exact=whole, exhausted=len(found) <= limit, plan=place.plan(asked.where is not None))

    def keyword_search(self, spec: GenerationSpec, text: str, *, limit: int, scope: Scope) -> Candidates:
        asked = self._asked(spec, scope)
        terms = self._query_terms(text)
        if not terms or limit < 1:
            return Candidates((), exact=True, exhausted=not terms, plan="BM25 of no terms")
        words = {"bm25_search": self._proto.base_search_pb2.BM25(query=terms, properties=[schema.TERMS])}
        if limit < PAGE:
            found = answers(self._calls, asked, limit + 1, words)
        else:  # the scores of all parts compare: how rare a term is depends on no filter
            found = [
                one
                for part, count in parts(self._calls, asked, PAGE)
                for one in answers(self._calls, part, count, words)
            ]
            found.sort(key=lambda one: -one.metadata.score)
        items = [Candidate(rows.id_of(one), float(one.metadata.score)) for one in found[:limit]]
        return Candidates(items, exact=True, exhausted=len(found) <= limit, plan="BM25")

    def hybrid_search(
        self, spec: GenerationSpec, text: str, vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        if params != SearchParams():
            raise UnsupportedOperation(
                "Weaviate's own hybrid search takes neither exact= nor ef_search=. Leave them out, or fuse by 'convex' or "
                "'rrf', whose dense leg takes both."
            )
        query = checked_vector(spec, vector)
        asked = self._asked(spec, scope)
        terms = self._query_terms(text)
        limit = min(limit, PAGE)
        messages = self._proto.base_search_pb2
        both = messages.Hybrid(
            query=terms,
            properties=[schema.TERMS],
            alpha=0.5 if terms else 1.0,
            fusion_type=messages.Hybrid.FUSION_TYPE_RELATIVE_SCORE,
            vectors=[self._calls.near(query)],
        )
        found = answers(self._calls, asked, limit, {"hybrid_search": both}) if limit > 0 else []
        items = [Candidate(rows.id_of(one), float(one.metadata.score)) for one in found]
        return Candidates(items, exact=False, exhausted=len(found) < limit, plan="hybrid by Weaviate, relative scores")

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        return counted(self._calls, self._asked(spec, scope))

    def scan(self, spec: GenerationSpec) -> Iterator[tuple[bytes, str]]:
        place = self._place(spec)
        for tenant in self._calls.tenants(place):
            for one in self._calls.scanned(place.name, tenant, [STATUS]):
                yield rows.id_of(one), rows.text_of(one, STATUS) or str(IndexStatus.INDEXED)

    def flush(self, spec: GenerationSpec) -> None:
        """A server that builds its indexes aside (ASYNC_INDEXING) has a queue; there is none on others."""
        name, session = class_name(spec.name), self._calls.session
        last, since, pause = 0, time.monotonic(), 0.01
        while True:
            waiting, states = self._calls.queue(name)
            works = "INDEXING" in states
            if not waiting and not works:
                return
            if works or waiting != last:  # however long it takes: a large queue is no fault
                last, since = waiting, time.monotonic()
            still = time.monotonic() - since
            left = f"{waiting} vectors of {spec.name} wait to be indexed"
            if "READONLY" in states and still > _CLOSED:
                raise session.refused("UNKNOWN", f"{left}, and a shard is read-only")
            if still > _IDLE:
                raise StoreTimeout(
                    f"Weaviate at {session.address} does nothing: {left}, and for {_IDLE:g} s it has taken none of them. "
                    "Look into its log; what was written is stored."
                )
            time.sleep(pause)
            pause = min(1.0, pause * 1.5)

    def build(self, spec: GenerationSpec) -> None:
        """The queue that `flush` waits for builds the index too."""
        self.flush(spec)

    def wait_for_build(self, tell: Tell | None = None) -> None:
        """Nothing is built aside: `build` returns when it is done."""

    def add_fields(self, old: GenerationSpec, new: GenerationSpec, rows_: Iterable[tuple[bytes, Metadata]]) -> None:
        schema.add_properties(self._calls.session, old, new)
        place = self._place(new)
        added = [name for name in new.fields if name not in old.fields]
        for part in cut(((i, m) for i, m in rows_ if any(m.get(name) is not None for name in added)), IDS):
            kept = dict(part)
            self._calls.patched(
                place,
                [
                    (tenant, one, rows.metadata_properties(new.fields, kept[one]))
                    for tenant, ids in self._homes(new, place, list(kept))
                    for one in ids
                ],
            )

    def repair(self, spec: GenerationSpec) -> list[str]:
        """Shards that the server has made read-only, because its disk or memory was full, take writes again."""
        name = class_name(spec.name)
        closed = self._calls.read_only_shards(name)
        if closed:
            self._calls.session.rest(
                lambda client: client.collections.get(name).config.update_shards("READY", shard_names=closed)
            )
        return [f"shard {one} of {name} takes writes again" for one in closed]

    def stats(self, spec: GenerationSpec) -> Mapping[str, Any]:
        place = self._place(spec)
        name = homes_name(spec.name) if place.tenanted else place.name
        return {
            "points": self._calls.objects(name, "", None),
            "waiting_vectors": self._calls.queue(place.name)[0],
            "tenants": len(self._calls.tenants(place)) if place.tenanted else 0,
        }

    def read_marker(self, collection: str) -> str | None:
        try:
            found = self._calls.searched(
                schema.MARKERS,
                "",
                limit=1,
                filters=self._say.ids([_marker_id(collection)]),
                properties=[schema.MARKED_BY],
            )
        except NoSuchObject:
            return None
        return rows.text_of(found[0], schema.MARKED_BY) if found else None

    def write_marker(self, collection: str, ledger_id: str | None) -> None:
        if ledger_id is None:
            if self.read_marker(collection) is not None:
                self._calls.deleted(schema.MARKERS, "", [uuid.UUID(_marker_id(collection)).bytes])
            return
        schema.create_markers(self._calls.session)
        marker = rows.message(
            self._proto,
            schema.MARKERS,
            uuid.UUID(_marker_id(collection)).bytes,
            {schema.MARKED: collection, schema.MARKED_BY: ledger_id},
        )
        for text in self._calls.written([marker]).values():
            raise StoreError(
                f"Weaviate at {self._calls.session.address} does not keep the marker of {collection!r}: {text}"
            )

    def close(self) -> None:
        self._calls.session.close()

    # How points are written

    def _sent(self, spec: GenerationSpec, place: Place, points: Sequence[Point], vectors: Vector) -> dict[bytes, str]:
        """Write one request's points; the errors of those that the server has not taken."""
        failed: dict[bytes, str] = {}
        messages, homes, sent = [], [], []
        for point, vector in zip(points, vectors, strict=True):
            tenant = tenant_name(point.tenant_id or "") if place.tenanted else ""
            try:
                terms = self._analyzer.terms(point.content)
                messages.append(rows.point_message(self._proto, place.name, spec.fields, point, vector, terms, tenant))
            except (TypeError, ValueError) as error:
                failed[point.point_id] = f"{type(error).__name__}: {error}"
                continue
            sent.append(point.point_id)
            if place.tenanted:
                homes.append(rows.message(self._proto, homes_name(spec.name), point.point_id, {schema.HOME: tenant}))
        if homes:  # first: a point without its home could not be found again by its id
            for position, text in self._calls.written(homes).items():
                failed[sent[position]] = text
            kept = [i for i, one in enumerate(sent) if one not in failed]
            messages, sent = [messages[i] for i in kept], [sent[i] for i in kept]
        for position, text in self._calls.written(messages).items():
            failed[sent[position]] = text
        return failed

    # How points are found

    def _asked(self, spec: GenerationSpec, scope: Scope) -> Asked:
        if spec.tenanted and not scope.tenant:
            raise TenantRequired("This collection is searched per tenant. Use collection.tenant(id).")
        place = self._place(spec)
        compiler = WeaviateFilter(spec.fields, self._say)
        parts = [] if scope.filter is None else [compiler.compile(scope.filter)]
        if scope.point_ids is not None:
            ids = list(map(rows.uuid_text, scope.point_ids))
            parts.append(self._say.ids(ids) if ids else compiler.nothing())
        if scope.tenant is not None and not place.tenanted:
            parts.append(self._say.compare(TENANT, "EQUAL", kept_text(scope.tenant)))
        tenant = tenant_name(scope.tenant) if place.tenanted and scope.tenant else ""
        return Asked(place, tenant, self._say.both(*parts))

    def _homes(
        self, spec: GenerationSpec, place: Place, point_ids: Sequence[bytes]
    ) -> Iterator[tuple[str, list[bytes]]]:
        """The ids by the tenant that has them; with tenants, those of points that are known only."""
        if not place.tenanted:
            if point_ids:
                yield "", list(dict.fromkeys(point_ids))
            return
        by_tenant: defaultdict[str, list[bytes]] = defaultdict(list)
        for part in cut(dict.fromkeys(point_ids), IDS):
            ids = self._say.ids(map(rows.uuid_text, part))
            name = homes_name(spec.name)
            for one in self._calls.searched(name, "", limit=len(part), filters=ids, properties=[schema.HOME]):
                by_tenant[rows.text_of(one, schema.HOME) or ""].append(rows.id_of(one))
        yield from by_tenant.items()

    def _fetched(
        self,
        spec: GenerationSpec,
        place: Place,
        point_ids: Sequence[bytes],
        *,
        where: Any = None,
        properties: Sequence[str] = (),
        vectors: bool = False,
    ) -> Iterator[tuple[str, Any]]:
        """(tenant, result) of each point with one of these ids that meets `where`."""
        most = max(1, min(IDS, self._calls.session.largest_message // 4 // (4 * place.dimensions + 4_000)))
        for tenant, ids in self._homes(spec, place, point_ids):
            for part in cut(ids, most):
                filters = self._say.both(self._say.ids(map(rows.uuid_text, part)), where)
                for one in self._calls.searched(
                    place.name, tenant, limit=len(part), filters=filters, properties=properties, vectors=vectors
                ):
                    yield tenant, one

    # What is asked over and over

    def _place(self, spec: GenerationSpec) -> Place:
        place = self._places.get(spec.name)
        if place is None:
            place = self._places[spec.name] = schema.read(self._calls.session, spec)
        return place

    @property
    def _proto(self) -> Any:
        return self._calls.session.proto

    @property
    def _say(self) -> Conditions:
        return Conditions(self._proto.base_pb2)

    def _query_terms(self, text: str) -> str:
        return " ".join(
            " ".join([term] * repeated)
            for term, repeated in Counter(self._analyzer.terms(text)).most_common(_MAX_TERMS)
        )


def _marker_id(collection: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"shelflist:marker:{collection}"))
