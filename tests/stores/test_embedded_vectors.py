"""Snapshots of the embedded store: built aside, followed by everyone, done without when they cannot be used.

Thresholds are low here, so that a few hundred rows have codes and a graph.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shelflist.core.errors import LedgerBusy, StoreFull, UnsupportedIndex
from shelflist.core.fields import Fields
from shelflist.core.filters import F, prepare
from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf, Metric, Point, SearchParams, Vector
from shelflist.engine import calibration, planner, products, snapshot
from shelflist.engine.exact import prepared
from shelflist.stores import _compaction, _vector_cache
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import point_id

DIMENSIONS = 96
FIELDS = Fields({"group": int, "tags": list[str]})
INDEX = Hnsw(indexing_threshold=100, full_scan_threshold=0)
SPEC = GenerationSpec("sl_test_1", DIMENSIONS, index=INDEX, fields=FIELDS, target_recall=0.9)
TRUTH = SearchParams(exact=True)


def vector_of(number: int, dimensions: int = DIMENSIONS) -> Vector:
    # In clusters: among vectors of no structure at all nothing is near, and no index finds it.
    centre = np.random.default_rng(number % 20).normal(size=dimensions)
    return (centre + 0.5 * np.random.default_rng(1_000 + number).normal(size=dimensions)).astype(np.float32)


def point(number: int, *, vector: Vector | None = None) -> Point:
    one = vector_of(number) if vector is None else vector
    return Point(
        point_id(str(number)),
        point_id(f"chunk {number}"),
        f"d{number}",
        None,
        f"text {number}",
        {"group": number % 3, "tags": [f"t{number % 7}"]},
        one,
    )


def written(store: EmbeddedStore, numbers: range, spec: GenerationSpec = SPEC) -> None:
    store.upsert(spec, [point(number) for number in numbers])


@pytest.fixture
def place(folder: Path) -> Path:
    return folder / "index"


@pytest.fixture
def store(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedStore]:
    monkeypatch.setattr(products, "_LEAST_ROWS", 500)
    opened = EmbeddedStore(place)
    opened.create(SPEC)
    written(opened, range(600))
    opened.repair(SPEC)
    yield opened
    opened.close()


def ids(
    store: EmbeddedStore, query: Vector, *, exact: bool = False, group: int | None = None, limit: int = 10
) -> list[bytes]:
    scope = Scope() if group is None else Scope(filter=prepare(F("group") == group, FIELDS))
    params = TRUTH if exact else SearchParams()
    found = store.search(SPEC, query, limit=limit, scope=scope, params=params)
    assert found.exact or not exact
    return [item.point_id for item in found.items]


def plan(store: EmbeddedStore, group: int | None = None) -> str:
    scope = Scope() if group is None else Scope(filter=prepare(F("group") == group, FIELDS))
    return store.search(SPEC, vector_of(1), limit=10, scope=scope, params=SearchParams()).plan


def wait_for_plan(store: EmbeddedStore, start: str) -> None:
    deadline = time.monotonic() + 20
    while not plan(store, group=1).startswith(start):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_recall(store: EmbeddedStore, least: float = 0.9) -> None:
    for group in (None, 1):
        found = []
        for number in range(0, 400, 10):
            query = vector_of(number) + np.float32(0.2)
            truth = ids(store, query, exact=True, group=group)
            found.append(len(set(ids(store, query, group=group)) & set(truth)) / len(truth))
        assert np.mean(found) >= least, group


def snapshot_of(place: Path) -> Path:
    (found,) = [path for path in (place / "vectors").iterdir() if path.is_dir()]
    return found


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
    assert plan(store, group=1).startswith("packed codes of 210 rows") and "10 newer" in plan(store, group=1)
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


# Damage.


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _newer(path: Path) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "sequence": manifest["sequence"] + 5}))


def _other_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


DAMAGE: list[tuple[str, str, Callable[[Path], None]]] = [
    *(
        (name, how.__name__, how)
        for name in (
            *("vectors.f32", "rows.i64", "ids.u8", "codes.faiss", "graph.faiss", "manifest.json"),
            *("products.faiss", "rotation.f32"),
            *("columns.json", "column-1.places", "column-1.values.json", "column-2.starts", "column-2.rows"),
        )
        for how in (_flip, _cut, Path.unlink)
    ),
    ("strays.i64", "unlink", Path.unlink),  # it is empty here
    ("manifest.json", "newer", _newer),
    ("manifest.json", "other format", _other_format),
]


@pytest.mark.parametrize(
    ("name", "how"), [(name, how) for name, _, how in DAMAGE], ids=[f"{n}-{h}" for n, h, _ in DAMAGE]
)
def test_a_damaged_snapshot_is_done_without_and_built_anew(
    store: EmbeddedStore, place: Path, name: str, how: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    truth = ids(store, vector_of(3), exact=True)
    store.close()
    how(snapshot_of(place) / name)
    again = EmbeddedStore(place)
    assert again.stats(SPEC)["snapshot_rows"] is None
    for _ in range(3):
        assert ids(again, vector_of(3)) == truth  # exactly, from the rows
    assert len([one for one in caplog.messages if "cannot be used" in one]) == 1
    again.close()
    again = EmbeddedStore(place)  # that has not searched, as the next sync has not
    again.build(SPEC)
    again._vectors.wait()
    assert plan(again).startswith("graph of 600 rows") and again.stats(SPEC)["snapshot_rows"] == 600
    assert_recall(again)
    again.close()


@pytest.mark.parametrize("how", [_flip, _cut, Path.unlink])
def test_damaged_cells_are_done_without_and_built_anew(
    place: Path, how: Callable[[Path], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    monkeypatch.setattr(planner, "FEW_MATCHES", 0)
    spec = replace(SPEC, index=Ivf(nlist=12))
    with closing(EmbeddedStore(place)) as first:
        first.create(spec)
        written(first, range(600), spec)
        first.repair(spec)
    how(snapshot_of(place) / "cells.faiss")
    with closing(EmbeddedStore(place)) as again:
        for asked in (SearchParams(), TRUTH):
            found = again.search(spec, vector_of(3), limit=10, scope=Scope(), params=asked)
            assert found.exact and found.items[0].point_id == point_id("3")
        assert len([one for one in caplog.messages if "cannot be used" in one]) == 1
        again.build(spec)
        again._vectors.wait()
        found = again.search(spec, vector_of(3), limit=10, scope=Scope(), params=SearchParams())
        assert found.plan.startswith("cells of 600 rows") and found.items[0].point_id == point_id("3")


@pytest.mark.parametrize(("nlist", "told"), [(64, 1), (15, 0), (None, 0)])
def test_fewer_cells_than_are_asked_for_are_told_once_a_build(
    place: Path, nlist: int | None, told: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    spec = replace(SPEC, index=Ivf(nlist=nlist))
    with closing(EmbeddedStore(place)) as opened:
        opened.create(spec)
        written(opened, range(600), spec)
        opened.repair(spec)
        opened.search(spec, vector_of(3), limit=10, scope=Scope(), params=SearchParams())
    said = [one for one in caplog.messages if "has 15 cells, not the 64 that nlist asks for" in one]
    assert len(said) == told and len(caplog.messages) == told
    with closing(EmbeddedStore(place)) as again:  # what is read was not built
        again.search(spec, vector_of(3), limit=10, scope=Scope(), params=SearchParams())
    assert len(caplog.messages) == told


def test_a_snapshot_whose_folder_is_gone(store: EmbeddedStore, place: Path) -> None:
    truth = ids(store, vector_of(3), exact=True)
    store.close()
    shutil.rmtree(place / "vectors")
    again = EmbeddedStore(place)
    assert ids(again, vector_of(3)) == truth
    again.build(SPEC)
    again.close()
    assert snapshot_of(place)


@pytest.mark.parametrize("may_be_written", [True, False])
def test_a_copied_index_is_read_whole_once_and_trusted(
    store: EmbeddedStore, place: Path, tmp_path: Path, may_be_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    shutil.copytree(place, tmp_path / "copy", copy_function=shutil.copyfile)  # with other times
    read: list[str] = []
    checksum = snapshot._checksum
    monkeypatch.setattr(snapshot, "_checksum", lambda path: read.append(path.name) or checksum(path))
    if not may_be_written:
        monkeypatch.setattr(Path, "replace", _refused)
    for opening in range(2):
        again = EmbeddedStore(tmp_path / "copy")
        assert plan(again).startswith("graph")
        again.close()
        assert ("vectors.f32" in read) == (opening == 0 or not may_be_written)
        read.clear()


def _refused(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


# Size and shape.


def test_deleting_most_and_shrinking_below_the_threshold(store: EmbeddedStore, place: Path) -> None:
    store.delete(SPEC, [point_id(str(number)) for number in range(540)])
    assert len(ids(store, vector_of(1))) == 10 and len(ids(store, vector_of(1), limit=100)) == 60
    store.build(SPEC)
    store._vectors.wait()
    assert plan(store).startswith("exact over 60 rows")
    with store.database.read() as tx:
        assert tx.execute("SELECT count(*) FROM store_snapshots").fetchone() == (0,)
    written(store, range(1_000, 1_200))
    store.build(SPEC)
    store._vectors.wait()
    assert plan(store).startswith("graph of 260 rows")


def test_deleting_nine_in_ten(store: EmbeddedStore) -> None:
    written(store, range(600, 1_500))
    store.repair(SPEC)
    kept = set(random.Random(2).sample(range(1_500), 150))
    gone = [point_id(str(number)) for number in range(1_500) if number not in kept]
    store.delete(SPEC, gone)
    assert_recall(store)
    assert not set(ids(store, vector_of(1), limit=150)) & set(gone)
    store.build(SPEC)
    store._vectors.wait()
    assert plan(store).startswith("graph of 150 rows")
    assert_recall(store)
    assert set(ids(store, vector_of(1), limit=200)) == {point_id(str(number)) for number in kept}


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((300, DIMENSIONS), np.float32),
        np.repeat(np.stack([vector_of(number) for number in range(150)]), 2, axis=0),
        np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32),
        np.random.default_rng(0).normal(size=(130, 4_096)).astype(np.float32),
    ],
    ids=["all the same", "each twice", "two dimensions", "4,096 dimensions"],
)
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_of_every_kind(place: Path, vectors: Vector, metric: Metric) -> None:
    spec = GenerationSpec("sl_kind_1", vectors.shape[1], metric, INDEX, FIELDS)
    with_it = EmbeddedStore(place)
    with_it.create(spec)
    with_it.upsert(spec, [point(number, vector=one) for number, one in enumerate(vectors)])
    with_it.repair(spec)
    for scope in (Scope(), Scope(filter=prepare(F("group") == 2, FIELDS))):
        found = with_it.search(spec, vectors[5], limit=10, scope=scope, params=SearchParams())
        truth = with_it.search(spec, vectors[5], limit=10, scope=scope, params=TRUTH)
        assert len(found.items) == 10
        # By distance, since ties are anybody's.
        bound = truth.items[-1].value + 1e-5
        assert sum(item.value <= bound for item in found.items) >= 8
    with_it.close()


@pytest.mark.parametrize("index", [None, Ivf(), Flat(quantization="rabitq")], ids=str)
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_vectors_that_are_all_the_same_in_every_index(
    place: Path, index: IndexSpec | None, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough of them to measure how many are few."""
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    monkeypatch.setattr(_compaction, "GRAPH_FROM", 100)
    monkeypatch.setattr(calibration, "_FEW", (50, 100))
    vector = np.arange(64, dtype=np.float32)
    spec = GenerationSpec("sl_same_1", 64, metric, index, FIELDS)
    with closing(EmbeddedStore(place)) as same:
        same.create(spec)
        same.upsert(spec, [point(number, vector=vector) for number in range(400)])
        same.repair(spec)
        assert same.stats(spec)["snapshot_rows"] == 400
        third = {point_id(str(number)) for number in range(2, 400, 3)}
        for scope in (Scope(), Scope(filter=prepare(F("group") == 2, FIELDS))):
            found = same.search(spec, vector, limit=10, scope=scope, params=SearchParams())
            assert len(found.items) == 10
        assert {one.point_id for one in found.items} <= third


@pytest.mark.parametrize(
    ("index", "way", "metric"),
    [
        (Ivf(), "cells of 600 rows", "cosine"),
        (Ivf(nlist=12, nprobe=8), "cells of 600 rows, nprobe 8 of 12", "l2"),
        (Ivf(nlist=12, quantization="rabitq2"), "cells of 600 rows", "dot"),
        (Flat(quantization="rabitq"), "codes of 600 rows", "dot"),
        (Flat(quantization="rabitq2"), "codes of 600 rows", "cosine"),
        (Flat(), "exact over 600 rows", "l2"),
        (Hnsw(indexing_threshold=100, full_scan_threshold=0, quantization="rabitq2"), "graph of 600 rows", "l2"),
    ],
    ids=str,
)
def test_every_kind_of_index(
    place: Path, index: IndexSpec, way: str, metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    monkeypatch.setattr(planner, "FEW_MATCHES", 0)
    spec = replace(SPEC, index=index, metric=metric)
    for opening in range(2):  # as it was built, and as it is read
        opened = EmbeddedStore(place)
        if opening == 0:
            opened.create(spec)
            written(opened, range(600), spec)
            opened.repair(spec)
        shares = []
        for number in range(0, 400, 20):
            query = vector_of(number) + np.float32(0.2)
            found = opened.search(spec, query, limit=10, scope=Scope(), params=SearchParams())
            truth = opened.search(spec, query, limit=10, scope=Scope(), params=TRUTH)
            assert found.plan.startswith(way) and truth.exact and len(found.items) == 10
            shares.append(len({one.point_id for one in found.items} & {one.point_id for one in truth.items}) / 10)
        assert np.mean(shares) >= 0.85
        opened.delete(spec, [one.point_id for one in truth.items])
        after = opened.search(spec, query, limit=10, scope=Scope(), params=SearchParams())
        assert len(after.items) == 10 and not {one.point_id for one in after.items} & {
            one.point_id for one in truth.items
        }
        opened.upsert(spec, [point(900 + opening, vector=query * 3 if metric == "dot" else query)])
        again = opened.search(spec, query, limit=10, scope=Scope(), params=SearchParams())
        assert again.items[0].point_id == point_id(str(900 + opening))
        way = way.replace("600", "591") if "exact" in way else way.split(" of ")[0]
        opened.close()


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_rows(place: Path, count: int) -> None:
    store = EmbeddedStore(place)
    store.create(SPEC)
    written(store, range(count))
    store.build(SPEC)
    store.repair(SPEC)
    assert len(ids(store, vector_of(0))) == count
    store.close()


# Building.


def test_a_snapshot_is_built_when_it_is_due_and_not_before(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compaction, "_NEWER", 50)
    store = EmbeddedStore(place)
    store.create(SPEC)
    due = _compaction.Compaction(store.database, SPEC, place / "vectors")
    written(store, range(99))
    assert not due.is_due()
    written(store, range(99, 100))
    assert due.is_due()
    store.build(SPEC)
    store._vectors.wait()
    assert not due.is_due() and plan(store).startswith("graph of 100")
    written(store, range(100, 150))
    assert not due.is_due() and "50 newer" in plan(store)
    written(store, range(150, 151))
    assert due.is_due()
    store.close()


def test_two_do_not_build_at_once(store: EmbeddedStore, place: Path) -> None:
    compaction = _compaction.Compaction(store.database, SPEC, place / "vectors")
    with _compaction._alone(place / "vectors" / f"{SPEC.name}.lock") as is_alone:
        assert is_alone and not compaction.run()
    assert compaction.run()


def test_a_fork_does_not_keep_the_lock(place: Path) -> None:
    lock = place / "vectors" / "one.lock"
    with _compaction._alone(lock) as is_alone:
        assert is_alone
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with _compaction._alone(lock) as is_alone:
            assert is_alone
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_stopped_it_leaves_things_as_they_were(store: EmbeddedStore, place: Path) -> None:
    before = snapshot_of(place)
    compaction = _compaction.Compaction(store.database, SPEC, place / "vectors")
    compaction.stop()
    assert not compaction.run()
    assert snapshot_of(place) == before and plan(store).startswith("graph of 600 rows")


def test_whoever_waits_hears_how_many_vectors_are_done(store: EmbeddedStore, place: Path) -> None:
    told: list[tuple[int, int]] = []
    store.wait_for_build(lambda done, total: told.append((done, total)))
    assert told == []  # nothing is being built
    shutil.rmtree(snapshot_of(place))
    store.build(SPEC)
    store.wait_for_build(lambda done, total: told.append((done, total)))
    assert told == sorted(told) and all(done <= total <= 2_400 for done, total in told)
    compaction = _compaction.Compaction(store.database, SPEC, place / "vectors")
    assert compaction.run()
    assert (compaction.done, compaction.total) == (2_400, 2_400)  # copied, as codes of two kinds, in the graph


def test_what_interrupts_the_wait_stops_the_building(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(snapshot_of(place))
    goes_on = threading.Event()
    copied = _compaction.Compaction._copy_rows

    def waiting(self: _compaction.Compaction, to: Path) -> object:
        goes_on.wait(30)
        return copied(self, to)

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_compaction.Compaction, "_copy_rows", waiting)
    store.build(SPEC)
    (building,) = [one for one in threading.enumerate() if one.name == "shelflist-build"]
    with pytest.raises(KeyboardInterrupt):
        store.wait_for_build(interrupted)
    goes_on.set()
    building.join()
    assert [path for path in (place / "vectors").iterdir() if path.is_dir()] == []


def test_of_a_generation_that_is_gone_there_is_nothing_to_build(store: EmbeddedStore, place: Path) -> None:
    compaction = _compaction.Compaction(store.database, SPEC, place / "vectors")
    assert compaction.run()
    store.drop(SPEC.name)
    assert not compaction.is_due() and not compaction.run()
    assert [path.suffix for path in (place / "vectors").iterdir()] == [".lock"]


def test_a_drop_while_building(store: EmbeddedStore, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(snapshot_of(place))
    store.build(SPEC)
    store.drop(SPEC.name)
    assert list((place / "vectors").iterdir()) == []
    assert "shelflist-build" not in [thread.name for thread in threading.enumerate()]
    assert not [one for one in caplog.messages if "could not be built" in one]


def test_a_full_disk_while_building(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(store, range(600, 601))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_compaction, "seal", full)
    before = snapshot_of(place)
    monkeypatch.setattr(_compaction, "_NEWER", 0)
    monkeypatch.setattr(_compaction, "_NEWER_SHARE", 0.0)
    store.build(SPEC)
    store._vectors.wait()
    assert any("could not be built" in one for one in caplog.messages)
    with pytest.raises(StoreFull, match=r"No space is left.*shelflist repair"):
        store.repair(SPEC)
    assert snapshot_of(place) == before
    assert_recall(store)


def test_a_writer_that_holds_the_store_for_long_while_building(
    place: Path, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(snapshot_of(place))
    hurried = EmbeddedStore(place, busy_timeout=0.1)
    with store.database.write():
        hurried.build(SPEC)
        hurried._vectors.wait()
        with pytest.raises(LedgerBusy, match="has been writing"):
            hurried._vectors.rebuild(SPEC)
    (warning,) = (one for one in caplog.messages if "could not be built" in one)
    assert "has been writing" in warning
    assert [path for path in (place / "vectors").iterdir() if path.is_dir()] == []
    hurried.build(SPEC)
    hurried._vectors.wait()
    assert plan(hurried).startswith("graph of 600 rows")
    hurried.close()


_CHILD = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from test_embedded_vectors import SPEC, EmbeddedStore
store = EmbeddedStore(Path({place!r}))
print("ready", flush=True)
while True:
    store.repair(SPEC)
"""
KILLS = int(os.environ.get("SHELFLIST_KILLS", "3"))


def test_killed_while_building(store: EmbeddedStore, place: Path) -> None:
    """At random moments: what was there goes on answering, and the next one clears up."""
    truth = ids(store, vector_of(3), exact=True)
    store.close()
    random_ = random.Random(1)
    program = _CHILD.format(here=str(Path(__file__).parent), place=str(place))
    for _ in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            time.sleep(random_.uniform(0, 0.6))
            child.send_signal(signal.SIGKILL)
        again = EmbeddedStore(place)
        assert ids(again, vector_of(3), exact=True) == truth
        assert plan(again).startswith("graph of 600 rows")
        again.close()
    again = EmbeddedStore(place)
    assert again.repair(SPEC)[-1].startswith("vector index ")
    assert_recall(again)
    # The one before is kept for those who are reading by it.
    assert len([path for path in (place / "vectors").iterdir() if path.is_dir()]) <= 2
    again.close()


def test_a_search_while_the_snapshot_is_swapped(store: EmbeddedStore, place: Path) -> None:
    other = EmbeddedStore(place)
    wrong: list[str] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            found = ids(other, vector_of(3), limit=5)
            if len(found) != 5 or found[0] != point_id("3"):
                wrong.append(str(found))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(700, 706):
        written(store, range(number, number + 1))
        store.repair(SPEC)
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    other.close()


def test_an_index_made_before_there_were_snapshots(store: EmbeddedStore, place: Path) -> None:
    with store.database.write() as tx:
        tx.execute("DROP TABLE store_snapshots")
        tx.execute(f"DROP TABLE {SPEC.name}_removed")
    store.close()
    old, other = EmbeddedStore(place), EmbeddedStore(place)
    assert plan(other).startswith("exact over 600 rows")
    old.delete(SPEC, [point_id("3")])
    assert other.count(SPEC, Scope()) == 599 and point_id("3") not in ids(other, vector_of(3))
    old.repair(SPEC)
    assert plan(other).startswith("graph of 599 rows")
    old.close()
    other.close()


def test_a_drop_takes_the_snapshots_with_it(store: EmbeddedStore, place: Path) -> None:
    store.drop(SPEC.name)
    assert list((place / "vectors").iterdir()) == []


def test_planner_reads_its_thresholds(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = GenerationSpec(SPEC.name, DIMENSIONS, fields=FIELDS, target_recall=0.9)
    scope = Scope(filter=prepare(F("group") == 1, FIELDS))
    assert store.search(auto, vector_of(1), limit=10, scope=scope, params=SearchParams()).exact
    monkeypatch.setattr(planner, "FEW_MATCHES", 0)
    assert not store.search(auto, vector_of(1), limit=10, scope=scope, params=SearchParams()).exact


def test_damage_that_is_found_under_an_open_handle_is_not_searched(store: EmbeddedStore, place: Path) -> None:
    assert plan(store).startswith("graph")
    vectors = snapshot_of(place) / "vectors.f32"
    state = vectors.stat()
    with vectors.open("r+b") as file:
        file.write(b"\0" * 4 * DIMENSIONS)  # of row 0
    os.utime(vectors, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert ids(store, vector_of(0), exact=True)[0] != point_id("0")  # the same bytes are mapped here
    assert store.stats(SPEC)["snapshot_rows"] is None
    assert plan(store).startswith("exact") and ids(store, vector_of(0))[0] == point_id("0")
    store.repair(SPEC)
    assert plan(store).startswith("graph") and ids(store, vector_of(0))[0] == point_id("0")


@pytest.mark.parametrize("index", [Hnsw(m=1), Hnsw(m=0), Hnsw(m=1_000_000), Hnsw(ef_construction=0)], ids=str)
def test_a_graph_that_would_end_the_process_is_refused(folder: Path, index: Hnsw) -> None:
    store = EmbeddedStore(folder / "index")
    with pytest.raises(UnsupportedIndex, match=r"The embedded store takes \w+ from"):
        store.create(replace(SPEC, index=index))
    store.create(replace(SPEC, index=Hnsw(m=2)))
    store.close()
