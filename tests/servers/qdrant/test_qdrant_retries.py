"""What passes by itself is asked again, whatever is asked of Qdrant; and its versions are looked at first."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_engine import Reimplementation
from test_qdrant_bad_days import SPEC, Answer, always, fake_server, said, store_at

from shelflist.config import parse_url
from shelflist.core.errors import StoreDenied, StoreError, StoreTimeout, StoreUnavailable
from shelflist.core.fields import Fields
from shelflist.core.types import SearchParams
from shelflist.stores import _connect
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.stores.qdrant.client import NEWEST, OLDEST
from shelflist.stores.qdrant.store import QdrantStore
from shelflist.testing.points import make_points, point_id

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connect, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(_connect, "_last_warning", ("", 0.0))


class Flickering(Reimplementation):
    """Raises what stands in `errors` first, whatever is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        method = super().__getattr__(name)

        def asked(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.errors:
                raise self.errors.pop(0)
            return method(*args, **options)

        return asked


def refused(status: int) -> Exception:
    from qdrant_client.http.exceptions import UnexpectedResponse

    return UnexpectedResponse(status, "", json.dumps(said("not now")).encode(), httpx.Headers())


def broken(error: Exception) -> Exception:
    from qdrant_client.http.exceptions import ResponseHandlingException

    return ResponseHandlingException(error)


@pytest.fixture
def client() -> Flickering:
    return Flickering()


@pytest.fixture
def store(client: Flickering) -> Iterator[QdrantStore]:
    opened: Any = client
    store = QdrantStore(_connect.server(parse_url("qdrant://in-memory"), port=6333), open_client=lambda: opened)
    store.create(SPEC)
    store.upsert(SPEC, make_points("p", 5, seed=1))
    yield store
    client.errors = []
    store.close()


QUERY = np.ones(SPEC.dimensions, dtype=np.float32)
CALLS: dict[str, Callable[[QdrantStore], Any]] = {
    "create": lambda store: store.create(SPEC),
    "create another": lambda store: store.create(GenerationSpec("sl_other_1", 16)),
    "drop": lambda store: store.drop(SPEC.name),
    "count": lambda store: store.count(SPEC, Scope()),
    "get": lambda store: len(store.get(SPEC, [point_id("p1")])),
    "vectors": lambda store: len(store.vectors(SPEC, [point_id("p1")])),
    "scan": lambda store: len(list(store.scan(SPEC))),
    "search": lambda store: len(store.search(SPEC, QUERY, limit=3, scope=Scope(), params=SearchParams()).items),
    "keyword": lambda store: len(store.keyword_search(SPEC, "p1", limit=3, scope=Scope()).items),
    "upsert": lambda store: len(store.upsert(SPEC, make_points("q", 3, seed=2)).stored),
    "delete": lambda store: store.delete(SPEC, [point_id("p1")]),
    "stale": lambda store: store.set_stale(SPEC, [point_id("p1")]),
    "build": lambda store: store.build(SPEC),
    "stats": lambda store: store.stats(SPEC)["points"],
    "marker": lambda store: (store.write_marker("docs", "x"), store.read_marker("docs")),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_goes_on_when_the_trouble_is_over(store: QdrantStore, client: Flickering, name: str) -> None:
    client.errors = [refused(503), broken(httpx.ConnectError("Connection refused"))]
    found = CALLS[name](store)
    assert not client.errors
    if name in ("count", "scan", "stats"):
        assert found == 5
    elif name in ("search", "upsert"):
        assert found == 3
    elif name == "marker":
        assert found[1] == "x"


@pytest.mark.parametrize(
    "error", [refused(429), refused(502), refused(504), broken(httpx.ReadError("reset")), broken(httpx.ReadTimeout(""))]
)
def test_each_kind_of_trouble_that_passes(store: QdrantStore, client: Flickering, error: Exception) -> None:
    client.errors = [error, error]
    assert store.count(SPEC, Scope()) == 5 and not client.errors


def late(client: Flickering, monkeypatch: pytest.MonkeyPatch, method: str, times: int) -> None:
    """Answer as Qdrant 1.17 and later does to a write that waits longer than the server lets it: with no error."""
    from qdrant_client import models

    whole = getattr(client, method)
    statuses = [models.UpdateStatus.WAIT_TIMEOUT] * times

    def answer(*args: Any, **options: Any) -> Any:
        assert options["wait"]
        told = whole(*args, **options)
        if not statuses:
            return told
        result = models.UpdateResult(operation_id=1, status=statuses.pop())
        return [result] if isinstance(told, list) else result

    monkeypatch.setattr(client, method, answer, raising=False)


def test_a_write_that_is_late_is_not_taken_for_done(
    store: QdrantStore, client: Flickering, monkeypatch: pytest.MonkeyPatch
) -> None:
    late(client, monkeypatch, "upsert", 2)
    assert len(store.upsert(SPEC, make_points("q", 3, seed=2)).stored) == 3
    late(client, monkeypatch, "set_payload", 9)
    with pytest.raises(StoreTimeout, match="did not answer within"):
        store.set_stale(SPEC, [point_id("q1")])
    late(client, monkeypatch, "batch_update_points", 9)
    wider = replace(SPEC, fields=Fields({"n": int}))
    with pytest.raises(StoreTimeout, match="did not answer within"):
        store.add_fields(SPEC, wider, [(point_id("q1"), {"n": 1})])


def test_optimizers_that_wait_are_started_once(
    store: QdrantStore, client: Flickering, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every time that they are told, they stop what they are at."""
    from qdrant_client import models

    states = [models.CollectionStatus(one) for one in ("grey", "grey", "yellow", "grey", "green")]
    started: list[str] = []
    whole = client.get_collection

    def info(name: str) -> Any:
        return whole(name).model_copy(update={"status": states.pop(0)})

    monkeypatch.setattr(client, "get_collection", info, raising=False)
    monkeypatch.setattr(client, "update_collection", lambda name, **_: started.append(name), raising=False)
    store.build(SPEC)
    assert started == [SPEC.name] and not states


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("shelflist.stores.qdrant.store.time", clock)
    return clock


def tell(client: Flickering, monkeypatch: pytest.MonkeyPatch, state: Callable[[], tuple[str, Any]]) -> QdrantStore:
    """A store of one second's patience with a request, whose collections are in a state: colour, and optimizers'."""
    from qdrant_client import models

    whole = client.get_collection

    def info(name: str) -> Any:
        colour, optimizers = state()
        update = {"status": models.CollectionStatus(colour), "optimizer_status": optimizers}
        return whole(name).model_copy(update=update)

    monkeypatch.setattr(client, "get_collection", info, raising=False)
    monkeypatch.setattr(client, "update_collection", lambda name, **_: None, raising=False)
    opened: Any = client
    return QdrantStore(_connect.server(parse_url("qdrant://in-memory?timeout=1"), port=6333), lambda: opened)


def test_a_graph_that_takes_hours_is_waited_for(
    store: QdrantStore, client: Flickering, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A large one is built in one go: no number moves until it is there."""
    tell(client, monkeypatch, lambda: ("yellow" if clock.now < 7_200 else "green", "ok")).build(SPEC)
    assert clock.now >= 7_200


def test_optimizers_that_do_not_start_are_not_waited_for(
    store: QdrantStore, client: Flickering, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    with pytest.raises(StoreTimeout, match=r"is not being built.*grey.*run the same command again"):
        tell(client, monkeypatch, lambda: ("grey", "ok")).build(SPEC)
    assert 30 < clock.now < 90


@pytest.mark.parametrize("colour", ["yellow", "grey", "red"])
def test_optimizers_that_failed_are_not_waited_for(
    store: QdrantStore, client: Flickering, monkeypatch: pytest.MonkeyPatch, clock: Clock, colour: str
) -> None:
    from qdrant_client import models

    failed = models.OptimizersStatusOneOf1(error="cannot allocate memory")
    with pytest.raises(StoreError, match=r"not healthy.*cannot allocate memory"):
        tell(client, monkeypatch, lambda: (colour, failed)).build(SPEC)
    assert clock.now == 0


@pytest.mark.parametrize(("error", "kind"), [(refused(401), StoreDenied), (refused(400), StoreError)])
def test_what_does_not_pass_is_asked_once(
    store: QdrantStore, client: Flickering, error: Exception, kind: type[StoreError]
) -> None:
    client.errors, client.calls = [error] * 9, 0
    with pytest.raises(kind):
        store.count(SPEC, Scope())
    assert client.calls == 1


def test_a_server_that_comes_back() -> None:
    """It is away while it is connected to, and again at the first question."""
    statuses = [503, 429, None, 429, 503]

    def answer(method: str, path: str) -> Answer | None:
        status = statuses.pop(0) if statuses else None
        if status is not None:
            return status, said("not now")
        return None if path == "/" else (200, {"result": {"exists": False}, "status": "ok", "time": 0.0})

    with fake_server(answer) as url:
        store = store_at(url)
        assert store.read_marker("docs") is None and not statuses
        store.close()


def test_a_server_that_does_not_come_back(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def answer(method: str, path: str) -> Answer | None:
        asked.append(path)
        return always(503, said("Service unavailable"))(method, path)

    with fake_server(answer) as url:
        store = store_at(url)
        began = time.monotonic()
        with caplog.at_level(logging.WARNING), pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.read_marker("docs")
        assert time.monotonic() - began < 10
        store.close()
    assert asked.count("/") == 1 and len(asked) == 6
    assert len(caplog.records) == 1 and "_markers" not in caplog.text and url in caplog.text


@pytest.mark.parametrize(
    ("version", "taken"), [("1.12.6", False), ("1.13.0", True), ("1.18.2-dev", True), ("2.0.0", True)]
)
def test_the_oldest_version_is_checked_before_anything_is_asked(
    client: Flickering, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    told = type("Told", (), {"version": version})
    monkeypatch.setattr(client, "info", lambda: told, raising=False)
    opened: Any = client
    store = QdrantStore(_connect.server(parse_url("qdrant://in-memory"), port=6333), open_client=lambda: opened)
    if taken:
        store.create(SPEC)
    else:
        with pytest.raises(StoreError, match=r"in-memory:6333 is version 1\.12\.6; Shelflist needs 1\.13 or newer"):
            store.create(SPEC)
        assert client.calls == 0
    assert QdrantStore.capabilities.versions == "{}.{} to {}.{}".format(*OLDEST, *NEWEST)
    store.close()
