"""Many at once: a switch seen from outside, searches beside a sync, a child after a fork."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from counting import chunks, contents, documents
from places import Place

from shelflist import Chunk, Collection, Hnsw, SearchParams
from shelflist.core.types import Point
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import point_id

SIZE = 30


@contextmanager
def beside(work: Callable[[], None], threads: int = 1) -> Iterator[list[BaseException]]:
    """Run `work` again and again in threads while the body runs; what went wrong is in the list."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def loop() -> None:
        while not stop.is_set() and not errors:
            try:
                work()
            except BaseException as error:
                errors.append(error)

    running = [threading.Thread(target=loop) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield errors
    finally:
        stop.set()
        for thread in running:
            thread.join()


def version(name: str, shared: int = 0) -> list[Chunk]:
    """Thirty chunks; the first `shared` have the same text in every version."""
    same = [Chunk(f"common words {i}", {"version": "all"}) for i in range(shared)]
    return same + [Chunk(f"words of {name} number {i}", {"version": name}) for i in range(shared, SIZE)]


def whole(contents: list[str], shared: int) -> str:
    """The one version that these thirty texts are, or an error."""
    for name in ("left", "right"):
        if sorted(contents) == sorted(chunk.content for chunk in version(name, shared)):
            return name
    raise AssertionError(f"{len(contents)} chunks of no one version: {sorted(contents)}")


SEES: dict[str, Callable[[Collection], list[str]]] = {
    "dense": lambda docs: [hit.content for hit in docs.search("words", limit=SIZE, mode="dense")],
    "keyword": lambda docs: [hit.content for hit in docs.search("words", limit=SIZE, mode="keyword")],
    "hybrid": lambda docs: [hit.content for hit in docs.search("words", limit=SIZE)],
    "hybrid, more than there are": lambda docs: [hit.content for hit in docs.search("words", limit=3 * SIZE)],
    "show": lambda docs: [c["content"] for c in docs.show("p")["chunks"] if c["index_status"] == "indexed"],
}


@pytest.mark.parametrize("sees", SEES)
@pytest.mark.parametrize("shared", [0, 20])
def test_a_document_is_seen_old_or_new_and_never_between(place: Place, sees: str, shared: int) -> None:
    docs = place.open(fields={"version": str})
    docs.sync("p", version("left", shared))
    seen: list[str] = []
    with beside(lambda: seen.append(whole(SEES[sees](docs), shared))) as errors:
        for i in range(5):
            docs.sync("p", version("right" if i % 2 == 0 else "left", shared))
    assert errors == []
    assert seen and set(seen) <= {"left", "right"}
    assert whole(SEES[sees](docs), shared) == "right"
    assert docs.verify()["ok"]


def test_an_edit_of_metadata_is_seen_in_one_step(place: Place) -> None:
    docs = place.open(fields={"edition": int})

    def edition(number: int) -> list[Chunk]:
        return [Chunk(f"words {i}", {"edition": number}) for i in range(SIZE)]

    def look() -> None:
        found = [hit.metadata["edition"] for hit in docs.search("words", limit=2 * SIZE)]
        assert len(found) == SIZE and len(set(found)) == 1, found
        counted = docs.count()
        assert counted == SIZE, counted

    docs.sync("p", edition(0))
    with beside(look) as errors:
        for number in range(1, 6):
            assert docs.sync("p", edition(number)).metadata_only == SIZE
    assert errors == []
    assert len(place.embedder.take()) == SIZE


def test_a_document_that_grows_is_never_seen_half_grown(place: Place) -> None:
    docs = place.open()
    docs.sync("p", chunks(*(f"words {i}" for i in range(10))))

    def look() -> None:
        for mode in ("dense", "keyword", "hybrid"):
            number = len(docs.search("words", limit=99, mode=mode))
            assert number in (10, 40), number

    with beside(look) as errors:
        for size in (40, 10, 40, 10):
            docs.sync("p", chunks(*(f"words {i}" for i in range(size))))
    assert errors == []


def test_many_search_while_one_syncs(place: Place) -> None:
    docs = place.open(fields={"n": int})
    docs.sync_all(documents(10))

    def look() -> None:
        hits = docs.search("first", limit=5, where=None)
        assert len(hits) == 5
        assert len(docs.search("d1 first", limit=3, mode="keyword")) == 3
        assert docs.count() >= 20

    with beside(look, threads=8) as errors:
        for i in range(8):
            docs.sync(f"new{i}", [Chunk(f"first of new {i}", {"n": i})])
        docs.delete("new0")
        docs.mark_stale("new1")
        docs.purge()
    assert errors == []
    assert docs.count() == 26
    assert docs.verify()["ok"]


def test_two_openings_of_one_place_see_each_other(directory: Place) -> None:
    one, two = directory.open(), directory.open()
    one.sync("p", chunks("from one"))
    assert contents(two.search("from one")) == ["from one"]
    two.sync("p", chunks("from two"))
    two.sync("q", chunks("more of two"))
    for mode in ("dense", "keyword", "hybrid"):
        assert contents(one.search("two", mode=mode)) == ["from two", "more of two"]
    two.mark_stale("q")
    assert contents(one.search("two")) == ["from two"]
    assert one.verify()["ok"]


def test_writers_of_many_documents_do_not_lose_any(directory: Place) -> None:
    directory.open()
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            docs = directory.open()
            for i in range(4):
                docs.sync(f"own {number} {i}", chunks(f"text {number} {i}"))
                docs.sync("shared", chunks(f"shared by {number} {i}"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    docs = directory.open()
    found = contents(docs.search("x", limit=99, mode="dense"))
    assert len(found) == 13 and sum(text.startswith("shared") for text in found) == 1
    verdict = docs.verify()
    assert verdict["ok"], verdict


def in_child(work: Callable[[], None]) -> int:
    """Exit code of a forked child: 0 if the work went well. A child that hangs is ended after a while."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    for _ in range(3000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of os.fork beside tantivy's threads: that is the test
class TestFork:
    def test_a_child_searches_and_syncs_what_its_parent_opened(self, directory: Place) -> None:
        docs = directory.open()
        docs.sync_all(documents(3))
        for mode in ("dense", "keyword", "hybrid"):
            docs.search("first", mode=mode)

        def work() -> None:
            for mode in ("dense", "keyword", "hybrid"):
                assert len(docs.search("first", limit=3, mode=mode)) == 3
            docs.sync("child", chunks("first of the child"))
            docs.delete("d0")
            assert docs.verify()["ok"]
            assert contents(docs.search("child", mode="keyword")) == ["first of the child"]

        for _ in range(2):
            assert in_child(work) == 0
            docs.sync("d0", chunks("d0 first", "d0 second"))
        assert contents(docs.search("child", mode="keyword")) == ["first of the child"]
        docs.sync("parent", chunks("first of the parent"))
        assert docs.count() == 8
        assert docs.verify()["ok"]

    def test_a_child_of_a_parent_that_had_many_threads(self, directory: Place) -> None:
        # They have ended: SQLite's own locks do not outlive a fork beside a thread that is inside SQLite.
        docs = directory.open()
        docs.sync_all(documents(3))

        def work() -> None:
            with beside(lambda: docs.search("first") and None, threads=3) as errors:
                docs.sync("child", chunks("of the child"))
            assert errors == []

        work()
        assert in_child(work) == 0
        work()
        assert docs.count() == 7 and docs.verify()["ok"]

    def test_locks_that_were_held_at_the_fork_do_not_hold_the_child(self, alone: Place) -> None:
        docs = alone.open()
        docs.sync_all(documents(3))
        docs.search("first")
        store, release, held = docs._parts.store, threading.Event(), threading.Event()

        def hold() -> None:
            with store._vectors._lock, store._keywords._lock, store.database._write_lock:  # type: ignore[attr-defined]
                held.set()
                release.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()

        def work() -> None:
            assert len(docs.search("first", limit=3, mode="keyword")) == 3
            docs.sync("child", chunks("of the child"))

        try:
            assert in_child(work) == 0
        finally:
            release.set()
            thread.join()
        assert docs.count() == 7

    def test_a_child_builds_what_its_parent_has_built(self, folder: Path) -> None:
        spec = GenerationSpec("sl_fork_1", 64, index=Hnsw(indexing_threshold=100, full_scan_threshold=0))
        store = EmbeddedStore(folder / "index")
        store.create(spec)
        vectors = np.random.default_rng(1).normal(size=(1_000, 64)).astype(np.float32)
        store.upsert(
            spec,
            [
                Point(point_id(str(i)), point_id(f"chunk {i}"), "d", None, f"text {i}", {}, vector)
                for i, vector in enumerate(vectors)
            ],
        )

        def work() -> None:
            assert store.repair(spec)[-1].startswith("vector index")
            found = store.search(spec, vectors[7], limit=3, scope=Scope(), params=SearchParams())
            assert found.plan.startswith("graph of 1000 rows") and found.items[0].point_id == point_id("7")

        work()
        assert in_child(work) == 0
        work()
        store.close()

    def test_closing_in_a_child_leaves_the_parent_alone(self, directory: Place) -> None:
        docs = directory.open()
        docs.sync("p", chunks("text"))
        assert in_child(docs.close) == 0
        docs.sync("q", chunks("more"))
        assert contents(docs.search("text")) == ["more", "text"]

    def test_a_child_with_its_own_owner_does_not_take_its_parents_work(self, directory: Place) -> None:
        docs = directory.open()
        owner = docs._parts.ledger.revisions.owner
        assert in_child(lambda: _differ(docs._parts.ledger.revisions.owner, owner)) == 0
        assert docs._parts.ledger.revisions.owner == owner


def _differ(one: str, other: str) -> None:
    assert one != other
