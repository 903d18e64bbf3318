"""Snapshots being built aside: when, by whom, stopped, killed, out of space, and swapped beneath readers."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from index_of_hundreds import SPEC, assert_recall, ids, plan, snapshot_of, vector_of, wait_for_plan, written

from shelflist.core.errors import LedgerBusy, StoreFull
from shelflist.engine import products
from shelflist.stores import _compaction
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import Scope
from shelflist.testing.points import point_id


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


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No build copies its rows before this is set."""
    goes_on = threading.Event()
    copied = _compaction.Compaction._copy_rows

    def waiting(self: _compaction.Compaction, to: Path) -> object:
        goes_on.wait(30)
        return copied(self, to)

    monkeypatch.setattr(_compaction.Compaction, "_copy_rows", waiting)
    return goes_on


def interrupted(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_product_codes_that_leave_more_open_are_not_kept(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (snapshot_of(place) / "products.faiss").exists()
    monkeypatch.setattr(_compaction, "_AS_MANY", 0)
    shutil.rmtree(snapshot_of(place))
    compaction = _compaction.Compaction(store.database, SPEC, place / "vectors")
    assert compaction.run() and compaction.done == compaction.total
    assert not (snapshot_of(place) / "products.faiss").exists()
    assert plan(store, group=1).startswith("codes of 200 rows")
    wait_for_plan(store, "packed codes of 200 rows")


def test_the_progress_is_whole_where_product_codes_are_given_up(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products.ProductCodes, "build", lambda *given: None)
    shutil.rmtree(snapshot_of(place))
    compaction = _compaction.Compaction(store.database, SPEC, place / "vectors")
    assert compaction.run() and (compaction.done, compaction.total) == (2_400, 2_400)


def test_what_interrupts_the_wait_stops_the_building(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(snapshot_of(place))
    goes_on = held(monkeypatch)
    store.build(SPEC)
    (building,) = [one for one in threading.enumerate() if one.name == "shelflist-build"]
    with pytest.raises(KeyboardInterrupt):
        store.wait_for_build(interrupted)
    goes_on.set()
    building.join()
    assert [path for path in (place / "vectors").iterdir() if path.is_dir()] == []


def test_what_is_written_while_one_is_built_is_built_too(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compaction, "_NEWER", 50)
    shutil.rmtree(snapshot_of(place))
    begun, goes_on = threading.Event(), threading.Event()
    built = _compaction.Compaction._build

    def waiting(self: _compaction.Compaction, to: Path, count: int) -> object:
        begun.set()
        goes_on.wait(30)
        return built(self, to, count)

    monkeypatch.setattr(_compaction.Compaction, "_build", waiting)
    store.build(SPEC)
    assert begun.wait(30)
    written(store, range(700, 800))  # after the rows were copied
    store.build(SPEC)
    goes_on.set()
    store.wait_for_build()
    assert store.stats(SPEC)["snapshot_rows"] == 700
    store.build(SPEC)
    store.wait_for_build()
    assert plan(store).startswith("graph of 700 rows")


def test_who_finds_another_at_it_waits_and_looks_again(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_compaction, "_SLOW_WAIT", 0.1)
    shutil.rmtree(snapshot_of(place))
    with _compaction._alone(place / "vectors" / f"{SPEC.name}.lock") as is_alone:
        assert is_alone
        store.build(SPEC)
        time.sleep(0.3)
        (building,) = [one for one in threading.enumerate() if one.name == "shelflist-build"]
        assert building.is_alive()
        assert len([one for one in caplog.messages if "Waiting for another process that builds" in one]) == 1
    store.wait_for_build()
    assert plan(store).startswith("graph of 600 rows")
    # And where the other has built it, there is nothing to do.
    before = snapshot_of(place)
    store.build(SPEC)
    store.wait_for_build()
    assert snapshot_of(place) == before


def test_after_an_interrupted_wait_the_next_sync_builds_again(
    store: EmbeddedStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(snapshot_of(place))
    goes_on = held(monkeypatch)
    store.build(SPEC)
    with pytest.raises(KeyboardInterrupt):
        store.wait_for_build(interrupted)
    store.build(SPEC)  # while the thread that was stopped has not ended
    time.sleep(0.3)
    goes_on.set()
    store.wait_for_build()
    assert plan(store).startswith("graph of 600 rows")


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
    for number in range(700, 703):
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
