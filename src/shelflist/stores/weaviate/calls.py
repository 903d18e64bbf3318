"""What is asked of a Weaviate server, each question with its retries and the server's own limits."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from shelflist.core.errors import StoreDenied, StoreError, StoreFull, StoreReadOnly, StoreTimeout, StoreUnavailable
from shelflist.core.types import IndexStatus, Vector
from shelflist.stores._connect import retried
from shelflist.stores.weaviate import rows, schema
from shelflist.stores.weaviate.filters import STATUS, Conditions
from shelflist.stores.weaviate.schema import Place
from shelflist.stores.weaviate.session import NoSuchObject, NoSuchTenant, Session

PAGE = 10_000
"""Most answers that the server gives to one question (its QUERY_MAXIMUM_RESULTS)."""
IDS = 2_000
"""Ids in one request by id."""
_PATCHES_IN_FLIGHT = 8
_ALL = 3
"""CONSISTENCY_LEVEL_ALL: searches ask one replica, so each must have what was acknowledged."""

Item = TypeVar("Item")


class Calls:
    """Thread-safe. A tenant is given by its name in the engine; "" is none."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def proto(self) -> Any:
        return self.session.proto

    @property
    def say(self) -> Conditions:
        return Conditions(self.proto.base_pb2)

    @property
    def indexed(self) -> Any:
        return self.say.compare(STATUS, "EQUAL", str(IndexStatus.INDEXED))

    def searched(
        self, name: str, tenant: str, *, properties: Sequence[str] = (), vectors: bool = False, **how: Any
    ) -> list[Any]:
        messages = self.proto.search_get_pb2
        request = messages.SearchRequest(
            collection=name,
            tenant=tenant,
            properties=messages.PropertiesRequest(non_ref_properties=properties),
            metadata=messages.MetadataRequest(
                uuid=True,
                distance="near_vector" in how,
                score="bm25_search" in how or "hybrid_search" in how,
                vectors=[schema.VECTOR] if vectors else [],
            ),
            uses_127_api=True,
            **how,
        )
        try:
            return list(self._retried("Search", request).results)
        except NoSuchTenant:
            return []

    def objects(self, name: str, tenant: str, filters: Any) -> int:
        request = self.proto.aggregate_pb2.AggregateRequest(
            collection=name, tenant=tenant, objects_count=True, filters=filters
        )
        try:
            return int(self._retried("Aggregate", request).single_result.objects_count)
        except NoSuchTenant:
            return 0

    def scanned(self, name: str, tenant: str, properties: Sequence[str]) -> Iterator[Any]:
        after = str(uuid.UUID(int=0))
        while True:
            found = self.searched(name, tenant, limit=IDS, after=after, properties=properties)
            yield from found
            if len(found) < IDS:
                return
            after = found[-1].metadata.id

    def written(self, messages: Sequence[Any]) -> dict[int, str]:
        """Write objects; errors by position. What no object is to blame for raises."""
        if not messages:
            return {}
        request = self.proto.batch_pb2.BatchObjectsRequest(objects=messages, consistency_level=_ALL)

        def write() -> dict[int, str]:
            reply = self.session.call("BatchObjects", request)
            failed = {}
            for one in reply.errors:
                said = self.session.refused("UNKNOWN", one.error)
                if isinstance(said, (StoreUnavailable, StoreTimeout, StoreFull, StoreReadOnly, StoreDenied)):
                    raise said
                failed[one.index] = str(said)
            return failed

        try:
            return retried(write, f"Writing to Weaviate at {self.session.address}.")
        except (StoreUnavailable, StoreTimeout, StoreFull, StoreReadOnly, StoreDenied):
            raise
        except (StoreError, NoSuchObject) as error:
            if len(messages) == 1:
                return {0: str(error)}
        half = len(messages) // 2
        later = {half + position: text for position, text in self.written(messages[half:]).items()}
        return {**self.written(messages[:half]), **later}

    def deleted(self, name: str, tenant: str, ids: Sequence[bytes]) -> None:
        request = self.proto.batch_delete_pb2.BatchDeleteRequest(
            collection=name,
            tenant=tenant or None,
            filters=self.say.ids(map(rows.uuid_text, ids)),
            consistency_level=_ALL,
        )
        try:
            reply = self._retried("BatchDelete", request)
        except NoSuchTenant:
            return
        if reply.failed:
            self._deleted_alone(name, tenant, ids[0])
            closed = self.read_only_shards(name)
            raise self.session.refused(
                "UNKNOWN",
                f"{reply.failed} points of {name} are not deleted" + (", a shard is read-only" if closed else ""),
            )

    def _deleted_alone(self, name: str, tenant: str, point_id: bytes) -> None:
        """Delete one: the engine says for single objects only why it does not, and fails itself at saying it of many."""

        def delete(client: Any) -> None:
            there = client.collections.get(name)
            there = there.with_tenant(tenant) if tenant else there
            there.data.delete_by_id(rows.uuid_text(point_id))

        self.session.rest(delete)

    def read_only_shards(self, name: str) -> list[str]:
        shards = self.session.rest(lambda client: client.collections.get(name).config.get_shards())
        return [str(one.name) for one in shards if one.status == "READONLY"]

    def patched(self, place: Place, patches: Sequence[tuple[str, bytes, Mapping[str, Any]]]) -> None:
        """Set properties of points (tenant, id, properties); one that is gone meanwhile is passed over."""

        def patch(one: tuple[str, bytes, Mapping[str, Any]]) -> None:
            tenant, point_id, properties = one

            def update(client: Any) -> None:
                from weaviate.classes.config import ConsistencyLevel

                there = client.collections.get(place.name).with_consistency_level(ConsistencyLevel.ALL)
                there = there.with_tenant(tenant) if tenant else there
                there.data.update(uuid=rows.uuid_text(point_id), properties=dict(properties))

            try:
                self.session.rest(update)
            except (NoSuchObject, NoSuchTenant):
                return

        each(patch, patches, _PATCHES_IN_FLIGHT)

    def tenants(self, place: Place) -> list[str]:
        if not place.tenanted:
            return [""]
        return sorted(self.session.rest(lambda client: client.collections.get(place.name).tenants.get()))

    def queue(self, name: str) -> tuple[int, set[str]]:
        """How many vectors of a class are stored and not in its index yet, and what its shards say that they do."""
        nodes = self.session.rest(lambda client: client.cluster.nodes(name, output="verbose"))
        shards = [shard for node in nodes for shard in node.shards or []]
        return sum(shard.vector_queue_length or 0 for shard in shards), {
            str(shard.vector_indexing_status) for shard in shards
        }

    def near(self, query: Vector) -> Any:
        return self.proto.base_pb2.Vectors(name=schema.VECTOR, vector_bytes=query.astype("<f4").tobytes(), type=1)

    def _retried(self, method: str, request: Any) -> Any:
        return retried(lambda: self.session.call(method, request), f"{method} of Weaviate.")


def each(work: Callable[[Item], None], items: Sequence[Item], at_once: int) -> None:
    """Work on every item, so many at a time; the first error is raised, and no further item is begun after it."""
    if len(items) < 2:
        for one in items:
            work(one)
        return
    with ThreadPoolExecutor(min(at_once, len(items))) as threads:
        running = [threads.submit(work, one) for one in items]
        try:
            for done in running:
                done.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def cut(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    whole = iter(items)
    while part := list(islice(whole, size)):
        yield part
