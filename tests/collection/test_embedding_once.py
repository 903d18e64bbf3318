"""No text is paid for twice: whoever needs what another writer is embedding waits for its vector."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from counting import CountingEmbedder, chunks, counts
from places import Place

from shelflist import Collection
from shelflist.core.types import Vector


class HeldEmbedder(CountingEmbedder):
    """Stands still in its first call until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        first = not self.has_begun.is_set()
        self.has_begun.set()
        if first:
            assert self.may_go_on.wait(30)
        return super().embed_documents(texts)


def sync_in_a_thread(collection: Collection, document_id: str, *texts: str) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []

    def run() -> None:
        try:
            found.append(collection.sync(document_id, chunks(*texts)))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def is_waiting(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether the condition stays as it is for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return False
        time.sleep(0.01)
    return True


def test_two_writers_of_the_same_new_texts_pay_once(directory: Place) -> None:
    held = HeldEmbedder()
    first, second = directory.open(embedder=held), directory.open()
    slow, slow_report = sync_in_a_thread(first, "a", "one", "two")
    assert held.has_begun.wait(30)
    quick, quick_report = sync_in_a_thread(second, "b", "two", "three")
    try:
        assert is_waiting(0.3, lambda: bool(quick_report))
        assert directory.embedder.texts == ["three"]
    finally:
        held.may_go_on.set()
        slow.join(30)
        quick.join(30)
    assert held.texts == ["one", "two"] and directory.embedder.texts == ["three"]
    assert counts(slow_report[0], "embedded", "cached", "tokens") == (2, 0, 2)
    assert counts(quick_report[0], "embedded", "cached", "tokens") == (1, 1, 1)
    assert second.search("two", mode="dense", limit=2)[0].content == "two" and second.count() == 4
    assert second.verify()["ok"]


def test_what_another_writer_could_not_embed_is_ours_to_try(directory: Place) -> None:
    held = HeldEmbedder()
    held.failing = {"two"}
    first, second = directory.open(embedder=held), directory.open()
    slow, _ = sync_in_a_thread(first, "a", "one", "two")
    assert held.has_begun.wait(30)
    quick, quick_report = sync_in_a_thread(second, "b", "two")
    held.may_go_on.set()
    slow.join(30)
    quick.join(30)
    assert directory.embedder.texts == ["two"] and counts(quick_report[0], "embedded", "documents_added") == (1, 1)


@pytest.mark.parametrize("fault", [OSError("gone"), KeyboardInterrupt()])
def test_an_interrupted_writer_is_not_waited_for(directory: Place, fault: BaseException) -> None:
    class Stopped(CountingEmbedder):
        def embed_documents(self, texts: Sequence[str]) -> Vector:
            raise fault

    with pytest.raises((Exception, KeyboardInterrupt)):
        directory.open(embedder=Stopped()).sync("a", chunks(*(f"text {i}" for i in range(20))))
    assert directory.sql("SELECT count(*) FROM sl_claims", ledger=True) == [(0,)]
    assert directory.open().sync("a", chunks("text 0")).embedded == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_killed_writer_is_not_waited_for(directory: Place) -> None:
    docs = directory.open()
    docs.sync("other", chunks("something"))
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:

        class Endless(CountingEmbedder):
            def embed_documents(self, texts: Sequence[str]) -> Vector:
                os.write(writes, b"x")
                time.sleep(600)
                raise AssertionError

        try:
            directory.open(embedder=Endless()).sync("a", chunks("one", "two"))
        finally:
            os._exit(1)
    assert os.read(reads, 1) == b"x"
    thread, report = sync_in_a_thread(docs, "b", "two", "three")
    try:
        assert is_waiting(0.3, lambda: bool(report)), "the claim of a living process was not respected"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        thread.join(30)
    assert directory.embedder.take() == ["something", "three", "two"]
    assert counts(report[0], "embedded", "documents_added") == (2, 1)
    for end in (reads, writes):
        os.close(end)


def test_what_was_embedded_between_the_look_and_the_claim_is_not_paid_again(
    directory: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = CountingEmbedder()
    first, second = directory.open(embedder=quick), directory.open()
    source = second._opened.vectors
    known, looks = source.known, []

    def overtaken(hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        found = known(hashes)
        if not looks:
            looks.append(first.sync("a", chunks("one", "two")))
        return found

    monkeypatch.setattr(source, "known", overtaken)
    report = second.sync("b", chunks("two", "three"))
    assert quick.texts == ["one", "two"] and directory.embedder.texts == ["three"]
    assert counts(report, "embedded", "cached", "tokens") == (1, 1, 1) and second.verify()["ok"]
