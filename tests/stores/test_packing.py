"""Filters packed aside: by one thread, with a bounded queue, within the bytes that are allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from index_of_hundreds import FIELDS, SPEC, point, vector_of, written

from shelflist.core.filters import F, prepare
from shelflist.core.types import SearchParams
from shelflist.engine import planner
from shelflist.engine.codes import Codes, PackedCodes
from shelflist.engine.exact import Positions
from shelflist.stores import _packing, _vector_cache
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import Scope

ROWS = 600


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedStore]:
    monkeypatch.setattr(planner, "FEW_MATCHES", 0)
    opened = EmbeddedStore(folder / "index")
    opened.create(SPEC)
    written(opened, range(ROWS))
    opened.repair(SPEC)
    yield opened
    opened.close()


def search(store: EmbeddedStore, number: int) -> str:
    """By one of as many filters as wanted, that one in three rows matches; the plan."""
    scope = Scope(filter=prepare(F("group").is_in([1, 1_000 + number]), FIELDS))
    found = store.search(SPEC, vector_of(1), limit=10, scope=scope, params=SearchParams())
    assert len(found.items) == 10
    return found.plan


def sets(store: EmbeddedStore) -> Any:
    return store._vectors._caches[SPEC.name]._sets


def workers() -> int:
    return [thread.name for thread in threading.enumerate()].count("shelflist-pack")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Packing waits for this."""
    go = threading.Event()
    packed = Codes.packed

    def waiting(self: Codes, positions: Positions) -> PackedCodes:
        go.wait()
        return packed(self, positions)

    monkeypatch.setattr(Codes, "packed", waiting)
    yield go
    go.set()
    wait_for(lambda: workers() == 0)


def test_many_filters_at_once_are_packed_by_one_thread(
    store: EmbeddedStore, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_packing, "_MOST_WAITING", 5)
    for _ in range(3):
        for number in range(30):
            search(store, number)
    assert workers() == 1
    under_way = [matches.prepared.is_under_way for _, matches in sets(store).values()]
    assert 5 <= sum(under_way) <= 6
    held.set()
    wait_for(lambda: workers() == 0)
    assert not any(matches.prepared.is_under_way for _, matches in sets(store).values())
    # Those that found no room are asked for again.
    for number in range(30):
        search(store, number)
        wait_for(lambda: workers() == 0)
    assert all(search(store, number).startswith("packed") for number in range(30))


def test_a_filter_that_is_kept_no_more_is_passed_over(store: EmbeddedStore, held: threading.Event) -> None:
    for number in range(4):
        search(store, number), search(store, number)
    wait_for(lambda: len(store._vectors._packer._waiting) == 3)
    matches = [matches for _, matches in sets(store).values()]
    for key in list(sets(store))[1:3]:
        sets(store).pop(key)
    held.set()
    wait_for(lambda: workers() == 0)
    assert [one.prepared.is_ready for one in matches] == [True, False, False, True]
    assert not any(one.prepared.is_under_way for one in matches)


def test_what_is_written_meanwhile_is_packed_too(store: EmbeddedStore, held: threading.Event) -> None:
    for number in (0, 1):
        search(store, number), search(store, number)
    wait_for(lambda: len(store._vectors._packer._waiting) == 1)
    store.delete(SPEC, [point(4).point_id])
    for number in (0, 1):
        search(store, number)
    held.set()
    wait_for(lambda: workers() == 0)
    (_, first), (_, second) = sets(store).values()
    assert first.prepared.of is not first.mask and second.prepared.of is second.mask
    assert all(search(store, number).startswith("packed") for number in (0, 1))


def test_a_filter_that_cannot_be_packed_is_said_and_asked_for_again(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    def failing(*_: object) -> None:
        raise MemoryError("no more")

    with monkeypatch.context() as patched:
        patched.setattr(Codes, "packed", failing)
        search(store, 0), search(store, 0)
        wait_for(lambda: workers() == 0)
    assert any("could not be prepared" in one and "MemoryError: no more" in one for one in caplog.messages)
    assert "Traceback" not in capfd.readouterr().err
    search(store, 0)
    wait_for(lambda: search(store, 0).startswith("packed"))


def test_a_process_without_more_threads_searches_all_the_same(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", failing)
        for _ in range(3):
            search(store, 0)
    wait_for(lambda: search(store, 0).startswith("packed"))


def test_a_filter_of_newer_rows_only(store: EmbeddedStore) -> None:
    store.delete(SPEC, [point(number).point_id for number in range(1, ROWS, 3)])
    written(store, range(ROWS, ROWS + 60))
    for _ in range(4):
        search(store, 0)
        wait_for(lambda: workers() == 0)
    assert search(store, 0).startswith("exact over 20")


def test_packed_copies_count_among_the_bytes(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    search(store, 0), search(store, 0)
    wait_for(lambda: workers() == 0)
    ((_, one),) = sets(store).values()
    assert one.prepared.packed is not None
    most = 5 * one.nbytes
    monkeypatch.setattr(_vector_cache, "_MAX_SET_BYTES", most)
    for _ in range(3):
        for number in range(12):  # would fit, were it not for the copies
            search(store, number), search(store, number)
        wait_for(lambda: workers() == 0)
        held = sum(matches.nbytes for _, matches in sets(store).values())
        assert most / 2 < held <= most
        assert sum(store._vectors._caches[SPEC.name]._weights.values()) == held
    written(store, range(ROWS, ROWS + 40))
    for number in range(12):
        search(store, number)
    wait_for(lambda: workers() == 0)
    assert sum(matches.nbytes for _, matches in sets(store).values()) <= most
