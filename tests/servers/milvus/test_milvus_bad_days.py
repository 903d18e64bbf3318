"""What goes wrong between Shelflist and Milvus, on real servers: one clear error, and nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines import free_port, missing
from milvus_engine import MilvusServer, client_of, open_milvus, opened, require_lite, running
from milvus_generation import FIELDS, QUERY, ask

import shelflist
from shelflist import Chunk
from shelflist.core.errors import (
    ConfigError,
    ShelflistError,
    StoreDenied,
    StoreError,
    StoreMismatch,
    StoreTimeout,
    StoreUnavailable,
    Transient,
    UnsupportedIndex,
)
from shelflist.core.types import Flat, Hnsw, SearchParams
from shelflist.stores import _connect
from shelflist.stores.milvus.store import MilvusStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import make_point, make_points, point_id, random_vectors

SECRET = "open-sesame-1234"


def refusal(url: str, kind: type[ShelflistError]) -> str:
    """The error of the first thing that is asked at a URL."""
    with opened(url) as store, pytest.raises(kind) as caught:
        store.create(GenerationSpec("sl_refused_1", 16))
    assert "milvus://127.0.0.1:" in str(caught.value)
    assert kind is not StoreError or not isinstance(caught.value, Transient)
    return str(caught.value)


def test_nobody_listens() -> None:
    text = refusal(f"milvus://root:{SECRET}@127.0.0.1:{free_port()}?timeout=5", StoreUnavailable)
    assert "refused" in text and SECRET not in text


def test_a_port_of_something_else(server: MilvusServer) -> None:
    """The server's own HTTP port, which is near the right one in every manual."""
    text = refusal(f"milvus://127.0.0.1:{server._metrics}?timeout=2&api_key={SECRET}", StoreUnavailable)
    assert "gRPC port" in text and SECRET not in text


@pytest.mark.parametrize(
    "url",
    [
        "milvus://127.0.0.1:19530?color=red",
        "milvus://127.0.0.1:19530?tls=perhaps",
        "milvus://127.0.0.1:19530?timeout=-1",
        "milvus:///srv/index.db",
        "milvus://",
        "milvus:index.db?tls=1",
    ],
)
def test_a_url_that_is_wrong(url: str) -> None:
    with pytest.raises(ConfigError):
        open_milvus(url)


def test_tls_to_a_server_without(server: MilvusServer) -> None:
    begun = time.monotonic()
    text = refusal(f"{server.url}?tls=1&timeout=2&api_key={SECRET}", StoreError)
    assert "Leave out tls=1" in text and SECRET not in text and time.monotonic() - begun < 8


def test_tls_and_passwords(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        missing("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(made, check=True, capture_output=True)
    settings = {
        "authorization_enabled": True,
        "tls_mode": 1,
        "server_pem_path": str(certificate),
        "server_key_path": str(key),
        "ca_pem_path": str(certificate),
    }
    with running(tmp_path / "server", settings) as server:
        tls = f"tls=1&ca={certificate}"
        assert "Add tls=1" in refusal(f"{server.url}?timeout=2", StoreError)
        assert "ca=" in refusal(f"{server.url}?tls=1&timeout=2", StoreError)  # nobody vouches for the certificate
        at = server.url.removeprefix("milvus://")
        text = refusal(f"milvus://root:{SECRET}@{at}?{tls}", StoreDenied)
        assert "password" in text and SECRET not in text
        refusal(f"{server.url}?{tls}", StoreDenied)
        with opened(f"milvus://root:Milvus@{at}?{tls}") as store:
            spec = GenerationSpec("sl_tls_1", 16)
            store.create(spec)
            assert len(store.upsert(spec, make_points("p", 3, seed=1)).stored) == 3
            store.flush(spec)
            assert len(ask(store, spec).items) == 3
            store.write_marker("docs", "a ledger")
            assert store.read_marker("docs") == "a ledger"


def test_a_collection_that_somebody_else_made(store: MilvusStore) -> None:
    client_of(store).create_collection("sl_theirs_1", dimension=16)
    with pytest.raises(StoreMismatch, match="not made by Shelflist"):
        store.create(GenerationSpec("sl_theirs_1", 16))
    assert "sl_theirs_1" in client_of(store).list_collections()
    store.drop("sl_theirs_1")


def test_a_collection_of_another_shape(store: MilvusStore, spec: GenerationSpec) -> None:
    with pytest.raises(StoreMismatch, match=r"16.*32"):
        store.create(replace(spec, dimensions=32))
    with pytest.raises(StoreMismatch, match="l2"):
        store.create(replace(spec, metric="l2"))


def test_a_collection_that_is_gone(store: MilvusStore, spec: GenerationSpec) -> None:
    with opened(store._link.address) as other:
        other.drop(spec.name)
    with pytest.raises(StoreMismatch, match=spec.name):
        store.count(spec, Scope())


def test_one_bad_item_does_not_take_the_others_along(store: MilvusStore, spec: GenerationSpec) -> None:
    rows: dict[str, Mapping[str, Any]] = {
        "good": {"title": "é" * 30_000},
        "long": {"title": "é" * 40_000},
        "crowded": {"tags": [str(i) for i in range(5_000)]},
        "long member": {"tags": ["x" * 70_000]},
        "plain": {"year": 1},
    }
    vectors = random_vectors(len(rows), seed=1)
    points = [
        make_point(name, vector, metadata=row, fields=FIELDS)
        for (name, row), vector in zip(rows.items(), vectors, strict=True)
    ]
    result = store.upsert(spec, points)
    assert set(result.stored) == {point_id("good"), point_id("plain")}
    assert {
        point_id(name): result.failed[point_id(name)] for name in ("long", "crowded", "long member")
    } == result.failed
    assert "80,001 bytes" in result.failed[point_id("long")] and "'title'" in result.failed[point_id("long")]
    assert "5,000 members" in result.failed[point_id("crowded")]
    store.flush(spec)
    assert store.count(spec, Scope()) == 2


def test_values_of_another_type_fail_alone_and_at_once(store: MilvusStore, spec: GenerationSpec) -> None:
    """What the client refuses before it sends is no reason to try again, nor to refuse the rest."""
    points = make_points("p", 20, seed=1)
    wrong = {
        2: {"metadata": {"year": "1999"}},
        5: {"metadata": {"year": 2**70}},
        7: {"metadata": {"tags": 5}},
        11: {"document_id": "\ud800"},
        13: {"metadata": {"title": "\ud800"}},
    }
    for number, changes in wrong.items():
        points[number] = replace(points[number], **changes)
    begun = time.monotonic()
    result = store.upsert(spec, points)
    assert set(result.failed) == {points[number].point_id for number in wrong}
    assert len(result.stored) == 15 and time.monotonic() - begun < 5
    store.flush(spec)
    assert store.count(spec, Scope()) == 15


def test_what_the_client_refuses_is_not_passing(server: MilvusServer) -> None:
    """It has the code of a server that is not ready."""
    from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError

    with opened(server.url) as store:
        for refused in (ParamError(message="not a list"), DataNotMatchException(message="not ready-made")):
            assert refused.code == 1 and not isinstance(store._link.error("insert", refused), Transient)
        assert not isinstance(store._link.error("insert", MilvusException(code=1, message="bad schema")), Transient)
        assert isinstance(
            store._link.error("insert", MilvusException(code=1, message="service not ready")), StoreUnavailable
        )


def test_an_item_that_the_server_refuses(
    store: MilvusStore, spec: GenerationSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by halves: only it fails."""
    client = client_of(store)
    insert, seen = client.insert, []

    def picky(name: str, rows: list[dict[str, Any]], **options: Any) -> Any:
        seen.append(len(rows))
        if any(row["id"] == point_id("p37").hex() for row in rows):
            rows = [{**row, "document_id": "x" * 70_000} for row in rows]
        return insert(name, rows, **options)

    monkeypatch.setattr(client, "insert", picky)
    result = store.upsert(spec, make_points("p", 100, seed=1))
    assert list(result.failed) == [point_id("p37")] and len(result.stored) == 99
    assert "length" in result.failed[point_id("p37")]
    store.flush(spec)
    assert store.count(spec, Scope()) == 99 and len(seen) < 20


def test_an_answer_that_takes_too_long(server: MilvusServer, store: MilvusStore, spec: GenerationSpec) -> None:
    with opened(f"{server.url}?timeout=1.5") as hasty:
        assert hasty.count(spec, Scope()) == 0
        os.kill(server.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(StoreTimeout, match="timeout="):
                hasty.count(spec, Scope())
            assert time.monotonic() - begun < 15
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert hasty.count(spec, Scope()) == 0


def test_what_is_read_late_is_never_shown(server: MilvusServer, tmp_path: Path) -> None:
    """Milvus applies writes late. A search that still sees a marked document is caught by the ledger's check."""
    with opened(server.url) as store:
        spec = GenerationSpec("sl_late_1", 16)
        store.create(spec)
        late = 0
        for number in range(20):
            store.upsert(spec, make_points(f"p{number}.", 5, seed=number))
            late += store.count(spec, Scope()) < 5 * (number + 1)
            store.flush(spec)
            assert store.count(spec, Scope()) == 5 * (number + 1)
            assert len(ask(store, spec, 500).items) == 5 * (number + 1)
        assert late, "the server shows every write at once: this test shows nothing"
        store.drop(spec.name)
    docs = shelflist.open(
        server.url, "late", embedder=None, fingerprint="f", dimensions=16, ledger=f"sqlite:{tmp_path / 'ledger.db'}"
    )
    try:
        vectors = random_vectors(40, seed=4)
        for number, vector in enumerate(vectors):
            docs.sync(f"{number}.md", [Chunk(f"text {number}", embedding=vector)])
        refused = 0
        for number, vector in enumerate(vectors):
            docs.mark_stale(f"{number}.md")
            hits = docs.search(vector, limit=3, mode="dense")
            assert {f"{gone}.md" for gone in range(number + 1)}.isdisjoint(hit.document_id for hit in hits)
            assert len(hits) == min(3, 39 - number)
            refused += hits.refused
        assert refused, "no search saw a marked document: this test shows nothing"
    finally:
        docs.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_after_a_fork(server: MilvusServer) -> None:
    """As under Celery and gunicorn: the child opens a connection of its own. In a process apart, as gRPC says much then."""
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from shelflist.config import parse_url
from shelflist.stores.milvus.store import MilvusStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import make_points

store = MilvusStore.at(parse_url({server.url!r}), busy_timeout=5.0)
spec = GenerationSpec("sl_fork_1", 16)
store.create(spec)
store.upsert(spec, make_points("p", 3, seed=1))
store.flush(spec)
child = os.fork()
if child == 0:
    try:
        store.upsert(spec, make_points("q", 2, seed=2))
        store.flush(spec)
        os._exit(store.count(spec, Scope()))
    except BaseException as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(99)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), store.count(spec, Scope()))
store.drop(spec.name)
store.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.stdout.split() == ["5", "5"], done.stderr[-2000:]


def test_points_that_two_processes_wrote_at_once(store: MilvusStore, spec: GenerationSpec) -> None:
    """Milvus takes an id twice. Searches see it once; `repair` makes the counts right again."""
    points = make_points("p", 20, seed=1)
    store.upsert(spec, points)
    store.flush(spec)
    rows = client_of(store).query(spec.name, filter=f'id in ["{point_id("p3").hex()}"]', output_fields=["*", "vector"])
    client_of(store).insert(spec.name, [dict(row) for row in rows])
    store.flush(spec)
    assert store.count(spec, Scope()) == 21
    found = ask(store, spec, 50)
    assert len(found.items) == 20 and len(list(store.scan(spec))) == 20
    assert any("twice" in line for line in store.repair(spec))
    store.flush(spec)
    assert store.count(spec, Scope()) == 20 and ask(store, spec, 50).exhausted


def test_verify_sees_what_is_there_twice_and_repair_mends_it(server: MilvusServer, tmp_path: Path) -> None:
    docs = shelflist.open(
        server.url, "twice", embedder=None, fingerprint="f", dimensions=16, ledger=f"sqlite:{tmp_path / 'ledger.db'}"
    )
    try:
        for number, vector in enumerate(random_vectors(20, seed=4)):
            docs.sync(f"{number}.md", [Chunk(f"text {number}", embedding=vector)])
        assert docs.verify()["ok"] and docs.verify()["doubled"] == 0
        store, name = docs._parts.store, docs._parts.spec.name
        assert isinstance(store, MilvusStore)
        rows = client_of(store).query(name, filter='id != ""', output_fields=["*", "vector"], limit=5)
        client_of(store).insert(name, [dict(row) for row in rows])
        found = docs.verify()
        assert not found["ok"] and found["doubled"] == 5 and not found["missing"] and not found["ghosts"]
        assert any("5 points" in line and "twice" in line for line in docs.repair()["actions"])
        found = docs.verify()
        assert found["ok"] and found["doubled"] == 0 and docs.count() == 20
        assert not any("twice" in line for line in docs.repair()["actions"])
    finally:
        docs.close()


def test_a_search_is_asked_again_while_the_server_is_not_ready(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymilvus import MilvusException

    spec = GenerationSpec("sl_again_1", 16)
    store.create(spec)
    store.upsert(spec, make_points("p", 3, seed=1))
    store.flush(spec)
    client = client_of(store)
    search, refused = client.search, []

    def unready(*words: Any, **options: Any) -> Any:
        if len(refused) < failures:
            refused.append(code)
            raise MilvusException(code=code, message="no replica available")
        return search(*words, **options)

    monkeypatch.setattr(client, "search", unready)
    monkeypatch.setattr(_connect, "_FIRST_PAUSE", 0.001)
    for code, failures, asked in ((503, 2, 2), (503, 99, 6), (1100, 99, 1)):  # noqa: B007  (unready reads them)
        refused.clear()
        if failures == 2:
            assert len(store.search(spec, QUERY, limit=3, scope=Scope(), params=SearchParams()).items) == 3
        else:
            with pytest.raises(StoreError):
                store.search(spec, QUERY, limit=3, scope=Scope(), params=SearchParams())
        assert len(refused) == asked
    store.drop(spec.name)


def test_what_may_be_repeated_is_asked_again(
    store: MilvusStore, no_patience: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not ready at two tries of every kind of call costs nothing but time."""
    from pymilvus import MilvusException

    client, failed = client_of(store), Counter[str]()

    def flaky(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            if failed[name] < 2:
                failed[name] += 1
                raise MilvusException(code=2, message="service not ready")
            return real(*words, **options)

        return call

    calls = [
        "alter_collection_properties",
        "create_collection",
        "create_index",
        "delete",
        "describe_collection",
        "describe_index",
        "describe_replica",
        "drop_collection",
        "flush",
        "get_load_state",
        "has_collection",
        "insert",
        "list_indexes",
        "list_loaded_segments",
        "list_persistent_segments",
        "load_collection",
        "query",
        "refresh_load",
        "search",
        "upsert",
    ]
    for name in calls:
        monkeypatch.setattr(client, name, flaky(name, getattr(client, name)))
    spec = GenerationSpec("sl_all_1", 16, index=Hnsw(indexing_threshold=1))
    store.create(spec)
    points = make_points("p", 5, seed=1)
    assert len(store.upsert(spec, points).stored) == 5
    store.flush(spec)
    assert len(ask(store, spec).items) == 3
    store.build(spec)
    store.set_stale(spec, [points[0].point_id])
    store.delete(spec, [points[1].point_id])
    store.flush(spec)
    assert store.count(spec, Scope()) == 3 and store.stats(spec)["points"] == 4
    store.write_marker("again", "a ledger")
    assert store.read_marker("again") == "a ledger"
    store.write_marker("again", None)
    store.drop(spec.name)
    assert set(failed.values()) == {2} and set(failed) == set(calls)


@pytest.mark.parametrize("step", ["capabilities", "create", "upsert", "read_marker", "scan"])
def test_the_first_connection_is_tried_again_too(
    server: MilvusServer, spec: GenerationSpec, no_patience: None, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    steps: dict[str, Callable[[MilvusStore], object]] = {
        "capabilities": lambda late: late.capabilities,
        "create": lambda late: late.create(spec),
        "upsert": lambda late: late.upsert(spec, make_points("p", 2, seed=1)),
        "read_marker": lambda late: late.read_marker("docs"),
        "scan": lambda late: list(late.scan(spec)),
    }
    with opened(server.url) as late:
        reached, tried = late._link._reached, []

        def away() -> str:
            tried.append(1)
            if len(tried) <= failures:
                raise StoreUnavailable(f"Milvus at {late._link.address} cannot be reached.")
            return reached()

        monkeypatch.setattr(late._link, "_reached", away)
        failures = 99
        with pytest.raises(StoreUnavailable):
            steps[step](late)
        assert len(tried) in (5, 6)
        tried.clear()
        failures = 2
        steps[step](late)
        assert len(tried) == 3


def test_a_server_that_is_up_and_does_not_answer_yet(no_patience: None) -> None:
    """Its port takes connections, as one does that speaks otherwise: this one may pass."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for tls in ("0", "1"):
            url = f"milvus://127.0.0.1:{silent.getsockname()[1]}?timeout=0.3&tls={tls}"
            assert "gRPC port" in refusal(url, StoreUnavailable)


def test_a_load_that_does_not_end(server: MilvusServer, store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymilvus.client.types import LoadState

    monkeypatch.setattr("shelflist.stores.milvus.link.PATIENCE", 0.5)
    spec = GenerationSpec("sl_endless_1", 16)
    with opened(f"{server.url}?timeout=1") as hasty:
        monkeypatch.setattr(client_of(hasty), "get_load_state", lambda *_, **__: {"state": LoadState.Loading})
        with pytest.raises(StoreTimeout, match=rf"load {spec.name}.*nothing of it was done for 0.5 s"):
            hasty.create(spec)
    store.drop(spec.name)


def test_a_load_that_goes_on(server: MilvusServer, store: MilvusStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, and whatever `timeout` says, which is of one request."""
    from pymilvus.client.types import LoadState

    monkeypatch.setattr("shelflist.stores.milvus.link.PATIENCE", 0.2)
    spec = GenerationSpec("sl_slow_1", 16)
    with opened(f"{server.url}?timeout=1") as slow:
        begun = time.monotonic()

        def state(*_: Any, **__: Any) -> dict[str, Any]:
            passed = time.monotonic() - begun
            return {"state": LoadState.Loading, "progress": int(passed * 20)} if passed < 3 else real(*_, **__)

        real = client_of(slow).get_load_state
        monkeypatch.setattr(client_of(slow), "get_load_state", state)
        slow.create(spec)
        assert time.monotonic() - begun > 3
    store.drop(spec.name)


@pytest.mark.parametrize(
    ("state", "falls", "error"),
    [
        ("InProgress", False, None),
        ("Unissued", True, None),
        ("Unissued", False, StoreTimeout),
        ("Failed", False, StoreError),
    ],
)
def test_an_index_that_takes_its_time(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch, state: str, falls: bool, error: type[StoreError] | None
) -> None:
    """A build is waited for while Milvus says that it builds, or has ever less to do."""
    spec = GenerationSpec("sl_slow_2", 16, index=Hnsw(indexing_threshold=1))
    store.create(spec)
    store.upsert(spec, make_points("p", 5, seed=1))
    store.flush(spec)
    client = client_of(store)
    monkeypatch.setattr("shelflist.stores.milvus.link.PATIENCE", 0.5)
    describe, begun = client.describe_index, time.monotonic()

    def described(*words: Any, **options: Any) -> dict[str, Any]:
        found, passed = describe(*words, **options), time.monotonic() - begun
        left = 100 - int(passed * 10) if falls else 100
        return {**found, "state": state, "pending_index_rows": left} if passed < 5 else found

    monkeypatch.setattr(client, "describe_index", described)
    if error is None:
        store.build(spec)
        assert time.monotonic() - begun > 5
    else:
        with pytest.raises(error, match=spec.name) as caught:
            store.build(spec)
        assert isinstance(caught.value, Transient) is (error is StoreTimeout)
    store.drop(spec.name)


@pytest.mark.parametrize("step", ["flush", "refresh_load"])
def test_a_build_that_outlasts_its_requests(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch, no_patience: None, step: str
) -> None:
    """What the client says when their time is up: asked again, for as long as the server answers and not for ever."""
    from pymilvus.exceptions import MilvusException

    spec, client = GenerationSpec("sl_long_1", 16, index=Hnsw(indexing_threshold=1)), client_of(store)
    store.create(spec)
    store.upsert(spec, make_points("p", 5, seed=1))
    store.flush(spec)
    real, waited = getattr(client, step), list[float]()

    def late(name: str, timeout: float) -> None:
        waited.append(timeout)
        if len(waited) < 3:
            raise MilvusException(message=f"wait for it timeout, collection: {name}")
        real(name, timeout=timeout)

    monkeypatch.setattr(client, step, late)
    store.build(spec)
    assert len(waited) == 3 and max(waited) <= 60
    assert store.stats(spec)["indexed_rows"] == 5

    waited.clear()
    store.upsert(spec, make_points("q", 5, seed=2))
    store.flush(spec)
    monkeypatch.setattr("shelflist.stores.milvus.link.PATIENCE", 0.0)
    with pytest.raises(StoreTimeout, match=rf"{spec.name}: .*timeout"):
        store.build(spec)
    assert len(waited) == 1
    store.drop(spec.name)


@pytest.mark.parametrize("step", ["flush", "refresh_load"])
def test_a_server_that_hangs_during_a_build(server: MilvusServer, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Noticed long before the patience with an index that takes its time is over."""
    monkeypatch.setattr("shelflist.stores.milvus.link._SLICE", 1.0)
    spec = GenerationSpec("sl_hangs_1", 16, index=Hnsw(indexing_threshold=1))
    with opened(f"{server.url}?timeout=1") as hasty:
        hasty.create(spec)
        hasty.upsert(spec, make_points("p", 5, seed=1))
        hasty.flush(spec)
        client, hung = client_of(hasty), list[float]()
        real = getattr(client, step)

        def hang(*words: Any, **options: Any) -> None:
            if not hung:
                os.kill(server.pid, signal.SIGSTOP)
                hung.append(time.monotonic())
            real(*words, **options)

        monkeypatch.setattr(client, step, hang)
        try:
            with pytest.raises((StoreTimeout, StoreUnavailable), match=f"{server.url}: .*{spec.name}"):
                hasty.build(spec)
            assert time.monotonic() - hung[0] < 15
        finally:
            os.kill(server.pid, signal.SIGCONT)
        hasty.build(spec)
        assert hasty.stats(spec)["indexed_rows"] == 5
        hasty.drop(spec.name)


def test_a_password_that_the_server_repeats(server: MilvusServer) -> None:
    from pymilvus import MilvusException

    at = server.url.removeprefix("milvus://")
    with opened(f"milvus://root:{SECRET}@{at}") as store:
        for text in (f"root:{SECRET} is wrong", f"password {SECRET} is wrong"):
            said = str(store._link.error("connect", MilvusException(code=1, message=text)))
            assert SECRET not in said and "***" in said


@pytest.mark.parametrize(("told", "is_known"), [("v2.2.16", False), ("1.1.0", False), ("v2.3.0", True)])
def test_a_server_that_is_too_old_is_refused(
    server: MilvusServer, monkeypatch: pytest.MonkeyPatch, told: str, is_known: bool
) -> None:
    from pymilvus import MilvusClient

    monkeypatch.setattr(MilvusClient, "get_server_version", lambda *_, **__: told)
    with opened(server.url) as store:
        if is_known:
            assert store.read_marker("nothing") is None
            return
        with pytest.raises(StoreError, match=rf"is version {told}; 2.3 is the oldest supported") as caught:
            store.read_marker("nothing")
        assert not isinstance(caught.value, Transient)


def test_what_a_version_cannot_do(server: MilvusServer, tmp_path: Path) -> None:
    require_lite()
    with opened(server.url) as old, opened(f"milvus:{tmp_path / 'index.db'}") as new:
        assert MilvusStore.capabilities.keyword == "bm25"
        assert (old.capabilities.keyword, old.capabilities.hybrid) == (None, False)
        assert (new.capabilities.keyword, new.capabilities.hybrid) == ("bm25", True)
        assert old.capabilities.quantization == new.capabilities.quantization == {"scalar"}
        assert old.capabilities.unquantized == {("scalar", "flat"), ("scalar", "hnsw")}
        assert new.capabilities.unquantized == {("scalar", "flat")}
        for index in (Hnsw(quantization="scalar"), Flat(quantization="scalar")):
            with pytest.raises(UnsupportedIndex, match=index.kind):
                old.create(GenerationSpec("sl_whole_1", 16, index=index))
