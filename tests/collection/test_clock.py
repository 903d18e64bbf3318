"""A wall clock that is set back or forward between two calls, as a wrong date that somebody mends does."""

from __future__ import annotations

import time
from typing import Any

import pytest
from counting import chunks, contents, document
from places import Place

from shelflist.core.errors import StoreUnavailable
from shelflist.ledger.embeddings import Embeddings
from shelflist.ledger.leases import LEASE_SECONDS

DAY = 86_400.0


class Clock:
    """Right, but for `ahead` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._right = time.time

    def __call__(self) -> float:
        return self._right() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.time", made)
    return made


@pytest.mark.parametrize("step", [-DAY, -1.0, DAY])
def test_syncs_and_searches_go_on(place: Place, clock: Clock, step: float) -> None:
    docs = place.open()
    pages = [document(f"d{number}", f"heron {number}", f"pond {number}") for number in range(6)]
    assert docs.sync_all(pages, source="pages", delete="missing").added == 12
    clock.ahead += step
    assert docs.sync_all(pages, source="pages", delete="missing").unchanged == 12
    assert len(docs.search("heron", limit=20)) == 12 and len(docs.search("heron", mode="keyword", limit=20)) == 6
    assert docs.sync("d1", chunks("heron 1", "osprey 1"), source="pages").added == 1
    assert contents(docs.search("osprey", mode="keyword")) == ["osprey 1"]
    assert "pond 1" not in contents(docs.search("pond", limit=20))
    left = [pages[0], pages[1], document("new", "a crane")]
    report = docs.sync_all(left, source="pages", delete="missing", allow_removal=True)
    assert (report.documents_added, report.documents_changed, report.documents_removed) == (1, 1, 4)
    assert contents(docs.search("heron", limit=20)) == ["a crane", "heron 0", "heron 1", "pond 0", "pond 1"]
    clock.ahead -= step
    docs.mark_stale("d0")
    assert contents(docs.search("heron", limit=20)) == ["a crane", "heron 1", "pond 1"]
    assert docs.sync_all([pages[0]], source="pages").documents_changed == 1
    docs.delete("new")
    docs.sync("new", chunks("a crane"))
    assert contents(docs.search("heron", limit=20)) == ["a crane", "heron 0", "heron 1", "pond 0", "pond 1"]
    assert docs.verify()["ok"]


def test_a_switch_just_as_the_clock_is_set_back_is_noticed(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not place.apart:
        return
    docs = place.open()
    docs.sync("p", chunks("heron lake", "heron pond"))
    store = docs._parts.store
    search = store.search

    def interrupted(*arguments: Any, **options: Any) -> Any:
        found = search(*arguments, **options)
        if not clock.ahead:
            clock.ahead = -DAY
            docs.sync("p", chunks("heron marsh"))
        return found

    monkeypatch.setattr(store, "search", interrupted)
    assert contents(docs.search("heron", mode="dense")) == ["heron marsh"]


def test_what_was_condemned_is_purged_in_time(directory: Place, clock: Clock) -> None:
    docs = directory.open()
    docs.sync_all([document("gone", "heron pond"), document("kept", "osprey nest")])
    docs.delete("gone")
    clock.ahead -= DAY
    docs.purge()
    assert docs.verify()["store"] == 1 and docs.verify()["ok"]


def test_deleted_rows_do_not_pile_up_in_the_keyword_index(alone: Place, clock: Clock) -> None:
    docs = alone.open()
    docs.sync("p", chunks("heron pond"))
    docs.sync("p", chunks("osprey nest"))
    assert alone.sql(f"SELECT count(*) FROM {alone.table()}_unlisted") == [(1,)]
    clock.ahead -= DAY
    docs.sync("q", chunks("crane marsh"))
    assert alone.sql(f"SELECT count(*) FROM {alone.table()}_unlisted") == [(0,)]
    assert docs.verify()["ok"]


def test_a_claim_of_a_process_elsewhere_holds_nobody_up_for_a_day(directory: Place, clock: Clock) -> None:
    docs = directory.open()
    cache = Embeddings(docs._parts.ledger.database)
    assert cache.claim("x", [b"1", b"2"], "elsewhere:1:0") == {b"1", b"2"}
    for ahead in (0.0, -5.0):
        clock.ahead = ahead
        assert cache.are_claimed("x", [b"1"]) and cache.claim("x", [b"1"], "there:1:0") == set()
    clock.ahead = -DAY
    assert not cache.are_claimed("x", [b"1"]) and cache.claim("x", [b"1"], "there:1:0") == {b"1"}
    assert cache.are_claimed("x", [b"1"]) and cache.claim("x", [b"1"], "elsewhere:1:0") == set()


def test_work_begun_elsewhere_is_taken_up_before_a_day_has_passed(
    place: Place, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not place.apart:
        return
    docs = place.open()
    docs.sync("p", chunks("heron pond"))

    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(docs._parts.store, "upsert", away)
        with pytest.raises(StoreUnavailable):
            docs.sync("p", chunks("osprey nest"))
    with docs._parts.ledger.database.write() as tx:
        lease = ("elsewhere:1:0", time.time() + LEASE_SECONDS)
        tx.execute("UPDATE sl_revisions SET lease_owner = ?, lease_until = ?", lease)
    docs.sync("q", chunks("crane marsh"))
    assert docs.status()["unfinished"] == 1 and contents(docs.search("x")) == ["crane marsh", "heron pond"]
    clock.ahead = -DAY
    docs.sync("q", chunks("crane marsh"))
    assert docs.status()["unfinished"] == 0 and contents(docs.search("x")) == ["crane marsh", "osprey nest"]
