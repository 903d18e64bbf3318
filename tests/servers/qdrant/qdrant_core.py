"""Qdrant's own segments, in this process, behind the part of its REST API that the store uses.

`qdrant-edge-py` is the server's Rust core without the server: payload indexes, filters, HNSW with links for each indexed
key, quantization, sparse vectors with IDF. It has no HTTP, no WAL of a server, no replicas. Here it gets the HTTP, so that
the store speaks to it through `qdrant-client` as it does to a server: in JSON, not in Python objects. Like the server it
reads bodies strictly and numbers loosely, and its optimizers work when somebody waits for them.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from engines import missing

VERSION = "1.18.0"
Json = Any


def as_the_server_reads(text: str) -> float:
    """A number with a point as `serde_json` reads it without its feature `float_roundtrip`: digits, then a power of ten.

    Each of the two steps rounds, so that "9007199254740991.0" is 9007199254740990.
    """
    if text.startswith("-"):
        return -as_the_server_reads(text[1:])  # of zero too
    whole, _, exponent = text.lower().partition("e")
    digits, _, decimals = whole.partition(".")
    significand, power = digits + decimals, int(exponent or 0) - len(decimals)
    assert int(significand) < 2**64, f"{text} has more digits than are emulated"
    value = float(int(significand))
    while power < -308:  # there is no larger power of ten to divide by
        value, power = value / 1e308, power + 308
    return value / float(f"1e{-power}") if power < 0 else value * float(f"1e{power}")


def require_core() -> None:
    if find_spec("qdrant_edge") is None or find_spec("qdrant_client") is None:
        missing("Qdrant's core is not installed: pip install qdrant-edge-py qdrant-client")


_BOOLS = {True: "true in JSON", False: "false in JSON"}
"""What stands for them in the core: its Python binding asks for 1 where it is told to ask for True."""


def read(body: bytes) -> Json:
    return json.loads(body, parse_float=as_the_server_reads)


class Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def taken(body: Mapping[str, Json], *known: str) -> list[Json]:
    """The values of these keys, None for those that are not there; any other key is refused, as the server does."""
    unknown = set(body) - set(known)
    if unknown:
        raise Refused(400, f"Format error in JSON body: unknown field {sorted(unknown)[0]}")
    return [body.get(key) for key in known]


class Shard:
    """One collection: a shard of the core in a folder of its own."""

    def __init__(self, folder: Path, body: Mapping[str, Json]) -> None:
        import qdrant_edge as edge

        vectors, sparse, hnsw, optimizers, *_ = taken(
            body,
            "vectors",
            "sparse_vectors",
            "hnsw_config",
            "optimizers_config",
            "strict_mode_config",
            "shard_number",
            "replication_factor",
            "write_consistency_factor",
        )
        self.config = {"vectors": vectors, "sparse_vectors": sparse or {}}
        self.indexes: dict[str, Json] = {}
        self._folder = folder
        self._lock = threading.RLock()
        self._dirty = False
        graph = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000, **(hnsw or {})}
        folder.mkdir(parents=True)
        self._shard = edge.EdgeShard.create(
            str(folder),
            edge.EdgeConfig(
                vectors={name: self._dense(one) for name, one in (vectors or {}).items()},
                sparse_vectors={
                    name: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf if taken(one, "modifier")[0] else None)
                    for name, one in (sparse or {"nothing": {}}).items()  # the core makes no shard without any vector
                },
                hnsw_config=edge.HnswIndexConfig(**graph),
                optimizers=edge.EdgeOptimizersConfig(**(optimizers or {})),
            ),
        )

    def _dense(self, body: Mapping[str, Json]) -> Any:
        import qdrant_edge as edge

        size, distance, quantization = taken(body, "size", "distance", "quantization_config")
        kinds = {"Cosine": edge.Distance.Cosine, "Dot": edge.Distance.Dot, "Euclid": edge.Distance.Euclid}
        return edge.EdgeVectorParams(
            size=size, distance=kinds[distance], quantization_config=self._quantization(quantization or {})
        )

    def _quantization(self, body: Mapping[str, Json]) -> Any:
        import qdrant_edge as edge

        scalar, binary = taken(body, "scalar", "binary")
        if scalar is not None:
            assert scalar["type"] == "int8"
            return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, scalar["quantile"], scalar["always_ram"])
        if binary is None:
            return None
        always_ram, query = taken(binary, "always_ram", "query_encoding")
        assert query == "scalar8bits"
        return edge.BinaryQuantizationConfig(always_ram, None, edge.BinaryQuantizationQueryEncoding.Scalar8Bits)

    def drop(self) -> None:
        with self._lock:
            self._shard.close()
        shutil.rmtree(self._folder)

    def ask(self, what: str, body: Mapping[str, Json]) -> Json:
        with self._lock:
            return getattr(self, what)(body)

    def info(self, body: Mapping[str, Json]) -> Json:
        if self._dirty:
            self._shard.optimize()
            self._dirty = False
        told = self._shard.info()
        return {
            "status": "green",
            "optimizer_status": "ok",
            "segments_count": told.segments_count,
            "points_count": told.points_count,
            "indexed_vectors_count": told.indexed_vectors_count,
            "payload_schema": {},
            "config": {
                "params": self.config,
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
                "optimizer_config": {"default_segment_number": 0, "flush_interval_sec": 5},
            },
        }

    def index(self, body: Mapping[str, Json]) -> Json:
        import qdrant_edge as edge

        name, schema = taken(body, "field_name", "field_schema")
        if schema == "bool":
            params: Any = edge.PayloadSchemaType.Keyword
        else:
            kinds = {"keyword": edge.KeywordIndexParams, "integer": edge.IntegerIndexParams}
            params = kinds[schema["type"]](**{key: value for key, value in schema.items() if key != "type"})
        self.indexes[name] = schema
        return self._update(edge.UpdateOperation.create_field_index(name, params))

    def upsert(self, body: Mapping[str, Json]) -> Json:
        import qdrant_edge as edge

        points, mode = taken(body, "points", "update_mode")
        modes = {None: edge.UpdateMode.Upsert, "insert_only": edge.UpdateMode.InsertOnly}
        rows = []
        for one in points:
            at, vector, payload = taken(one, "id", "vector", "payload")
            rows.append(edge.Point(at, {name: vector_of(value) for name, value in vector.items()}, into_core(payload)))
        return self._update(edge.UpdateOperation.upsert_points(rows, update_mode=modes[mode]))

    def delete(self, body: Mapping[str, Json]) -> Json:
        import qdrant_edge as edge

        return self._update(edge.UpdateOperation.delete_points(taken(body, "points")[0]))

    def set_payload(self, body: Mapping[str, Json]) -> Json:
        import qdrant_edge as edge

        payload, where = taken(body, "payload", "filter")
        return self._update(edge.UpdateOperation.set_payload_by_filter(filter_of(where), into_core(payload)))

    def batch(self, body: Mapping[str, Json]) -> Json:
        (operations,) = taken(body, "operations")
        return [self.set_payload(taken(one, "set_payload")[0]) for one in operations]

    def _update(self, operation: Any) -> Json:
        self._shard.update(operation)
        self._dirty = True
        return {"operation_id": 1, "status": "completed"}

    def retrieve(self, body: Mapping[str, Json]) -> Json:
        ids, payload, vector = taken(body, "ids", "with_payload", "with_vector")
        return [row_of(one) for one in self._shard.retrieve(ids, payload, vector)]

    def scroll(self, body: Mapping[str, Json]) -> Json:
        import qdrant_edge as edge

        limit, offset, payload, vector = taken(body, "limit", "offset", "with_payload", "with_vector")
        request = edge.ScrollRequest(offset, limit, None, payload, vector)
        rows, after = self._shard.scroll(request)
        return {"points": [row_of(one) for one in rows], "next_page_offset": None if after is None else str(after)}

    def count(self, body: Mapping[str, Json]) -> Json:
        import qdrant_edge as edge

        where, exact = taken(body, "filter", "exact")
        return {"count": self._shard.count(edge.CountRequest(exact, None if where is None else filter_of(where)))}

    def query(self, body: Mapping[str, Json]) -> Json:
        import qdrant_edge as edge

        keys = ("query", "using", "filter", "params", "limit", "prefetch", "with_payload", "with_vector")
        query, using, where, params, limit, prefetch, payload, vector = taken(body, *keys)
        request = edge.QueryRequest(
            limit,
            query=query_of(query, using),
            prefetches=[prefetch_of(one) for one in prefetch or []],
            with_payload=payload,
            with_vector=vector,
            filter=None if where is None else filter_of(where),
            params=params_of(params),
        )
        return {"points": [{**row_of(one), "version": 0, "score": one.score} for one in self._shard.query(request)]}


def vector_of(value: Json) -> Any:
    import qdrant_edge as edge

    return edge.SparseVector(*taken(value, "indices", "values")) if isinstance(value, dict) else value


def query_of(query: Json, using: str | None) -> Any:
    import qdrant_edge as edge

    if isinstance(query, list) or "indices" in query:
        query = {"nearest": query}
    nearest, fusion = taken(query, "nearest", "fusion")
    if fusion is None:
        return edge.Query.Nearest(vector_of(nearest), using)
    assert fusion == "rrf"
    return edge.Fusion.Rrf(2)


def prefetch_of(body: Mapping[str, Json]) -> Any:
    import qdrant_edge as edge

    query, using, where, params, limit = taken(body, "query", "using", "filter", "params", "limit")
    found = filter_of(where) if where is not None else None
    return edge.Prefetch(limit, query=query_of(query, using), params=params_of(params), filter=found)


def params_of(body: Mapping[str, Json] | None) -> Any:
    import qdrant_edge as edge

    ef, exact, quantization, acorn = taken(body or {}, "hnsw_ef", "exact", "quantization", "acorn")
    return edge.SearchParams(
        hnsw_ef=ef,
        exact=bool(exact),
        quantization=edge.QuantizationSearchParams(**quantization) if quantization else None,
        acorn=edge.AcornSearchParams(**acorn) if acorn else None,
    )


def filter_of(body: Mapping[str, Json]) -> Any:
    import qdrant_edge as edge

    parts = [None if some is None else [condition_of(one) for one in some]
             for some in taken(body, "must", "should", "must_not")]  # fmt: skip
    return edge.Filter(*parts)


def condition_of(body: Mapping[str, Json]) -> Any:
    import qdrant_edge as edge

    if "has_id" in body:
        return edge.HasIdCondition(set(taken(body, "has_id")[0]))
    if "key" not in body:
        return filter_of(body)
    key, match, bounds = taken(body, "key", "match", "range")
    if bounds is not None:
        return edge.FieldCondition(key, range=edge.RangeFloat(*taken(bounds, "gte", "gt", "lte", "lt")))
    value, some = taken(match, "value", "any")
    return edge.FieldCondition(key, match=edge.MatchAny(some) if some is not None else edge.MatchValue(as_core(value)))


def as_core(value: Json) -> Json:
    return _BOOLS[value] if isinstance(value, bool) else value


def into_core(payload: Mapping[str, Json]) -> Json:
    return {key: as_core(value) for key, value in payload.items()}


def row_of(record: Any) -> Json:
    payload = record.payload
    if payload is not None:
        bools = {name: value for value, name in _BOOLS.items()}
        payload = {key: bools.get(one, one) if isinstance(one, str) else one for key, one in payload.items()}
    return {"id": str(record.id), "payload": payload, "vector": record.vector}


_ROUTES = {
    ("GET", ""): "info",
    ("PATCH", ""): "info",
    ("PUT", "/index"): "index",
    ("PUT", "/points"): "upsert",
    ("POST", "/points"): "retrieve",
    ("POST", "/points/delete"): "delete",
    ("POST", "/points/payload"): "set_payload",
    ("POST", "/points/batch"): "batch",
    ("POST", "/points/scroll"): "scroll",
    ("POST", "/points/count"): "count",
    ("POST", "/points/query"): "query",
}


class Core:
    """All collections, and what the REST API answers about them."""

    def __init__(self, folder: Path) -> None:
        self.collections: dict[str, Shard] = {}
        self._folder = folder
        self._made = 0
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, query: str, body: Json) -> Json:
        if path == "/":
            return {"title": "qdrant - vector search engine", "version": VERSION}
        found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
        if found is None:
            raise Refused(404, "")
        name, rest = unquote(found[1]), found[2] or ""
        return {"result": self._of(name, method, rest, body), "status": "ok", "time": 0.0}

    def _of(self, name: str, method: str, rest: str, body: Json) -> Json:
        with self._lock:
            shard = self.collections.get(name)
            if rest == "/exists":
                return {"exists": shard is not None}
            if (method, rest) == ("PUT", ""):
                if shard is not None:
                    raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
                self._made += 1
                self.collections[name] = Shard(self._folder / str(self._made), body)
                return True
            if shard is None:
                raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
            if (method, rest) == ("DELETE", ""):
                self.collections.pop(name).drop()
                return True
        answer = shard.ask(_ROUTES[method, rest], body)
        return True if method == "PATCH" else answer

    def close(self) -> None:
        for shard in self.collections.values():
            shard.drop()


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, Core]]:
    """The URL of the core, and the core."""
    require_core()
    core = Core(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def respond(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length") or 0))
            at = urlsplit(self.path)
            try:
                status, told = 200, core.answer(self.command, at.path, at.query, read(sent) if sent else {})
            except Refused as error:
                status, told = error.status, {"status": {"error": str(error)}, "time": 0.0}
            except Exception as error:
                status, told = 400, {"status": {"error": f"{type(error).__name__}: {error}"}, "time": 0.0}
            content = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = respond

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"qdrant://127.0.0.1:{server.server_address[1]}", core
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        core.close()
