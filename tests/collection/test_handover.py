"""One batch is written while the next is read and planned: what that must not change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from counting import contents, counts, document, documents
from places import Place
from test_threads_and_fork import in_child

from shelflist import Document
from shelflist.core.errors import StoreFull
from shelflist.core.types import SyncReport
from shelflist.indexing.write import Ready, Writer, Written

BATCH = 10
"""Documents that fill a batch here: they have two chunks each."""


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shelflist.indexing.sync._CHUNKS_PER_BATCH", 2 * BATCH)
    monkeypatch.setattr("shelflist.indexing.handover._CHUNKS_PER_WRITE", 2 * BATCH)


def named(number: int) -> list[Document]:
    return [document(f"d{i:03}", f"d{i:03} first", f"d{i:03} second") for i in range(number)]


def writers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shelflist-")]


def before_each_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call `act` with the number of the write, from 0, on the thread that writes."""
    write, numbers = Writer.write_together, iter(range(1000))

    def written(self: Writer, ready: Ready) -> Written:
        act(next(numbers))
        return write(self, ready)

    monkeypatch.setattr(Writer, "write_together", written)


def test_documents_are_written_in_the_order_in_which_they_came(alone: Place) -> None:
    docs = alone.open()
    report = docs.sync_all(named(55))
    assert counts(report, "documents_added", "added", "embedded", "failed") == (55, 110, 110, 0)
    rows = alone.sql("SELECT document_id FROM sl_documents ORDER BY document_key")
    assert [name for (name,) in rows] == [one.document_id for one in named(55)]
    assert docs.verify()["ok"] and docs.count() == 110


def test_a_batch_is_planned_while_another_is_written(alone: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = alone.open()
    more = threading.Event()
    before_each_write(monkeypatch, lambda number: _wait(more) if number == 0 else None)

    def stream() -> Iterator[Document]:
        for i, one in enumerate(named(30)):
            if i == 15:  # the first batch waits to be written until this one has come
                more.set()
            yield one

    docs.sync_all(stream())
    assert docs.count() == 60


def test_threads_end_with_the_pass_and_a_small_one_needs_none(alone: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = alone.open()
    threads: list[str] = []
    before_each_write(monkeypatch, lambda number: threads.append(threading.current_thread().name))
    docs.sync_all(named(3))
    docs.sync("one", named(1)[0].chunks)
    assert threads == ["MainThread", "MainThread"]
    docs.sync_all(documents(45, "other"))
    assert threads[2:] == ["shelflist-writer_0"] * 5
    assert writers() == []


def test_an_error_of_the_writer_is_raised_once_as_it_is(alone: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = alone.open()

    def fill(number: int) -> None:
        if number == 2:
            raise StoreFull("No space is left.")

    before_each_write(monkeypatch, fill)
    with pytest.raises(StoreFull, match="No space is left"):
        docs.sync_all(named(55), source="s", delete="missing")
    assert writers() == []
    assert docs.count() == 40, "the two batches before it were acknowledged"
    assert docs.verify()["ok"]
    report = docs.sync_all(named(55), source="s", delete="missing")
    assert counts(report, "documents_unchanged", "documents_added", "failed") == (20, 35, 0)
    assert len(alone.embedder.texts) == len(set(alone.embedder.texts)) == 110, "nothing is paid for twice"


def test_an_error_of_the_last_batch_is_not_lost(alone: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = alone.open()

    def fill(number: int) -> None:
        if number == 4:
            raise StoreFull("No space is left.")

    before_each_write(monkeypatch, fill)
    with pytest.raises(StoreFull):
        docs.sync_all(named(45))
    assert docs.count() == 80


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_an_interrupt_waits_for_the_batch_that_is_being_written(
    alone: Place, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    docs = alone.open()
    before_each_write(monkeypatch, lambda number: time.sleep(0.2))

    def stream() -> Iterator[Document]:
        for i, one in enumerate(named(40)):
            if i == 25:
                raise stop
            yield one

    with pytest.raises(stop):
        docs.sync_all(stream(), source="s", delete="missing")
    assert writers() == []
    assert docs.count() == 40 and docs.verify()["ok"]
    report = docs.sync_all(named(40), source="s", delete="missing")
    assert counts(report, "documents_unchanged", "documents_added") == (20, 20)


def test_a_slow_source_is_written_bit_by_bit(alone: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shelflist.indexing.sync._SECONDS_PER_BATCH", 0.02)
    monkeypatch.setattr("shelflist.indexing.handover._SECONDS_PER_WRITE", 0.04)
    docs = alone.open()
    found: list[int] = []

    def stream() -> Iterator[Document]:
        for one in named(9):
            yield one
            time.sleep(0.05)
            found.append(docs.count())

    docs.sync_all(stream())
    assert found == sorted(found) and 0 < found[-1] <= 18 and len(set(found)) > 3
    assert docs.count() == 18


def test_a_document_that_comes_again_while_it_is_being_written(alone: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = alone.open()
    again = threading.Event()
    before_each_write(monkeypatch, lambda number: _wait(again) if number == 0 else None)

    def stream() -> Iterator[Document]:
        yield from named(12)
        yield document("d003", "another text")
        again.set()
        yield from named(25)[12:]
        yield document("d004", "another text")
        yield document("d024", "another text")

    report = docs.sync_all(stream(), source="s", delete="missing")
    assert [one.document_id for one in report.failures] == ["d003", "d004", "d024"]
    assert all("comes twice" in one.error for one in report.failures)
    assert counts(report, "documents_added", "documents_failed", "documents_removed") == (25, 3, 0)
    assert docs.count() == 50


def test_what_another_writer_changed_meanwhile_is_planned_again(alone: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    docs, other = alone.open(), alone.open()
    docs.sync_all(named(40), source="s")
    edited = [document(f"d{i:03}", f"edited {i} first", f"edited {i} second") for i in range(40)]
    overtaking = {"d012", "d017", "d031"}
    write = Writer.write_together

    def written(self: Writer, ready: Ready) -> Written:
        for one in ready.documents if self is docs._parts.writer else []:
            name = one.revision.document_id
            if name in overtaking:
                overtaking.remove(name)
                other.sync(name, document(name, f"quicker {name}").chunks, source="s")
        return write(self, ready)

    monkeypatch.setattr(Writer, "write_together", written)
    report = docs.sync_all(edited, source="s", delete="missing")
    assert counts(report, "documents_changed", "documents_failed", "documents_removed") == (40, 0, 0)
    assert counts(report, "added", "removed") == (80, 80 - 3)
    wanted = [f"edited {i} {part}" for i in range(40) for part in ("first", "second")]
    assert sorted(contents(docs.search("x", limit=99, mode="dense"))) == sorted(wanted)
    assert docs.verify()["ok"]


def test_two_passes_over_the_same_documents_at_once(alone: Place) -> None:
    alone.open()
    reports: list[SyncReport] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            reports.append(alone.open().sync_all(named(60), source="s", delete="missing"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(one.documents_added for one in reports) == 60
    assert sum(one.documents_unchanged for one in reports) == 60
    docs = alone.open()
    assert docs.count() == 120 and docs.verify()["ok"]
    assert writers() == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of os.fork beside threads: that is the test
def test_a_child_hands_over_as_its_parent_did(alone: Place) -> None:
    docs = alone.open()
    docs.sync_all(named(35))

    def work() -> None:
        report = docs.sync_all(documents(35, "child"))
        assert counts(report, "documents_added", "failed") == (35, 0)

    assert in_child(work) == 0
    docs.sync_all(documents(35, "parent"))
    assert docs.count() == 210 and docs.verify()["ok"]


def test_a_plan_does_not_hold_what_it_has_counted(alone: Place) -> None:
    docs = alone.open()

    def stream() -> Iterator[Document]:
        for i in range(250):
            yield document(f"d{i:03}", f"text {i % 60}", f"own {i}")
        yield document("d007", "again")

    plan = docs.plan(stream(), source="s")
    done = docs.sync_all(stream(), source="s")
    names = ("documents_added", "documents_failed", "added", "embedded", "tokens", "failed")
    assert counts(plan, *names) == counts(done, *names) == (250, 1, 500, 310, 620, 1)


def _wait(event: threading.Event) -> None:
    assert event.wait(10), "the next batch does not come while this one is being written"
