"""What passes by itself is asked again, whatever is asked of Chroma, and said once; versions are looked at first."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from chroma_engine import open_chroma, require_chroma
from engines import free_port
from test_chroma_bad_days import SPEC, fake, opened

import shelflist
from shelflist.core.errors import ConfigError, StoreDenied, StoreError, StoreUnavailable
from shelflist.core.types import SearchParams
from shelflist.stores import _connect
from shelflist.stores.chroma.client import in_directory
from shelflist.stores.chroma.store import ChromaStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import make_points, point_id


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    require_chroma()
    monkeypatch.setattr(_connect, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(_connect, "_last_warning", ("", 0.0))


class Flickering:
    """A client, or a collection of it, that raises what stands in `errors` first, whatever is asked."""

    def __init__(self, inner: Any, errors: list[Exception], calls: list[str]) -> None:
        self._inner, self._errors, self._calls = inner, errors, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name == "close":
            return found

        def asked(*args: Any, **options: Any) -> Any:
            self._calls.append(name)
            if self._errors:
                raise self._errors.pop(0)
            answer = found(*args, **options)
            is_collection = type(answer).__name__ == "Collection"
            return Flickering(answer, self._errors, self._calls) if is_collection else answer

        return asked


class Place:
    """A store on a client that flickers, whose Chroma is in a directory."""

    def __init__(self, folder: Path) -> None:
        self.errors: list[Exception] = []
        self.calls: list[str] = []
        self.opened = 0
        self._folder = folder
        self.store = ChromaStore("chroma://flickering", self._connect)

    def _connect(self) -> Any:
        self.opened += 1
        return Flickering(in_directory(self._folder, "chroma:./index", 1.0), self.errors, self.calls)


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    from shelflist.stores.chroma import client

    place = Place(folder)
    place.store.create(SPEC)
    place.store.upsert(SPEC, make_points("p", 5, seed=1))
    yield place
    place.errors.clear()
    place.store.close()
    client.release(folder)


def refused(status: int) -> Exception:
    request = httpx.Request("GET", "http://127.0.0.1")
    return httpx.HTTPStatusError("not now", request=request, response=httpx.Response(status, request=request))


QUERY = np.ones(SPEC.dimensions, dtype=np.float32)
CALLS: dict[str, Callable[[ChromaStore], Any]] = {
    "create": lambda store: store.create(SPEC),
    "create another": lambda store: store.create(GenerationSpec("sl_other_1", 16)),
    "drop": lambda store: store.drop(SPEC.name),
    "count": lambda store: store.count(SPEC, Scope()),
    "get": lambda store: len(store.get(SPEC, [point_id("p1")])),
    "vectors": lambda store: len(store.vectors(SPEC, [point_id("p1")])),
    "scan": lambda store: len(list(store.scan(SPEC))),
    "search": lambda store: len(store.search(SPEC, QUERY, limit=3, scope=Scope(), params=SearchParams()).items),
    "upsert": lambda store: len(store.upsert(SPEC, make_points("q", 3, seed=2)).stored),
    "delete": lambda store: store.delete(SPEC, [point_id("p1")]),
    "stale": lambda store: store.set_stale(SPEC, [point_id("p1")]),
    "stats": lambda store: store.stats(SPEC)["points"],
    "marker": lambda store: (store.write_marker("docs", "x"), store.read_marker("docs")),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_goes_on_when_the_trouble_is_over(place: Place, name: str) -> None:
    place.errors += [refused(503), httpx.ConnectError("Connection refused")]
    found = CALLS[name](place.store)
    assert not place.errors
    if name in ("count", "scan", "stats"):
        assert found == 5
    elif name in ("search", "upsert"):
        assert found == 3
    elif name == "marker":
        assert found[1] == "x"


@pytest.mark.parametrize(
    "error", [refused(429), refused(502), refused(504), httpx.ReadError("reset"), httpx.ReadTimeout("late")]
)
def test_each_kind_of_trouble_that_passes(place: Place, error: Exception) -> None:
    place.errors += [error, error]
    assert place.store.count(SPEC, Scope()) == 5 and not place.errors


@pytest.mark.parametrize(("error", "kind"), [(refused(401), StoreDenied), (refused(400), StoreError)])
def test_what_does_not_pass_is_asked_once(place: Place, error: Exception, kind: type[StoreError]) -> None:
    place.errors += [error] * 9
    place.calls.clear()
    with pytest.raises(kind):
        place.store.count(SPEC, Scope())
    assert len(place.calls) == 1


def test_a_server_that_is_away_is_said_once_and_in_our_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"chroma://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        shelflist.open(url, "docs", ledger=f"sqlite:{tmp_path / 'ledger.db'}", embedder="static")
    assert time.monotonic() - began < 10
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == f"{caught.value} Trying again for a while."
    assert url in warning and "marker" not in warning and "Check that it runs" in warning


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_stays_busy_is_asked_five_times(status: int) -> None:
    with fake(status) as (address, seen), opened(f"chroma://{address}") as store:
        with pytest.raises(StoreUnavailable, match=rf"{address} is busy or not up: HTTP {status}"):
            store.count(SPEC, Scope())
        assert len(seen) == 5


def test_how_many_records_a_request_takes_is_asked_again_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_chroma(f"chroma:{folder / 'index'}")
    connect, failures = store._link._connect, [StoreUnavailable("not yet"), StoreUnavailable("not yet")]

    def late() -> Any:
        if failures:
            raise failures.pop()
        return connect()

    monkeypatch.setattr(store._link, "_connect", late)
    assert store._link.batch() > 1_000 and not failures
    store.close()


@pytest.mark.parametrize(("version", "taken"), [("0.9.9", False), ("1.0.0", True), ("1.5.9", True), ("2.0.1", True)])
def test_of_a_server_the_first_number_is_checked(version: str, taken: bool) -> None:
    """All servers of version 1 call themselves 1.0.0."""
    with fake(200, json.dumps(version).encode()) as (address, seen), opened(f"chroma://{address}") as store:
        if taken:
            with pytest.raises(StoreError) as caught:  # the fake has no more to say
                store.count(SPEC, Scope())
            assert "upgrade" not in str(caught.value) and len(seen) > 1
        else:
            with pytest.raises(StoreError, match=rf"runs Chroma {version}.*version 1: upgrade it"):
                store.count(SPEC, Scope())
            assert len(seen) == 1


@pytest.mark.parametrize(
    ("version", "taken"), [("1.0.20", False), ("1.4.9", False), ("1.5.0", True), ("1.6.0.dev1", True)]
)
def test_the_version_of_the_client_is_checked_which_runs_a_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    monkeypatch.setattr("chromadb.__version__", version)
    with opened(f"chroma:{folder / 'index'}") as store:
        if taken:
            assert store.read_marker("docs") is None
        else:
            with pytest.raises(
                ConfigError, match=rf"chromadb is {version}.*needs 1\.5 or newer.*pip install --upgrade"
            ):
                store.read_marker("docs")
    assert "1.5 in a directory" in ChromaStore.capabilities.versions
