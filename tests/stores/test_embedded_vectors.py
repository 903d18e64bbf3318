"""Searches of the embedded store by its snapshot, which everybody follows at the next query."""

from __future__ import annotations

import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from index_of_hundreds import (
    DIMENSIONS,
    FIELDS,
    SPEC,
    assert_recall,
    ids,
    plan,
    point,
    snapshot_of,
    vector_of,
    wait_for_plan,
    written,
)

from shelflist.core.filters import F, prepare
from shelflist.core.types import Metric, SearchParams, Vector
from shelflist.engine import planner
from shelflist.engine.exact import prepared
from shelflist.stores import _compaction, _vector_cache
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import point_id


def test_a_search_uses_what_was_built_and_finds_what_is_nearest(store: EmbeddedStore) -> None:
    assert plan(store).startswith("graph of 600 rows")
    assert plan(store, group=1).startswith("codes of 200 rows")
    assert_recall(store)


def test_a_filter_that_is_asked_again_gets_packed_codes(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "FEW_MATCHES", 0)
    plan(store, group=1)
    assert plan(store, group=1).startswith("codes")
    wait_for_plan(store, "packed codes of 200")
    assert_recall(store)
    written(store, range(600, 630))
    assert plan(store, group=1).startswith("packed codes of 200 rows") and "10 newer" in plan(store, group=1)
    store.delete(SPEC, [point_id(str(number)) for number in range(1, 300, 3)])
    assert_recall(store)
    # Few of each cluster are left to the filter: the nearest are those of others, which codes tell apart less well.
    plan(store, group=1)
    kept = store._vectors._caches[SPEC.name]._sets
    deadline = time.monotonic() + 20
    while not any(one.count == 110 and one.prepared.is_ready for _, one in list(kept.values())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert_recall(store)
    assert not set(ids(store, vector_of(1), group=1, limit=110)) & {point_id(str(number)) for number in range(300)}


def test_others_follow_a_write_at_their_next_query(store: EmbeddedStore, place: Path) -> None:
    other = EmbeddedStore(place)
    query = vector_of(7)
    assert ids(other, query)[0] == point_id("7")
    store.upsert(SPEC, [point(1_000, vector=query * 3)])
    store.delete(SPEC, [point_id("7")])
    assert ids(other, query)[0] == point_id("1000") and point_id("7") not in ids(other, query, limit=600)
    store.set_stale(SPEC, [point_id("1000")])
    assert point_id("1000") not in ids(other, query, limit=600)
    assert other.count(SPEC, Scope()) == 599
    place_before = snapshot_of(place)
    store.repair(SPEC)
    assert ids(other, query, exact=True) == ids(store, query, exact=True) and plan(other) == plan(store)
    assert not place_before.exists() or len(list((place / "vectors").glob("*.*"))) <= 3
    other.close()


def test_random_writes_by_two_and_compactions_in_between(place: Path) -> None:
    """Exact answers, filters and counts of both are those of a dict, whatever came before."""
    random_ = random.Random(4)
    two = [EmbeddedStore(place), EmbeddedStore(place)]
    two[0].create(SPEC)
    model: dict[int, Vector] = {}
    free = iter(range(100_000))
    for step in range(120):
        store = random_.choice(two)
        match random_.choice(["write", "write", "delete", "stale", "compact", "write"]):
            case "write":
                new = [next(free) for _ in range(random_.choice([1, 3, 60]))]
                store.upsert(SPEC, [point(number) for number in new])
                model.update((number, vector_of(number)) for number in new)
            case "delete" if model:
                gone = random_.sample(sorted(model), min(len(model), random_.choice([1, 20])))
                store.delete(SPEC, [point_id(str(number)) for number in gone])
                for number in gone:
                    del model[number]
            case "stale" if model:
                number = random_.choice(sorted(model))
                store.set_stale(SPEC, [point_id(str(number))])
                del model[number]
            case "compact" if step % 3 == 0:
                store.repair(SPEC)
        if not model:
            continue
        asked = random_.choice(two)
        query = vector_of(random_.randrange(200))
        matrix = np.stack(list(model.values()))
        cosines = matrix @ query / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
        best = [list(model)[i] for i in np.argsort(-cosines, kind="stable")]
        assert ids(asked, query, exact=True) == [point_id(str(number)) for number in best[:10]]
        group = random_.randrange(3)
        own = [number for number in best if number % 3 == group]
        assert ids(asked, query, exact=True, group=group) == [point_id(str(number)) for number in own[:10]]
        assert len(ids(asked, query, group=group)) == min(10, len(own))
        assert asked.count(SPEC, Scope()) == len(model)
    for store in two:
        store.close()


def test_a_reader_of_an_older_moment_sees_that_moment(store: EmbeddedStore, place: Path) -> None:
    other = EmbeddedStore(place)
    with other.database.read() as tx:
        tx.execute(
            "SELECT count(*) FROM store_generations"
        ).fetchone()  # the snapshot of SQLite begins with the first read
        store.delete(SPEC, [point_id("5")])
        written(store, range(600, 700))
        store.repair(SPEC)

        def newer_in_another_thread() -> None:
            assert other.count(SPEC, Scope()) == 699

        thread = threading.Thread(target=newer_in_another_thread)
        thread.start()
        thread.join()
        assert other.count(SPEC, Scope()) == 600
        assert ids(other, vector_of(5), exact=True)[0] == point_id("5")
    assert ids(other, vector_of(5), exact=True)[0] != point_id("5")
    other.close()


def test_an_interrupt_while_catching_up_leaves_nothing_behind(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_vector_cache, "_FETCHED", 8)
    other = EmbeddedStore(place)
    written(other, range(600, 610))
    assert store.count(SPEC, Scope()) == 610
    with store.database.read() as tx:
        before, _ = store._vectors.matching(tx, SPEC, Scope())
    shown = (before.rows.copy(), before.ids.copy(), before.view.newer.copy())
    written(other, range(610, 640))
    parts = 0

    def interrupted(vectors: Vector, metric: Metric) -> Vector:
        nonlocal parts
        parts += 1
        if parts == 2:
            raise KeyboardInterrupt
        return prepared(vectors, metric)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(_vector_cache, "prepared", interrupted)
        store.count(SPEC, Scope())
    for exact in (False, True):
        found = ids(store, vector_of(612), exact=exact, limit=640)
        assert len(found) == len(set(found))
        assert found[0] == point_id("612")
    assert len(ids(store, vector_of(612), exact=True, limit=1_000)) == 640
    assert store.count(SPEC, Scope()) == 640
    for now, then in zip((before.rows, before.ids, before.view.newer), shown, strict=True):
        np.testing.assert_array_equal(now, then)
    other.close()


def test_an_interrupt_of_a_rebuild_stops_it(store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, started = snapshot_of(place), threading.Event()
    advance = _compaction.Compaction._advance

    def slowly(self: _compaction.Compaction, vectors: int) -> None:
        started.set()
        for _ in range(1_000):
            time.sleep(0.01)
            advance(self, 0)

    monkeypatch.setattr(_compaction.Compaction, "_advance", slowly)

    def interrupt() -> None:
        started.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        store.repair(SPEC)
    thread.join()
    assert time.monotonic() - began < 8
    assert snapshot_of(place) == before  # what was begun is gone
    assert_recall(store)


def test_planner_reads_its_thresholds(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = GenerationSpec(SPEC.name, DIMENSIONS, fields=FIELDS, target_recall=0.9)
    scope = Scope(filter=prepare(F("group") == 1, FIELDS))
    assert store.search(auto, vector_of(1), limit=10, scope=scope, params=SearchParams()).exact
    monkeypatch.setattr(planner, "FEW_MATCHES", 0)
    assert not store.search(auto, vector_of(1), limit=10, scope=scope, params=SearchParams()).exact
