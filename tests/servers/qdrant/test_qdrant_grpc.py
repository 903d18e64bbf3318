"""The same questions over gRPC as over HTTP have the same answers; what stands behind both is the server's own core."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_core import VERSION, Core, require_core, serving

from shelflist import F
from shelflist.config import parse_url
from shelflist.core.fields import Fields
from shelflist.core.filters import prepare
from shelflist.core.types import Hnsw, SearchParams
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.stores.qdrant.store import QdrantStore
from shelflist.testing.points import make_point, random_vectors


def as_json(model: Any) -> Any:
    return json.loads(model.model_dump_json(exclude_none=True))


def grpc_before(core: Core) -> tuple[Any, int]:
    """A gRPC server that asks the core, and its port: what points need, and the version."""
    import grpc
    from qdrant_client import grpc as api
    from qdrant_client import models
    from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, grpc_to_payload

    done = api.PointsOperationResponse(
        result=api.UpdateResult(operation_id=1, status=api.UpdateStatus.Completed), time=0.0
    )

    def ask(method: str, name: str, rest: str, body: Any) -> Any:
        return core.answer(method, f"/collections/{name}{rest}", "", body)["result"]

    def where(message: Any) -> Any:
        return as_json(GrpcToRest.convert_filter(message))

    def as_asked(query: Any) -> dict[str, Any]:
        """As the store puts it in JSON: without what gRPC fills in."""
        if query.get("params"):
            query["params"].pop("indexed_only", None)
        filled = ("offset", "score_threshold", "with_payload", "with_vector")
        return {key: value for key, value in query.items() if key not in filled}

    class Points(api.PointsServicer):
        def Upsert(self, request: Any, context: Any) -> Any:
            assert request.wait and request.update_mode == api.UpdateMode.InsertOnly
            points = [as_json(GrpcToRest.convert_point_struct(one)) for one in request.points]
            ask("PUT", request.collection_name, "/points", {"points": points, "update_mode": "insert_only"})
            return done

        def SetPayload(self, request: Any, context: Any) -> Any:
            assert request.wait
            body = {"payload": grpc_to_payload(request.payload), "filter": where(request.points_selector.filter)}
            ask("POST", request.collection_name, "/points/payload", body)
            return done

        def Delete(self, request: Any, context: Any) -> Any:
            assert request.wait
            ids = [GrpcToRest.convert_point_id(one) for one in request.points.points.ids]
            ask("POST", request.collection_name, "/points/delete", {"points": ids})
            return done

        def Get(self, request: Any, context: Any) -> Any:
            ids = [GrpcToRest.convert_point_id(one) for one in request.ids]
            names = list(request.with_vectors.include.names)
            body = {"ids": ids, "with_payload": request.with_payload.enable, "with_vector": names}
            rows = ask("POST", request.collection_name, "/points", body)
            return api.GetResponse(result=[RestToGrpc.convert_record(models.Record(**row)) for row in rows], time=0.0)

        def Count(self, request: Any, context: Any) -> Any:
            body = {"filter": where(request.filter), "exact": request.exact}
            return api.CountResponse(result=ask("POST", request.collection_name, "/points/count", body), time=0.0)

        def Query(self, request: Any, context: Any) -> Any:
            body = as_asked(as_json(GrpcToRest.convert_query_points(request)))
            body["prefetch"] = [as_asked(one) for one in body.get("prefetch", [])]
            found = ask("POST", request.collection_name, "/points/query", body)["points"]
            rows = [RestToGrpc.convert_scored_point(models.ScoredPoint(**row)) for row in found]
            return api.QueryResponse(result=rows, time=0.0)

    class Root(api.QdrantServicer):
        def HealthCheck(self, request: Any, context: Any) -> Any:
            return api.HealthCheckReply(title="qdrant", version=VERSION)

    class Collections(api.CollectionsServicer):
        def Get(self, request: Any, context: Any) -> Any:
            told = ask("GET", request.collection_name, "", {})
            config = told["config"]
            config["wal_config"] = {"wal_capacity_mb": 32, "wal_segments_ahead": 0}
            config["params"] |= {"shard_number": 1, "replication_factor": 1, "on_disk_payload": True}
            info = RestToGrpc.convert_collection_info(models.CollectionInfo(**told))
            return api.GetCollectionInfoResponse(result=info, time=0.0)

    server = grpc.server(ThreadPoolExecutor(4))
    api.add_PointsServicer_to_server(Points(), server)
    api.add_QdrantServicer_to_server(Root(), server)
    api.add_CollectionsServicer_to_server(Collections(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[QdrantStore, QdrantStore]]:
    """The store over HTTP, and over gRPC."""
    require_core()
    with serving(tmp_path / "shards") as (url, core):
        server, port = grpc_before(core)
        both = [QdrantStore.at(parse_url(url + more), busy_timeout=1) for more in ("", f"?grpc_port={port}&timeout=5")]
        yield both[0], both[1]
        for store in both:
            store.close()
        server.stop(0).wait()


def test_both_ways_have_the_same_answers(stores: tuple[QdrantStore, QdrantStore]) -> None:
    fields = Fields({"n": int, "t": str, "p": float, "b": bool, "at": "datetime", "l": "list[str]"})
    index = Hnsw(quantization="scalar")
    spec = GenerationSpec(f"sl_{uuid.uuid4().hex[:12]}_1", 16, fields=fields, index=index)
    http, grpc = stores
    http.create(spec)
    points = [
        make_point(
            f"p{i}",
            row,
            metadata={
                "n": i - 2**53 + 60,
                "t": f"größe {i}" * 3,
                "p": i / 3 - 5,
                "b": i % 2 == 0,
                "at": datetime(2024, 1, 1, 0, 0, i, i, tzinfo=UTC),
                "l": ["a", str(i)],
            },
            fields=fields,
        )
        for i, row in enumerate(random_vectors(60, seed=1))
    ]
    assert len(grpc.upsert(spec, points).stored) == 60
    ids = [point.point_id for point in points]
    rows = [{point.point_id: point for point in store.get(spec, ids)} for store in stores]
    for point in points:
        first, second = (some[point.point_id] for some in rows)
        assert dict(first.metadata) == dict(second.metadata) == dict(point.metadata)
        np.testing.assert_array_equal(first.vector, second.vector)
    filters = [
        F("n") < 30 - 2**53 + 60,
        F("t").starts_with("größe 1"),
        (F("p") > -3.5) & (F("b") == True),  # noqa: E712
        F("l").contains("7") | ~(F("p") < 1 / 3),
        F("p").is_in([-5.0, 1 / 3 - 5, 7.0]),
        F("at") >= datetime(2024, 1, 1, 0, 0, 31, 31, tzinfo=UTC),
    ]
    for where in filters:
        checked = prepare(where, fields)
        scope = Scope(filter=checked)
        matching = {point.point_id for point in points if checked.matches(point.metadata)}
        assert 0 < len(matching) < 60 and http.count(spec, scope) == grpc.count(spec, scope) == len(matching)
        asked: dict[str, Any] = {"limit": 70, "scope": scope}
        for found in (
            [store.search(spec, points[0].vector, params=SearchParams(ef_search=80), **asked) for store in stores],
            [store.search(spec, points[0].vector, params=SearchParams(exact=True), **asked) for store in stores],
            [store.keyword_search(spec, "shelf p7", **asked) for store in stores],
            [store.hybrid_search(spec, "p7", points[0].vector, params=SearchParams(), **asked) for store in stores],
        ):
            mine, theirs = ({item.point_id: item.value for item in one.items} for one in found)
            assert mine.keys() == matching and theirs == pytest.approx(mine, abs=1e-6)
    grpc.set_stale(spec, ids[:5])
    grpc.delete(spec, ids[5:8])
    assert http.count(spec, Scope()) == 52 and len(list(http.scan(spec))) == 57
