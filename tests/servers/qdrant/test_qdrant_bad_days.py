"""Bad days of a Qdrant server: each is one error that names the store, its address without a secret, and the next step.

The servers here are fakes that answer the way Qdrant 1.18 does, or do not answer: no engine can be started to be broken.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import engines
import numpy as np
import pytest
from places import Place
from qdrant_engine import Reimplementation

from shelflist.config import parse_url
from shelflist.core.errors import (
    ConfigError,
    MissingDependency,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreTimeout,
    StoreUnavailable,
    Transient,
)
from shelflist.core.fields import Fields
from shelflist.core.types import Flat, Hnsw
from shelflist.stores import _connect
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.stores.qdrant.client import Refusal, RequestRefused
from shelflist.stores.qdrant.schema import collection_options, payload_indexes
from shelflist.stores.qdrant.store import QdrantStore
from shelflist.testing.points import make_points, point_id

SPEC = GenerationSpec("sl_0123456789ab_1", dimensions=16)
SECRET = "not-to-be-seen"
Answer = tuple[int, Any]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "_FIRST_PAUSE", 0.001)


def store_at(url: str) -> QdrantStore:
    return QdrantStore.at(parse_url(url), busy_timeout=1)


@contextmanager
def fake_server(answer: Callable[[str, str], Answer | None], host: str = "127.0.0.1") -> Iterator[str]:
    """An HTTP server that says it is Qdrant 1.18; `answer(method, path)` may give another (status, body)."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            status, body = answer(self.command, self.path) or (200, {"title": "qdrant", "version": "1.18.0"})
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "1")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = respond

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    server = Server((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"qdrant://{f'[{host}]' if ':' in host else host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def said(text: str) -> dict[str, Any]:
    """An error in Qdrant's frame."""
    return {"status": {"error": text}, "time": 0.0001}


def always(status: int, body: Any) -> Callable[[str, str], Answer | None]:
    """The root answers (it asks for no key), everything else does not."""
    return lambda method, path: None if path == "/" else (status, body)


@contextmanager
def silent_socket() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


@contextmanager
def tls_socket() -> Iterator[int]:
    """Wants TLS of whoever connects, and closes on those who do not begin with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("grpc", [False, True], ids=["http", "grpc"])
def test_nobody_listens(grpc: bool) -> None:
    port = engines.free_port()
    store = store_at(f"qdrant://:{SECRET}@127.0.0.1:{port}?timeout=2" + (f"&grpc_port={port}" if grpc else ""))
    with pytest.raises(StoreUnavailable) as caught:
        store.create(SPEC)
    assert f"qdrant://127.0.0.1:{port}" in str(caught.value) and "check host and port" in str(caught.value)
    assert SECRET not in str(caught.value)
    store.close()
    store.close()


@pytest.mark.parametrize("grpc", [False, True], ids=["http", "grpc"])
def test_a_server_that_does_not_answer(grpc: bool) -> None:
    with silent_socket() as port:
        store = store_at(f"qdrant://127.0.0.1:{port}?timeout=1" + (f"&grpc_port={port}" if grpc else ""))
        with pytest.raises(StoreTimeout, match=r"did not answer within 1 s.*timeout="):
            store.read_marker("docs")
        store.close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, "Must provide an API key or an Authorization bearer token"),
        (401, "Invalid API key or JWT"),
        (403, said("Forbidden: Global write access is required")),
        (403, said('Forbidden: Access to collection "docs" is required')),
    ],
)
def test_a_wrong_key(status: int, body: Any) -> None:
    with fake_server(always(status, body)) as url:
        store = store_at(f"{url}?api_key={SECRET}")
        with pytest.raises(StoreDenied) as caught:
            store.create(SPEC)
        store.close()
    assert url in str(caught.value) and "SHELFLIST_API_KEY" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not isinstance(caught.value, Transient)


@pytest.mark.parametrize(
    "text", ["Storage locked: No access to writes until the backup is done", "<h1>403 Forbidden</h1>"]
)
def test_a_right_key_that_is_forbidden_something(text: str) -> None:
    """A lock, or a proxy: the words are theirs, and no other key would help."""
    with fake_server(always(403, said(text))) as url:
        store = store_at(url)
        with pytest.raises(StoreDenied) as caught:
            store.create(SPEC)
        store.close()
    assert text in str(caught.value) and "forbids" in str(caught.value) and "API_KEY" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, "Service internal error: No space left on device: WAL buffer size exceeds available disk space"),
        (507, "Insufficient storage"),
    ],
)
def test_a_full_disk(status: int, text: str) -> None:
    with fake_server(always(status, said(text))) as url:
        store = store_at(url)
        with pytest.raises(StoreFull, match=r"no space left.*run the same command again"):
            store.drop(SPEC.name)
        store.close()


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (429, "Rate limiting exceeded: Write rate limit exceeded", StoreUnavailable),
        (503, "Service unavailable", StoreUnavailable),
        (504, "Timeout: Operation 'Create' timed out", StoreTimeout),
        (500, "Service internal error: 1 of 1 read operations failed", StoreUnavailable),
        (400, "Wrong input: Vector dimension error", RequestRefused),
        (409, "Wrong input: Collection `x` already exists!", Refusal),
        (403, 'Forbidden: Limit exceeded 11 > 10 for "limit". Help: Reduce the "limit" parameter.', RequestRefused),
    ],
)
def test_what_the_server_says_is_passed_on(status: int, text: str, kind: type[StoreError]) -> None:
    with fake_server(always(status, said(text))) as url:
        store = store_at(url)
        with pytest.raises(kind) as caught:
            store.read_marker("docs")
        store.close()
    assert type(caught.value) is kind and url in str(caught.value)
    assert kind is StoreTimeout or text in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>It works!</html>"),
        (200, {"title": "something", "version": "main"}),
        (404, "not found"),
        (404, said("Not found")),
        (400, "Client sent an HTTP request to an HTTPS server."),
        (405, "Method Not Allowed"),
        (302, ""),
    ],
)
def test_somebody_else_answers(status: int, body: Any, folder: Path) -> None:
    """Whatever they answer to it: no collection is missing, and nothing is made beside them."""
    asked: list[str] = []

    def answer(method: str, path: str) -> Answer:
        asked.append(path)
        return status, body

    with fake_server(answer) as url:
        store = store_at(url)
        with pytest.raises(StoreError, match=f"What answers at {url} is not Qdrant.*Check host and port") as caught:
            store.read_marker("docs")
        store.close()
        assert asked == ["/"] and not isinstance(caught.value, Transient) and "repair" not in str(caught.value)
        with pytest.raises(StoreError, match="is not Qdrant"):
            Place(url, f"sqlite:{folder / 'ledger.db'}").given()
    assert not list(folder.iterdir())


def test_somebody_else_answers_over_grpc() -> None:
    import grpc

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    store = store_at(f"qdrant://127.0.0.1:1?grpc_port={port}&timeout=5")
    with pytest.raises(StoreError, match="is not Qdrant") as caught:
        store.read_marker("docs")
    store.close()
    server.stop(0).wait()
    assert not isinstance(caught.value, Transient)


def test_a_server_that_is_too_old() -> None:
    with fake_server(lambda method, path: (200, {"title": "qdrant", "version": "1.9.7"})) as url:
        store = store_at(url)
        with pytest.raises(StoreError, match=r"version 1\.9\.7; Shelflist needs 1\.13"):
            store.read_marker("docs")
        store.close()


def test_tls_to_a_server_without_it() -> None:
    with fake_server(always(200, {})) as url:
        store = store_at(f"{url}?tls=1&timeout=2")
        with pytest.raises(StoreError, match=r"does not agree on TLS.*leave tls=1 out") as caught:
            store.read_marker("docs")
        store.close()
    assert not isinstance(caught.value, Transient)


def test_no_tls_to_a_server_that_wants_it() -> None:
    with tls_socket() as port:
        store = store_at(f"qdrant://127.0.0.1:{port}?timeout=2")
        with pytest.raises(StoreError, match="add tls=1 to the URL"):
            store.read_marker("docs")
        store.close()


class Troubled(Reimplementation):
    """Refuses upserts: the next `failures` of them with a status or an error, or each that holds the point `bad`."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[int | Exception] = []
        self.bad: str | None = None
        self.sizes: list[int] = []

    def upsert(self, collection_name: str, points: Any, **options: Any) -> Any:
        self.sizes.append(len(points))
        if self.failures:
            self.refuse(self.failures.pop(0))
        if any(point.id == self.bad for point in points):
            self.refuse(400)
        return self.__getattr__("upsert")(collection_name, points, **options)

    def refuse(self, status: int | Exception) -> None:
        import httpx
        from qdrant_client.http.exceptions import UnexpectedResponse

        if isinstance(status, Exception):
            raise status
        raise UnexpectedResponse(status, "", json.dumps(said("not this one")).encode(), httpx.Headers())


@pytest.fixture
def troubled() -> Troubled:
    return Troubled()


@pytest.fixture
def store(troubled: Troubled) -> Iterator[QdrantStore]:
    client: Any = troubled
    server = _connect.server(parse_url("qdrant://in-memory"), port=6333)
    store = QdrantStore(server, open_client=lambda: client)
    yield store
    store.close()


pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


def test_one_bad_point_takes_no_other_with_it(store: QdrantStore, troubled: Troubled) -> None:
    points = make_points("p", 1_300, seed=1)
    troubled.bad = str(uuid.UUID(bytes=point_id("p777")))
    store.create(SPEC)
    result = store.upsert(SPEC, points)
    assert list(result.failed) == [point_id("p777")] and "not this one" in result.failed[point_id("p777")]
    assert set(result.stored) == {point.point_id for point in points} - {point_id("p777")}
    assert store.count(SPEC, Scope()) == 1_299
    assert len(troubled.sizes) < 3 + 2 * 11


def test_too_large_a_request_is_halved(store: QdrantStore, troubled: Troubled) -> None:
    store.create(SPEC)
    troubled.failures = [413]
    result = store.upsert(SPEC, make_points("p", 100, seed=1))
    assert len(result.stored) == 100 and not result.failed
    assert troubled.sizes == [100, 50, 50]


def grpc_error(code: str, details: str) -> Exception:
    import grpc

    class Told(grpc.RpcError):  # type: ignore[misc]
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode[code]

        def details(self) -> str:
            return details

    return Told()


@pytest.mark.parametrize("trouble", [500, "INTERNAL", "UNKNOWN", "FAILED_PRECONDITION"])
def test_a_server_in_trouble_is_no_bad_point(store: QdrantStore, troubled: Troubled, trouble: int | str) -> None:
    """A cluster answers so while it chooses a leader: what goes away is waited for, what does not is the error."""
    store.create(SPEC)
    points = make_points("p", 300, seed=1)
    text = "Service internal error: The replica set for shard 0 has no active replica"
    error = trouble if isinstance(trouble, int) else grpc_error(trouble, text)
    troubled.failures = [error] * 2
    assert len(store.upsert(SPEC, points).stored) == 300 and troubled.sizes == [300] * 3
    troubled.failures, troubled.sizes = [error] * 1_000, []
    with pytest.raises(StoreUnavailable, match="failed"):
        store.upsert(SPEC, points)
    assert troubled.sizes == [300] * 5


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("OUT_OF_RANGE", "Error, decoded message length too large: found 34 bytes, the limit is: 32 bytes"),
        ("RESOURCE_EXHAUSTED", "Sent message larger than max (34 vs. 32)"),
        ("INVALID_ARGUMENT", "Wrong input: Vector dimension error: expected dim: 16, got 15"),
    ],
)
def test_what_grpc_does_not_take_is_halved(store: QdrantStore, troubled: Troubled, code: str, details: str) -> None:
    store.create(SPEC)
    troubled.failures = [grpc_error(code, details)]
    assert len(store.upsert(SPEC, make_points("p", 100, seed=1)).stored) == 100
    assert troubled.sizes == [100, 50, 50]


def test_what_is_refused_whoever_asks_is_not_halved(store: QdrantStore, troubled: Troubled) -> None:
    store.create(SPEC)
    for status in (401, 403, 405, 409, grpc_error("FAILED_PRECONDITION", "Storage locked: for the backup")):
        troubled.failures, troubled.sizes = [status], []
        with pytest.raises(StoreError):
            store.upsert(SPEC, make_points("p", 100, seed=1))
        assert troubled.sizes == [100]


def test_a_restart_in_the_middle_of_a_load(
    store: QdrantStore, troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connect.time, "sleep", lambda seconds: None)
    store.create(SPEC)
    troubled.failures = [503, 429, 503]
    result = store.upsert(SPEC, make_points("p", 1_300, seed=1))
    assert len(result.stored) == 1_300 and not result.failed
    troubled.failures = [503] * 1_000
    with pytest.raises(StoreUnavailable):
        store.upsert(SPEC, make_points("q", 10, seed=2))
    troubled.failures = []
    assert len(store.upsert(SPEC, make_points("q", 10, seed=2)).stored) == 10
    assert store.count(SPEC, Scope()) == 1_310


def test_a_late_write_does_not_bring_back_what_is_stale(store: QdrantStore) -> None:
    store.create(SPEC)
    points = make_points("p", 3, seed=1)
    store.upsert(SPEC, points)
    store.set_stale(SPEC, [point_id("p1")])
    store.upsert(SPEC, points)
    assert dict(store.scan(SPEC))[point_id("p1")] == "stale" and store.count(SPEC, Scope()) == 2


def test_a_place_that_somebody_else_made(store: QdrantStore, troubled: Troubled) -> None:
    from qdrant_client import models

    theirs = models.VectorParams(size=16, distance=models.Distance.COSINE)
    troubled.create_collection(SPEC.name, vectors_config=theirs)
    with pytest.raises(StoreMismatch, match=r"not made by Shelflist.*check --url"):
        store.create(SPEC)
    store.drop(SPEC.name)
    store.create(SPEC)
    for other in (replace(SPEC, dimensions=8), replace(SPEC, metric="dot")):
        with pytest.raises(StoreMismatch, match="another one: check --ledger and --url"):
            store.create(other)


def test_a_place_that_is_gone(store: QdrantStore) -> None:
    store.create(SPEC)
    store.drop(SPEC.name)
    with pytest.raises(StoreError, match="shelflist repair"):
        store.upsert(SPEC, make_points("p", 3, seed=1))
    with pytest.raises(StoreError, match="shelflist repair"):
        store.count(SPEC, Scope())


def test_another_process_opens_its_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    def open_client() -> Any:
        opened.append(Reimplementation())
        return opened[-1]

    store = QdrantStore(_connect.server(parse_url("qdrant://in-memory"), port=6333), open_client)
    assert not opened, "nothing is opened before it is used"
    store.read_marker("docs")
    store.read_marker("docs")
    assert len(opened) == 1
    monkeypatch.setattr("os.getpid", lambda: 1)
    store.read_marker("docs")
    assert len(opened) == 2
    store.close()
    store.read_marker("docs")
    assert len(opened) == 3


def on_six() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6) as listener:
        listener.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("grpc", [False, True], ids=["http", "grpc"])
def test_an_address_of_ipv6(grpc: bool) -> None:
    port = engines.free_port()
    store = store_at(f"qdrant://[::1]:{port}?timeout=2" + (f"&grpc_port={port}" if grpc else ""))
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        store.read_marker("docs")
    store.close()


@pytest.mark.skipif(not on_six(), reason="there is no IPv6 here")
def test_a_server_at_an_address_of_ipv6() -> None:
    there = {"result": {"exists": False}, "status": "ok", "time": 0.0}
    with fake_server(always(200, there), "::1") as url:
        store = store_at(url)
        assert "[::1]" in url and store.read_marker("docs") is None
        store.close()


@pytest.mark.parametrize("option", ["grpc_port=x", "grpc_port=0", "shards=-1", "replicas=1.5", "prefer=grpc"])
def test_options_that_make_no_sense(option: str) -> None:
    with pytest.raises(ConfigError, match=option.partition("=")[0]):
        store_at(f"qdrant://127.0.0.1?{option}")


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingDependency, match=r"pip install 'shelflist\[qdrant\]'"):
        store_at("qdrant://127.0.0.1").read_marker("docs")


def test_thresholds_in_rows_become_kilobytes() -> None:
    """Qdrant counts both thresholds in kilobytes of vectors, takes no scan below 10, and reads 0 as never."""
    index = Hnsw(m=24, ef_construction=200, full_scan_threshold=2_000, indexing_threshold=20_000)
    made = collection_options(GenerationSpec("x", 384, index=index), (1, 18), None, None)
    assert (made["hnsw_config"].m, made["hnsw_config"].ef_construct) == (24, 200)
    assert made["hnsw_config"].full_scan_threshold == 3_000
    assert made["optimizers_config"].indexing_threshold == 30_000
    least = replace(index, full_scan_threshold=0, indexing_threshold=0)
    made = collection_options(GenerationSpec("x", 8, index=least), (1, 18), None, None)
    assert made["hnsw_config"].full_scan_threshold == 10
    assert made["optimizers_config"].indexing_threshold == 1


def test_what_a_collection_is_made_with() -> None:
    from qdrant_client import models

    tenanted = GenerationSpec("x", 8, fields=Fields({"title": str, "year": int, "at": "datetime"}), tenanted=True)
    made = collection_options(tenanted, (1, 18), 2, 3)
    assert (made["hnsw_config"].m, made["hnsw_config"].payload_m) == (0, 16)
    assert (made["shard_number"], made["replication_factor"], made["write_consistency_factor"]) == (2, 3, 3)
    indexes = dict(payload_indexes(tenanted, (1, 18)))
    assert indexes["tenant_id"].is_tenant and indexes["index_status"].enable_hnsw is False
    assert dict(payload_indexes(tenanted, (1, 16)))["index_status"].enable_hnsw is None
    assert {"document_id", "value-title", "order-title", "value-year", "value-at", "order-at"} <= indexes.keys()
    flat = collection_options(replace(tenanted, index=Flat()), (1, 18), None, None)
    assert flat["hnsw_config"].m == 0 and flat["optimizers_config"].indexing_threshold == 0
    for kind, config in (("scalar", models.ScalarQuantization), ("binary", models.BinaryQuantization)):
        vectors = collection_options(replace(tenanted, index=Hnsw(quantization=kind)), (1, 18), None, None)[
            "vectors_config"
        ]
        assert isinstance(vectors["dense"].quantization_config, config)


def test_short_and_long_vectors_are_sent_with_length_one(store: QdrantStore) -> None:
    """The server itself would leave the first as it is, and make infinity of the second."""
    store.create(SPEC)
    points = make_points("p", 2, seed=1)
    extreme = [replace(points[0], vector=points[0].vector * np.float32(1e-20)), points[1]]
    extreme[1] = replace(points[1], vector=points[1].vector * np.float32(1e25))
    store.upsert(SPEC, extreme)
    for row in store.vectors(SPEC, [point_id("p0"), point_id("p1")]).values():
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
