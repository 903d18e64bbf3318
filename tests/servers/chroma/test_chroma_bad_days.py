"""What Chroma's bad days look like to a user: one clear error each, and nothing that was acknowledged is lost."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from chroma_engine import ChromaServer, open_chroma, require_chroma, running
from engines import free_port, missing

from shelflist.core.errors import (
    ConfigError,
    StoreDenied,
    StoreError,
    StoreMismatch,
    StoreTimeout,
    StoreUnavailable,
    Transient,
    UnsupportedIndex,
)
from shelflist.core.fields import Fields
from shelflist.core.types import Hnsw, Point, SearchParams
from shelflist.stores import _connect
from shelflist.stores.chroma.store import ChromaStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import make_point, make_points, point_id, random_vectors

SPEC = GenerationSpec("sl_bad_days_1", 16, fields=Fields({"title": str, "year": int}))
SECRET = "s3cret-key"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ChromaServer]:
    with running(tmp_path) as server:
        yield server


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "_FIRST_PAUSE", 0.001)


@contextmanager
def opened(url: str) -> Iterator[ChromaStore]:
    store = open_chroma(url)
    try:
        yield store
    finally:
        store.close()


class Fake(BaseHTTPRequestHandler):
    """No Chroma: a small server that gives the one answer it is told to give."""

    status, body, pause = 200, b"", 0.0
    seen: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        type(self).seen.append(dict(self.headers.items()))
        time.sleep(self.pause)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def fake(
    status: int = 200, body: bytes = b"", pause: float = 0.0, handler: type[Fake] = Fake
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    seen: list[dict[str, str]] = []
    handler = type("Answers", (handler,), {"status": status, "body": body, "pause": pause, "seen": seen})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def test_nothing_listens(no_patience: None) -> None:
    require_chroma()
    port = free_port()
    with opened(f"chroma://127.0.0.1:{port}") as store, pytest.raises(StoreUnavailable) as found:
        store.create(SPEC)
    assert f"chroma://127.0.0.1:{port}" in str(found.value) and "chroma run" in str(found.value)


@pytest.mark.parametrize(("status", "body"), [(404, b"not here"), (200, b"<html>hello</html>"), (200, b"7")])
def test_something_else_listens(status: int, body: bytes) -> None:
    require_chroma()
    told = pytest.raises(StoreError, match="no Chroma server of version 1")
    with fake(status, body) as (address, _), opened(f"chroma://{address}") as store, told as found:
        store.create(SPEC)
    assert not isinstance(found.value, Transient) and address in str(found.value)


def test_an_old_server_is_refused() -> None:
    require_chroma()
    told = pytest.raises(StoreError, match=r"0\.6\.3.*version 1")
    with fake(200, b'"0.6.3"') as (address, _), opened(f"chroma://{address}") as store, told:
        store.create(SPEC)


@pytest.mark.parametrize("status", [401, 403])
def test_the_wrong_api_key_against_a_fake_because_the_server_itself_asks_for_none(status: int) -> None:
    """Chroma 1 leaves API keys to the proxy before it, which is what the fake stands for."""
    require_chroma()
    for url in (f"chroma://HOST?api_key={SECRET}", f"chroma://user:{SECRET}@HOST"):
        told = pytest.raises(StoreDenied)
        with fake(status, b"no") as (address, seen), opened(url.replace("HOST", address)) as store, told as found:
            store.create(SPEC)
        assert address in str(found.value) and "SHELFLIST_API_KEY" in str(found.value)
        assert SECRET not in str(found.value) and SECRET not in repr(found.value.__cause__)
        sent = {name.lower(): value for name, value in seen[0].items()}
        if "user" in url:
            assert sent["authorization"].startswith("Basic ")
        else:
            assert sent["x-chroma-token"] == SECRET and sent["authorization"] == f"Bearer {SECRET}"


class Repeating(Fake):
    """A proxy before a server, which repeats what it was sent when it refuses it."""

    def do_GET(self) -> None:
        known = {
            "version": "1.0.0",
            "pre-flight-checks": {"max_batch_size": 100},
            "identity": {"user_id": "u", "tenant": "t", "databases": ["d"]},
        }
        place = {"name": "t", "id": str(uuid.UUID(int=1)), "tenant": "t"}
        type(self).status, type(self).body = 200, json.dumps(known.get(self.path.split("/")[-1], place)).encode()
        super().do_GET()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).status = 400
        # The end of the key would be cut off, and what is left of it not known again.
        type(self).body = f"{'x' * 285} {self.headers['Authorization']} {SECRET}".encode()
        super().do_GET()


@pytest.mark.parametrize("url", [f"chroma://HOST?api_key={SECRET}", f"chroma://user:{SECRET}@HOST"])
def test_a_proxy_that_repeats_what_it_was_sent(url: str) -> None:
    """Neither in the message nor in the traceback that a log would have of it."""
    require_chroma()
    encoded = base64.b64encode(f"user:{SECRET}".encode()).decode()
    with fake(handler=Repeating) as (address, _), opened(url.replace("HOST", address)) as store:
        with pytest.raises(StoreError, match="x" * 200) as found:
            store.create(SPEC)
        told = str(found.value) + "".join(traceback.format_exception(found.value))
    assert SECRET[:5] not in told and encoded[:8] not in told and "***" in told


def test_a_server_that_does_not_answer(no_patience: None) -> None:
    require_chroma()
    told = pytest.raises(StoreTimeout, match="timeout=")
    with fake(pause=1.0) as (address, _), opened(f"chroma://{address}?timeout=0.1") as store, told as found:
        store.create(SPEC)
    assert address in str(found.value)


def test_a_request_that_takes_too_long(server: ChromaServer, no_patience: None) -> None:
    """The client's own default is to wait for ever."""
    with opened(f"{server.url}?timeout=1") as store:
        store.create(SPEC)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreTimeout):
                store.count(SPEC, Scope())
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert store.count(SPEC, Scope()) == 0


def test_tls_with_a_plain_server(server: ChromaServer) -> None:
    with opened(f"{server.url}?tls=1") as store, pytest.raises(StoreError, match="tls=1") as found:
        store.create(SPEC)
    assert not isinstance(found.value, Transient) and server.url in str(found.value)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "database=nowhere",
            r"no database 'nowhere' of tenant 'default_tenant'.*\?database= of the URL.*default_database",
        ),
        ("tenant=nobody", r"no tenant 'nobody'\..*\?tenant= of the URL.*default_tenant.*create_tenant\(\)"),
        ("tenant=nobody&database=nowhere", "no tenant 'nobody'"),
    ],
)
def test_a_tenant_or_a_database_that_is_not_there(server: ChromaServer, query: str, said: str) -> None:
    with opened(f"{server.url}?{query}") as store, pytest.raises(StoreError, match=said) as found:
        store.create(SPEC)
    assert server.url in str(found.value) and not isinstance(found.value, Transient)


@pytest.mark.parametrize("url", ["chroma://h/db", "chroma://h?colour=red", "chroma:./x?tls=1", "chroma:", "chroma://"])
def test_urls_that_say_nothing_known(url: str) -> None:
    with pytest.raises(ConfigError):
        open_chroma(url)


def test_a_collection_of_somebody_else(server: ChromaServer) -> None:
    import chromadb

    theirs = chromadb.HttpClient("127.0.0.1", server.port)
    try:
        same = theirs.create_collection(SPEC.name, embedding_function=None, configuration={"hnsw": {"space": "cosine"}})
        with opened(server.url) as store:
            with pytest.raises(StoreMismatch, match="not made by Shelflist"):
                store.create(SPEC)
            same.add(ids=["theirs"], embeddings=[[0.5] * 8])
            with pytest.raises(StoreMismatch, match=r"8 dimensions.*16"):
                store.create(SPEC)
            theirs.delete_collection(SPEC.name)
            theirs.create_collection(SPEC.name, embedding_function=None, configuration={"hnsw": {"space": "l2"}})
            with pytest.raises(StoreMismatch, match="l2"):
                store.create(SPEC)
    finally:
        for part in (theirs, theirs._admin_client):
            part._server._session.close()


def test_a_collection_that_is_dropped_and_made_again_elsewhere(server: ChromaServer) -> None:
    with opened(server.url) as store, opened(server.url) as other:
        store.create(SPEC)
        store.upsert(SPEC, make_points("p", 3, seed=1))
        other.drop(SPEC.name)
        with pytest.raises(StoreError, match=SPEC.name):
            store.count(SPEC, Scope())
        other.create(SPEC)
        assert store.count(SPEC, Scope()) == 0
        store.upsert(SPEC, make_points("q", 2, seed=1))
        assert other.count(SPEC, Scope()) == 2


def test_a_setting_that_chroma_has_not(server: ChromaServer) -> None:
    with opened(server.url) as store, pytest.raises(UnsupportedIndex, match="indexing_threshold"):
        store.create(GenerationSpec("sl_refused_1", 16, index=Hnsw(indexing_threshold=100)))


def test_one_bad_item_does_not_take_the_others_with_it(server: ChromaServer) -> None:
    """Chroma refuses a request of more than 40 MB, and a title of that length is all that is wrong."""
    points = make_points("p", 40, seed=1)
    bad = make_point("bad", random_vectors(1, seed=2)[0], metadata={"title": "x" * 45_000_000}, fields=SPEC.fields)
    with opened(server.url) as store:
        store.create(SPEC)
        result = store.upsert(SPEC, [*points[:17], bad, *points[17:]])
        assert list(result.failed) == [bad.point_id] and "413" in result.failed[bad.point_id]
        assert sorted(result.stored) == sorted(point.point_id for point in points)
        assert sorted(one for one, _ in store.scan(SPEC)) == sorted(result.stored)


def test_items_of_another_kind_do_not_take_the_others_with_them(server: ChromaServer) -> None:
    points = make_points("p", 60, seed=1)
    bad = {
        7: replace(points[7], metadata={"year": "1999"}),
        30: replace(points[30], metadata={"year": 2**70}),
        31: replace(points[31], metadata={"title": 5}),
        59: replace(points[59], document_id="\ud800"),
    }
    for position, point in bad.items():
        points[position] = point
    with opened(server.url) as store:
        store.create(SPEC)
        result = store.upsert(SPEC, points)
        assert result.failed.keys() == {point.point_id for point in bad.values()}
        assert "'year' is int" in result.failed[points[7].point_id] and all(result.failed.values())
        assert len(result.stored) == 56 and {one for one, _ in store.scan(SPEC)} == set(result.stored)


def test_however_many_items_are_bad_the_others_are_acknowledged(
    server: ChromaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = make_points("p", 200, seed=1)
    bad = {point.point_id for point in points[::8]}
    names = {str(uuid.UUID(bytes=one)) for one in bad}
    with opened(server.url) as store:
        store.create(SPEC)
        ask = store._link.ask

        def picky(name: str, method: str, **how: Any) -> Any:
            if method == "add" and names & set(how["ids"]):
                raise StoreError("not one of these")
            return ask(name, method, **how)

        monkeypatch.setattr(store._link, "ask", picky)
        result = store.upsert(SPEC, points)
        assert result.failed == dict.fromkeys(bad, "not one of these") and len(bad) == 25
        assert len(result.stored) == 175 and {one for one, _ in store.scan(SPEC)} == set(result.stored)


def test_every_parameter_of_the_index_reaches_chroma(server: ChromaServer) -> None:
    index = Hnsw(m=24, ef_construction=77, ef_search=55)
    spec = GenerationSpec("sl_settings_1", 16, index=index, fields=SPEC.fields, metric="l2")
    with opened(server.url) as store:
        store.create(spec)
        made = store._link._open().get_collection(spec.name).configuration_json["hnsw"]
        wanted = {"space": "l2", "max_neighbors": 24, "ef_construction": 77, "ef_search": 55}
        assert {name: made[name] for name in wanted} == wanted
        assert not store.upsert(spec, make_points("p", 300, seed=1)).failed
        for threshold, exact in ((300, True), (299, False), (None, False)):
            asked = replace(spec, index=Hnsw(full_scan_threshold=threshold))
            vector = random_vectors(1, seed=2)[0]
            found = store.search(asked, vector, limit=5, scope=Scope(), params=SearchParams())
            assert (found.exact, len(found.items)) == (exact, 5)


def load(store: ChromaStore, batches: list[list[Point]], acknowledged: list[bytes]) -> None:
    for batch in batches:
        acknowledged += store.upsert(SPEC, batch).stored


def everything_is_there(store: ChromaStore, points: list[Point]) -> None:
    wanted = {point.point_id for point in points}
    assert {one for one, _ in store.scan(SPEC)} == wanted
    assert store.count(SPEC, Scope()) == len(wanted)
    for point in points[:: len(points) // 20]:
        found = store.search(SPEC, point.vector, limit=1, scope=Scope(), params=SearchParams())
        assert [item.point_id for item in found.items] == [point.point_id]
    assert len(
        store.search(SPEC, points[0].vector, limit=len(points), scope=Scope(), params=SearchParams()).items
    ) == len(points)


def batches_of(count: int, size: int) -> list[list[Point]]:
    points = make_points("p", count, seed=5)
    return [points[start : start + size] for start in range(0, count, size)]


def test_the_server_is_restarted_in_the_middle_of_a_load(server: ChromaServer) -> None:
    """The load itself notices nothing but the wait: requests are repeated."""
    batches = batches_of(4_000, 100)
    with opened(server.url) as store:
        store.create(SPEC)
        acknowledged: list[bytes] = []
        loading = threading.Thread(target=load, args=(store, batches, acknowledged))
        loading.start()
        while len(acknowledged) < 1_000:
            time.sleep(0.01)
        server.restart(signal.SIGKILL)
        loading.join(120)
        points = [point for batch in batches for point in batch]
        assert len(acknowledged) == len(points)
        everything_is_there(store, points)


def test_a_load_ends_with_the_server_and_is_resumed(server: ChromaServer, no_patience: None) -> None:
    batches = batches_of(3_000, 100)
    with opened(server.url) as store:
        store.create(SPEC)
        acknowledged: list[bytes] = []
        load(store, batches[:15], acknowledged)
        server.stop(signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match="chroma://"):
            load(store, batches[15:], acknowledged)
        server.start()
        assert {one for one, _ in store.scan(SPEC)} >= set(acknowledged)
        load(store, batches, acknowledged)
        everything_is_there(store, [point for batch in batches for point in batch])


_KILLED_WHILE_LOADING = """
import sys
sys.path.insert(0, {folder!r})
import test_chroma_bad_days as here

store = here.open_chroma({url!r})
store.create(here.SPEC)
for batch in here.batches_of(20_000, 100):
    store.upsert(here.SPEC, batch)
    print(len(batch), flush=True)
"""


def started(source: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    )


def test_a_process_dies_that_loads_into_a_directory(tmp_path: Path) -> None:
    require_chroma()
    url = f"chroma:{tmp_path / 'index'}"
    process = started(_KILLED_WHILE_LOADING.format(folder=str(Path(__file__).parent), url=url))
    assert process.stdout is not None
    acknowledged = 0
    while acknowledged < 1_500:
        acknowledged += int(process.stdout.readline())
    process.kill()
    acknowledged += sum(map(int, process.stdout.read().split()))
    process.stdout.close()
    process.wait(30)
    batches = batches_of(20_000, 100)[: acknowledged // 100 + 5]
    points = [point for batch in batches for point in batch]
    with opened(url) as store:
        there = {one for one, _ in store.scan(SPEC)}
        assert there >= {point.point_id for point in points[:acknowledged]}
        store.delete(SPEC, sorted(there - {point.point_id for point in points}))
        load(store, batches, [])
        everything_is_there(store, points)


_OPEN_AND_WAIT = """
import sys, time
from chroma_engine import open_chroma
store = open_chroma({url!r})
store.read_marker("docs")
print("open", flush=True)
time.sleep(60)
"""


def test_a_directory_is_open_in_one_process_at_a_time(tmp_path: Path) -> None:
    require_chroma()
    url = f"chroma:{tmp_path / 'index'}"
    process = started(_OPEN_AND_WAIT.format(url=url))
    try:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        store = ChromaStore.at(_parsed(url), busy_timeout=0.1)
        with pytest.raises(StoreUnavailable, match="another process") as found:
            store.create(SPEC)
        assert str(tmp_path / "index") in str(found.value) and "chroma run" in str(found.value)
    finally:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
    with opened(url) as store:
        store.create(SPEC)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_after_a_fork(server: ChromaServer, tmp_path: Path) -> None:
    """A server gets a client of the child's own; a directory stays with the parent."""
    with opened(server.url) as remote, opened(f"chroma:{tmp_path / 'index'}") as local:
        for store in (remote, local):
            store.create(SPEC)
            store.upsert(SPEC, make_points("p", 3, seed=1))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            told: list[str] = []
            try:
                told.append(str(remote.count(SPEC, Scope())))
                local.count(SPEC, Scope())
            except StoreError as error:
                told.append(str(error))
            finally:
                os.write(writing, json.dumps(told).encode())
                os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            counted, refused = json.load(answer)
        assert counted == "3" and "fork" in refused
        assert remote.count(SPEC, Scope()) == local.count(SPEC, Scope()) == 3


def test_the_disk_of_the_server_is_full(tmp_path: Path) -> None:
    """On a disk of 12 MB in memory, in a mount namespace that outlives the server. Chroma does not say what is wrong."""
    server = ChromaServer(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    mounted = f"mount -t tmpfs -o size=12m tmpfs '{data}' && echo mounted && exec sleep 300"
    keeper = subprocess.Popen(["unshare", "-m", "sh", "-c", mounted], stdout=subprocess.PIPE, text=True)
    assert keeper.stdout is not None
    inside = ["nsenter", "-t", str(keeper.pid), "-m", "--"]
    server._command = [*inside, *server._command]
    try:
        if keeper.stdout.readline() != "mounted\n":
            missing("a full disk needs a mount, which this user may not make")
        server.start()
        with opened(server.url) as store:
            store.create(SPEC)
            batches = [make_points(f"p{turn}.", 500, seed=turn) for turn in range(60)]
            acknowledged: list[bytes] = []
            with pytest.raises(StoreError, match="disk is full") as found:
                load(store, batches, acknowledged)
            assert server.url in str(found.value) and not isinstance(found.value, Transient)
            assert acknowledged
            server.stop()
            subprocess.run([*inside, "mount", "-o", "remount,size=200m", str(data)], check=True)
            server.start()
            assert {one for one, _ in store.scan(SPEC)} >= set(acknowledged)
            load(store, batches, acknowledged)
            everything_is_there(store, [point for batch in batches for point in batch])
    finally:
        server.stop()
        keeper.kill()
        keeper.wait(30)
        keeper.stdout.close()


def test_a_directory_on_a_full_disk(tmp_path: Path) -> None:
    """The same in this process's own hands, where the free space can be asked."""
    require_chroma()
    data = tmp_path / "index"
    data.mkdir()
    source = _FILL.format(url=f"chroma:{data}")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    mounted = f'mount -t tmpfs -o size=12m tmpfs \'{data}\' || exit 77; exec "$0" -c "$1"'
    filling = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, sys.executable, source],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=120,
    )
    if filling.returncode == 77 or "unshare" in filling.stderr:
        missing("a full disk needs a mount, which this user may not make")
    assert filling.stdout.startswith("StoreFull: No space is left for chroma:"), filling.stdout + filling.stderr


_FILL = """
import os
import test_chroma_bad_days as here
from shelflist.core.errors import StoreFull

store = here.open_chroma({url!r})
store.create(here.SPEC)
try:
    here.load(store, here.batches_of(60_000, 500), [])
except StoreFull as error:
    print("StoreFull:", error, flush=True)
os._exit(0)
"""


def _parsed(url: str) -> Any:
    from shelflist.config import parse_url

    return parse_url(url)


def test_vectors_are_not_named_in_errors(server: ChromaServer) -> None:
    with opened(server.url) as store:
        store.create(SPEC)
        nan = np.full(16, np.nan, dtype=np.float32)
        with pytest.raises(ValueError, match="NaN"):
            store.upsert(SPEC, [make_point("nan", nan)])
        assert store.get(SPEC, [point_id("nan")]) == []
