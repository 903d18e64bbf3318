"""What goes wrong between Shelflist and Weaviate, on real servers: one clear error, and nothing lost."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from engines import free_port
from weaviate_engine import WeaviateServer, open_store, running

import shelflist
from shelflist.core.errors import (
    ConfigError,
    DimensionMismatch,
    ShelflistError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreMismatch,
    StoreReadOnly,
    StoreTimeout,
    StoreUnavailable,
    Transient,
    UnsupportedIndex,
)
from shelflist.core.fields import Fields
from shelflist.core.types import Candidates, Flat, Hnsw, SearchParams
from shelflist.stores import _connect
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.stores.weaviate.store import WeaviateStore
from shelflist.testing.points import make_point, make_points, point_id, random_vectors

QUERY = random_vectors(1, seed=9)[0]
KEY = "open-sesame-1234"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeaviateServer]:
    with running(tmp_path_factory.mktemp("weaviate")) as server:
        yield server


@pytest.fixture
def store(server: WeaviateServer) -> Iterator[WeaviateStore]:
    store = open_store(server.url)
    yield store
    store.close()


@pytest.fixture
def spec(store: WeaviateStore) -> Iterator[GenerationSpec]:
    spec = GenerationSpec("sl_badday_1", 16, fields=Fields({"year": int}))
    store.create(spec)
    yield spec
    store.drop(spec.name)


@pytest.fixture
def few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "_FIRST_PAUSE", 0.01)


def ask(store: WeaviateStore, spec: GenerationSpec, limit: int = 3) -> Candidates:
    return store.search(spec, QUERY, limit=limit, scope=Scope(), params=SearchParams())


def refusal(url: str, kind: type[ShelflistError]) -> str:
    """The error of the first thing that is asked at a URL."""
    store = open_store(url)
    try:
        with pytest.raises(kind) as caught:
            store.create(GenerationSpec("sl_refused_1", 16))
    finally:
        store.close()
        store.close()
    assert url.split("?")[0] in str(caught.value)
    return str(caught.value)


def test_nobody_listens() -> None:
    text = refusal(f"weaviate://127.0.0.1:{free_port()}?api_key={KEY}&timeout=5", StoreUnavailable)
    assert "refused" in text and KEY not in text


def test_the_grpc_port_is_wrong(server: WeaviateServer, few_retries: None) -> None:
    port = free_port()
    store = open_store(f"weaviate://127.0.0.1:{server.port}?grpc_port={port}&timeout=5")
    spec = GenerationSpec("sl_grpc_1", 16)
    store.create(spec)
    with pytest.raises(StoreUnavailable, match=rf"gRPC 127.0.0.1:{port}.*grpc_port="):
        ask(store, spec)
    store.drop(spec.name)
    store.close()


@pytest.mark.parametrize("options", ["grpc_port=abc", "grpc_port=70000", "color=red", "tls=perhaps", "timeout=-1"])
def test_an_option_that_is_wrong(options: str) -> None:
    with pytest.raises(ConfigError):
        open_store(f"weaviate://127.0.0.1:8080?{options}")


def test_tls_to_a_server_without(server: WeaviateServer) -> None:
    text = refusal(f"{server.url}&tls=1&api_key={KEY}", StoreError)
    assert "TLS" in text and "tls=1" in text and KEY not in text


@contextmanager
def fake(status: int, body: bytes) -> Iterator[tuple[int, list[str]]]:
    """The port of a server that has one answer for everything, and what it was asked for."""
    seen: list[str] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port, seen
        finally:
            server.shutdown()


@pytest.mark.parametrize("version", ["1.30.1", "1.20.3"])
def test_a_server_that_is_too_old(version: str) -> None:
    with fake(200, json.dumps({"version": version}).encode()) as (port, _):
        text = refusal(f"weaviate://127.0.0.1:{port}", StoreError)
    assert version in text and "1.33" in text


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b'{"detail": "Not Found"}'),
        (404, b"<html>unauthorized</html>"),
        (405, b""),
        (301, b""),
        (501, b"{}"),
        (200, b"<html>hello</html>"),
        (200, b"{}"),
        (200, b"[]"),
        (200, b"7"),
        (200, b"null"),
        (200, b'{"version": 7}'),
        (200, b'{"version": "latest"}'),
        (200, b'{"version": "1.38.0", "grpcMaxMessageSize": "much"}'),
    ],
)
def test_something_else_answers(tmp_path: Path, status: int, body: bytes) -> None:
    """One clear error, at once, and no ledger that was made for nothing."""
    ledger = tmp_path / "ledger.db"
    with fake(status, body) as (port, seen):
        url = f"weaviate://127.0.0.1:{port}"
        with pytest.raises(StoreError, match=rf"{url} is not Weaviate.*[Cc]heck the address") as caught:
            shelflist.open(url, "docs", ledger=f"sqlite:{ledger}", embedder=None, fingerprint="f", dimensions=16)
    assert not isinstance(caught.value, Transient) and set(seen) == {"/v1/meta"} and len(seen) <= 2
    assert not list(tmp_path.iterdir())


def test_what_repeats_the_api_key() -> None:
    """A proxy, say: neither in the message nor in the traceback that a log would have of it."""
    for status in (403, 404):
        with fake(status, json.dumps({"error": f"Bearer {KEY}"}).encode()) as (port, _):
            store = open_store(f"weaviate://127.0.0.1:{port}?api_key={KEY}")
            with pytest.raises(StoreError) as caught:
                store.create(GenerationSpec("sl_refused_1", 16))
            assert KEY not in "".join(traceback.format_exception(caught.value))


def test_an_address_of_ipv6(tmp_path: Path) -> None:
    with running(tmp_path / "server", host="::1") as server:
        assert "[::1]" in server.url
        for url in (server.url, f"{server.url}&grpc_host=::1", f"{server.url}&grpc_host=[::1]"):
            store = open_store(url)
            spec = GenerationSpec("sl_six_1", 16)
            store.create(spec)
            store.upsert(spec, make_points("p", 3, seed=1))
            assert len(ask(store, spec).items) == 3
            store.drop(spec.name)
            store.close()


def test_api_keys(tmp_path: Path) -> None:
    settings = {
        "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
        "AUTHENTICATION_APIKEY_ENABLED": "true",
        "AUTHENTICATION_APIKEY_ALLOWED_KEYS": KEY,
        "AUTHENTICATION_APIKEY_USERS": "somebody",
    }
    with running(tmp_path / "server", settings) as server:
        refusal(server.url, StoreDenied)
        text = refusal(f"{server.url}&api_key=wrong-{KEY}", StoreDenied)
        assert "api_key=" in text and KEY not in text
        store = open_store(f"{server.url}&api_key={KEY}")
        spec = GenerationSpec("sl_key_1", 16)
        store.create(spec)
        assert len(store.upsert(spec, make_points("p", 3, seed=1)).stored) == 3
        assert len(ask(store, spec).items) == 3
        store.write_marker("docs", "a ledger")
        assert store.read_marker("docs") == "a ledger"
        assert KEY not in repr(store._calls.session._now)  # tools that print the variables of a traceback show it
        store.close()


def test_a_server_that_does_not_answer(server: WeaviateServer, spec: GenerationSpec, few_retries: None) -> None:
    store = open_store(f"{server.url}&timeout=1")
    assert ask(store, spec).exhausted
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreTimeout, match=r"within 1 s.*timeout="):
            ask(store, spec)
        with pytest.raises(StoreTimeout):
            store.flush(spec)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert ask(store, spec).exhausted
    store.close()


def test_a_class_that_somebody_else_made(store: WeaviateStore, server: WeaviateServer) -> None:
    from weaviate.classes.config import Configure, VectorDistances

    def make(client: object) -> None:
        client.collections.create(  # type: ignore[attr-defined]
            "Sl_theirs_1",
            vector_config=Configure.Vectors.self_provided(
                vector_index_config=Configure.VectorIndex.hnsw(distance_metric=VectorDistances.L2_SQUARED)
            ),
        )

    store._calls.session.rest(make)
    spec = GenerationSpec("sl_theirs_1", 16)
    with pytest.raises(StoreMismatch, match="Somebody else made"):
        store.create(spec)
    with pytest.raises(StoreMismatch, match="Somebody else made"):
        store.upsert(spec, make_points("p", 1, seed=1))
    store.drop(spec.name)


def test_another_shape_of_our_own(store: WeaviateStore, spec: GenerationSpec) -> None:
    for other in (replace(spec, dimensions=8), replace(spec, metric="l2"), replace(spec, tenanted=True)):
        with pytest.raises(StoreMismatch):
            store.create(other)
    with pytest.raises(DimensionMismatch):
        store.upsert(spec, [make_point("p", random_vectors(1, seed=1, dimensions=8)[0])])


def test_an_index_that_this_server_cannot_build(store: WeaviateStore) -> None:
    with pytest.raises(UnsupportedIndex, match="ASYNC_INDEXING"):
        store.create(GenerationSpec("sl_dynamic_1", 16, index=Hnsw(indexing_threshold=100)))
    with pytest.raises(UnsupportedIndex):
        store.create(GenerationSpec("sl_dynamic_1", 16, index=Flat(quantization="scalar")))


def test_bad_items_do_not_take_the_others_with_them(store: WeaviateStore, spec: GenerationSpec) -> None:
    points = make_points("p", 600, seed=1, metadata={"year": 1}, fields=spec.fields)
    bad = {
        7: replace(points[7], metadata={"year": "1999"}),
        300: replace(points[300], document_id="\ud800"),
        599: replace(points[599], metadata={"year": 1.5}),
    }
    for position, point in bad.items():
        points[position] = point
    result = store.upsert(spec, points)
    assert result.failed.keys() == {point.point_id for point in bad.values()}
    assert "year" in result.failed[points[7].point_id] and "integer" in result.failed[points[599].point_id]
    assert len(result.stored) == 597 == store.count(spec, Scope())


def test_a_late_writer_does_not_bring_a_dropped_generation_back(server: WeaviateServer, store: WeaviateStore) -> None:
    spec = GenerationSpec("sl_dropped_1", 16)
    store.create(spec)
    store.upsert(spec, make_points("p", 2, seed=1))
    other = open_store(server.url)
    other.drop(spec.name)
    for call in (
        lambda: store.upsert(spec, make_points("q", 2, seed=2)),
        lambda: ask(store, spec),
        lambda: store.set_stale(spec, [point_id("p0")]),
    ):
        with pytest.raises(StoreError, match="dropped"):
            call()
    assert not other._calls.session.rest(lambda client: client.collections.exists("Sl_dropped_1"))
    other.close()


_FORK = """
import os, signal, sys, time
from shelflist.core.fields import Fields
from shelflist.core.types import SearchParams
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import random_vectors
from weaviate_engine import open_store

spec = GenerationSpec(sys.argv[2], 16, fields=Fields({"year": int}))
store = open_store(sys.argv[1])

def found():
    query = random_vectors(1, seed=9)[0]
    return len(store.search(spec, query, limit=10, scope=Scope(), params=SearchParams()).items)

assert found() == 5
child = os.fork()
if child == 0:
    number = 0
    try:
        number = found()
        store.close()
    finally:
        os._exit(0 if number == 5 else 1)
deadline = time.monotonic() + 30
while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
    if time.monotonic() > deadline:
        os.kill(child, signal.SIGKILL)
    time.sleep(0.05)
assert os.waitstatus_to_exitcode(ended[1]) == 0, ended
assert found() == 5
store.close()
"""


def test_a_forked_process_opens_its_own_connection(
    server: WeaviateServer, store: WeaviateStore, spec: GenerationSpec
) -> None:
    store.upsert(spec, make_points("p", 5, seed=1))
    # A process of its own: the gRPC channels of other stores' clients, which tests before this one leave in this process,
    # do not survive a fork, whatever we do.
    done = subprocess.run(
        [sys.executable, "-c", _FORK, server.url, spec.name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(ask(store, spec, 10).items) == 5


def test_killed_in_the_middle_of_a_load(server: WeaviateServer, store: WeaviateStore, spec: GenerationSpec) -> None:
    """What was acknowledged is there after `kill -9`; the load goes on where it stopped and loses nothing."""
    points = make_points("load", 4_000, seed=3)
    batches = [points[start : start + 250] for start in range(0, len(points), 250)]
    acknowledged: set[bytes] = set()
    struck = threading.Event()

    def strike() -> None:
        while len(acknowledged) < 1_000:
            time.sleep(0.005)
        server.stop(signal.SIGKILL)
        struck.set()

    killer = threading.Thread(target=strike)
    killer.start()
    waiting = list(batches)
    stopped = None
    while waiting:
        try:
            acknowledged.update(store.upsert(spec, waiting[0]).stored)
        except StoreError as error:
            assert isinstance(error, Transient), error
            stopped = error
            break
        waiting.pop(0)
    killer.join()
    assert struck.is_set() and stopped is not None and waiting and 127 <= len(acknowledged) < len(points)
    assert "weaviate://127.0.0.1" in str(stopped)
    server.start()
    assert {one for one, _ in store.scan(spec)} >= acknowledged
    for batch in waiting:
        assert not store.upsert(spec, batch).failed
    store.flush(spec)
    assert {one for one, _ in store.scan(spec)} == {point.point_id for point in points}
    assert store.count(spec, Scope()) == 4_000
    found = store.search(spec, QUERY, limit=10, scope=Scope(), params=SearchParams(exact=True))
    assert len(found.items) == 10 and found.exact


def test_restarted_while_a_load_waits(server: WeaviateServer, store: WeaviateStore, spec: GenerationSpec) -> None:
    """A server that comes back while the load tries again costs nothing but time."""
    server.stop()
    back = threading.Thread(target=server.start)
    back.start()
    deadline = time.monotonic() + 60
    while True:
        try:
            result = store.upsert(spec, make_points("p", 20, seed=1))
            break
        except StoreError as error:
            assert isinstance(error, Transient) and time.monotonic() < deadline, error
    back.join()
    assert len(result.stored) == 20 and store.count(spec, Scope()) == 20


def test_what_may_be_repeated_is_asked_again(
    store: WeaviateStore, few_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is away at two tries of every call, over REST or gRPC, costs nothing but time."""
    session = store._calls.session
    translated, failures = session._translated, [0]

    def away(work: Callable[[], object]) -> object:
        if failures[0]:
            failures[0] -= 1
            raise StoreUnavailable(f"Weaviate at {session.address} is away.")
        return translated(work)

    spec = GenerationSpec("sl_again_1", 16, fields=Fields({"year": int}))
    wider = replace(spec, fields=Fields({"year": int, "title": str}))
    steps: list[Callable[[], object]] = [
        lambda: store.create(spec),
        lambda: store.upsert(spec, make_points("p", 5, seed=1)),
        lambda: store.flush(spec),
        lambda: store.add_fields(spec, wider, [(point_id("p0"), {"title": "shelf"})]),
        lambda: ask(store, wider),
        lambda: store.set_stale(wider, [point_id("p0")]),
        lambda: store.delete(wider, [point_id("p1")]),
        lambda: store.count(wider, Scope()),
        lambda: list(store.scan(wider)),
        lambda: store.vectors(wider, [point_id("p2")]),
        lambda: store.stats(wider),
        lambda: store.repair(wider),
        lambda: store.write_marker("docs", "a ledger"),
        lambda: store.read_marker("docs"),
    ]
    _ = session.proto  # connected
    monkeypatch.setattr(session, "_translated", away)
    for step in steps:
        failures[0] = 2
        step()
        assert not failures[0]
    assert store.count(wider, Scope()) == 3
    failures[0] = 99
    with pytest.raises(StoreUnavailable):
        store.stats(wider)
    assert failures[0] == 94, "five tries, and no more"
    failures[0] = 2
    store.drop(spec.name)


@pytest.mark.parametrize("step", ["create", "upsert", "ask", "read_marker", "write_marker", "scan", "stats"])
def test_the_first_connection_is_tried_again_too(
    server: WeaviateServer, spec: GenerationSpec, few_retries: None, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from weaviate import WeaviateClient
    from weaviate.exceptions import WeaviateStartUpError

    connect, failures, tried = WeaviateClient.connect, [2], []

    def away(client: WeaviateClient) -> None:
        tried.append(client)
        if len(tried) <= failures[0]:
            raise WeaviateStartUpError("Could not connect to Weaviate: Connection refused.")
        connect(client)

    monkeypatch.setattr(WeaviateClient, "connect", away)
    steps: dict[str, Callable[[WeaviateStore], object]] = {
        "create": lambda late: late.create(spec),
        "upsert": lambda late: late.upsert(spec, make_points("p", 2, seed=1)),
        "ask": lambda late: ask(late, spec),
        "read_marker": lambda late: late.read_marker("docs"),
        "write_marker": lambda late: late.write_marker("docs", "a ledger"),
        "scan": lambda late: list(late.scan(spec)),
        "stats": lambda late: late.stats(spec),
    }
    late = open_store(server.url)
    steps[step](late)
    late.close()
    assert len(tried) == 3
    tried.clear()
    failures[0] = 99
    late = open_store(server.url)
    with pytest.raises(StoreUnavailable):
        steps[step](late)
    late.close()
    assert len(tried) == 5, "five tries, and no more"


class Queue:
    """A clock, and a server whose queue is (length, status) at each moment of it."""

    def __init__(self, at: Callable[[float], tuple[int, str]]) -> None:
        self.now = 1_000.0
        self._at = at

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(1.0, seconds)

    def rest(self, work: object) -> list[SimpleNamespace]:
        length, status = self._at(self.now - 1_000)
        return [
            SimpleNamespace(shards=[SimpleNamespace(vector_queue_length=length, vector_indexing_status=status)]),
            SimpleNamespace(shards=None),
        ]


@pytest.mark.parametrize(
    ("at", "error", "seconds"),
    [
        (lambda now: (5, "INDEXING") if now < 5_000 else (0, "READY"), None, 5_000),
        (lambda now: (0, "INDEXING") if now < 5_000 else (0, "READY"), None, 5_000),
        (lambda now: (max(0, 50 - int(now // 100)), "READY"), None, 5_000),
        (lambda now: (max(0, 50 - int(now // 100)), "READONLY" if now % 100 < 5 else "READY"), None, 5_000),
        (lambda now: (5, "READY"), StoreTimeout, 600),
        (lambda now: (max(5, 50 - int(now // 100)), "READY"), StoreTimeout, 5_100),
        (lambda now: (5, "READONLY"), StoreReadOnly, 10),
    ],
)
def test_flush_waits_as_long_as_the_server_works(
    monkeypatch: pytest.MonkeyPatch,
    at: Callable[[float], tuple[int, str]],
    error: type[StoreError] | None,
    seconds: float,
) -> None:
    """Whatever `timeout` says, which is of one request."""
    queue = Queue(at)
    store = open_store("weaviate://127.0.0.1:1?timeout=2")
    monkeypatch.setattr("shelflist.stores.weaviate.store.time", queue)
    monkeypatch.setattr(store._calls.session, "rest", queue.rest)
    if error is None:
        store.flush(GenerationSpec("sl_queue_1", 16))
    else:
        with pytest.raises(error, match="5 vectors of sl_queue_1"):
            store.flush(GenerationSpec("sl_queue_1", 16))
    assert seconds <= queue.now - 1_000 <= seconds + 20


def test_what_somebody_made_read_only(store: WeaviateStore, spec: GenerationSpec) -> None:
    """Another thing than a full disk, and said otherwise."""
    store.upsert(spec, make_points("p", 5, seed=1))
    name = "Sl_badday_1"
    shards = store._calls.session.rest(lambda client: client.collections.get(name).config.update_shards("READONLY"))
    assert shards
    for write in (
        lambda: store.upsert(spec, make_points("q", 2, seed=2)),
        lambda: store.delete(spec, [point_id("p0")]),
    ):
        with pytest.raises(StoreReadOnly, match="repair"):
            write()
    assert store.repair(spec)
    store.delete(spec, [point_id("p0")])
    assert store.count(spec, Scope()) == 4


def test_the_disk_is_full(tmp_path: Path) -> None:
    with running(tmp_path / "server", small_disk=True) as server:
        store = open_store(server.url)
        spec = GenerationSpec("sl_full_1", 16)
        store.create(spec)
        store.upsert(spec, make_points("p", 5, seed=1))
        disk = Path(f"/proc/{server.pid}/root") / server.data.relative_to("/")
        room = os.statvfs(disk)
        assert room.f_blocks * room.f_frsize <= 64 << 20, "this is not the small disk"
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * int(room.f_bavail * room.f_frsize * 0.95))
        deadline = time.monotonic() + 20
        with pytest.raises(StoreFull, match="nearly full"):
            while time.monotonic() < deadline:  # the server looks twice a second
                store.upsert(spec, make_points("late", 1, seed=2))
        with pytest.raises(StoreFull):
            store.set_stale(spec, [point_id("p0")])
        with pytest.raises(StoreFull, match="nearly full"):
            store.delete(spec, [point_id("p0")])
        assert len(ask(store, spec).items) == 3
        ballast.unlink()
        while time.monotonic() < deadline:
            try:
                store.repair(spec)
                stored = store.upsert(spec, make_points("q", 5, seed=3)).stored
                break
            except StoreFull:
                time.sleep(0.2)
        assert len(stored) == 5
        assert {point_id(f"p{i}") for i in range(5)} <= {one for one, _ in store.scan(spec)}
        store.close()
