"""One directory, many processes: a writer and eight readers, a snapshot swapped beneath them, two writers.

The readers are processes of their own that open the collection once, keep it open, and answer what they are asked.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shelflist
from shelflist import Chunk, Collection, Document, Hnsw, SearchParams
from shelflist.core.errors import LedgerBusy
from shelflist.core.types import Vector

READERS = 8
DIMENSIONS = 32
FIRST = 400
"""Documents that are there from the beginning, above the threshold of the graph."""
QUERIES = range(0, FIRST, 40)
PATIENCE = 60.0


def opened(directory: Path, *, busy_timeout: float = 30.0) -> Collection:
    return shelflist.open(
        f"file:{directory}",
        "docs",
        embedder=None,
        fingerprint="test",
        dimensions=DIMENSIONS,
        index=Hnsw(indexing_threshold=200, full_scan_threshold=0),
        busy_timeout=busy_timeout,
    )


def near(number: int) -> Vector:
    """In clusters, on one side of the space."""
    centre = np.random.default_rng(number % 20).normal(size=DIMENSIONS)
    found = centre + 0.4 * np.random.default_rng(1_000 + number).normal(size=DIMENSIONS)
    found[0] = 8.0
    return found.astype(np.float32)


def far(number: int) -> Vector:
    """On the other side: near none of the others."""
    found = np.random.default_rng(50_000 + number).normal(size=DIMENSIONS)
    found[0] = -8.0
    return found.astype(np.float32)


def documents(numbers: range, vector: Any = near) -> list[Document]:
    return [Document(f"{vector.__name__}{i}", [Chunk(f"{vector.__name__} {i}", embedding=vector(i))]) for i in numbers]


def found_by(docs: Collection, query: Vector, *, exact: bool = False) -> list[str]:
    return [hit.document_id for hit in docs.search(query, limit=10, params=SearchParams(exact=exact))]


# A reader: what a process does that was told to.


def read(directory: Path, asked: Connection) -> None:
    with opened(directory) as docs:
        asked.send("open")
        while (question := asked.recv()) is not None:
            name, *arguments = question
            asked.send(QUESTIONS[name](docs, asked, *arguments))


def look(docs: Collection, _: Connection, query: Vector, words: str) -> dict[str, Any]:
    hits = docs.search(query, limit=3)
    return {
        "dense": [hit.document_id for hit in hits],
        "keyword": [hit.document_id for hit in docs.search(words, mode="keyword", limit=3)],
        "plan": hits.plan,
        "count": docs.count(),
    }


def look_at_one_moment(docs: Collection, asked: Connection) -> tuple[int, int, int]:
    """Documents at the beginning of a read transaction, at its end when the parent says so, and after it."""
    database = docs._parts.ledger.database
    with database.read():
        before = docs.count()
        asked.send("inside")
        asked.recv()
        return before, docs.count(), _outside(docs)


def _outside(docs: Collection) -> int:
    """What another thread of this process sees, which is in no transaction."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(docs.count).result()


def look_on(docs: Collection, asked: Connection, truth: dict[int, list[str]]) -> dict[str, Any]:
    """Search until the parent says that it is enough; what was wrong, and the share of the truth that was found."""
    wrong: list[str] = []
    shares: list[float] = []
    while not asked.poll():
        for number, wanted in truth.items():
            found = found_by(docs, near(number))
            shares.append(len(set(found) & set(wanted)) / len(wanted))
            if len(found) != 10 or found[0] != f"near{number}":
                wrong.append(f"{number}: {found}")
            exactly = found_by(docs, near(number), exact=True)
            if exactly != wanted:
                wrong.append(f"{number}, exactly: {exactly}")
    asked.recv()
    return {"wrong": wrong, "recall": float(np.mean(shares)), "searches": len(shares)}


QUESTIONS = {"look": look, "look at one moment": look_at_one_moment, "look on": look_on}


@dataclass(frozen=True)
class Readers:
    ends: Sequence[Connection]

    def tell(self, *question: Any) -> None:
        for end in self.ends:
            end.send(question)

    def answers(self) -> list[Any]:
        for end in self.ends:
            assert end.poll(PATIENCE), "a reader does not answer"
        return [end.recv() for end in self.ends]

    def ask(self, *question: Any) -> list[Any]:
        self.tell(*question)
        return self.answers()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("many") / "index"
    with opened(directory) as docs:
        docs.sync_all(documents(range(FIRST)))
    return directory


@pytest.fixture(scope="module")
def readers(index: Path) -> Iterator[Readers]:
    spawn = get_context("spawn")
    pairs = [spawn.Pipe() for _ in range(READERS)]
    processes = [spawn.Process(target=read, args=(index, theirs)) for _, theirs in pairs]
    for process, (_, theirs) in zip(processes, pairs, strict=True):
        process.start()
        theirs.close()  # so that the end of a reader is the end of its pipe
    found = Readers([ours for ours, _ in pairs])
    try:
        assert found.answers() == ["open"] * READERS
        yield found
        for end in found.ends:
            end.send(None)
        for process in processes:
            process.join(5)
        assert [process.exitcode for process in processes] == [0] * READERS
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


def test_eight_readers_and_a_writer(index: Path, readers: Readers) -> None:
    """What a writer has committed they find with their next query, and nothing that they do holds it up."""
    with opened(index, busy_timeout=5.0) as docs:
        others = docs.count()
        for number in range(5):
            docs.sync(f"new{number}", [Chunk(f"lantern number{number}", embedding=far(number))])
            if number:
                docs.delete(f"new{number - 1}")
            for seen in readers.ask("look", far(number), "lantern"):
                assert seen["dense"][0] == f"new{number}" and f"new{number - 1}" not in seen["dense"]
                assert seen["keyword"] == [f"new{number}"] and seen["count"] == others + 1
                assert seen["plan"].startswith("dense: graph of ")

        assert readers.ask("look at one moment") == ["inside"] * READERS
        for number in range(5, 15):
            docs.sync(f"new{number}", [Chunk(f"lantern number{number}", embedding=far(number))])
        assert docs.count() == others + 11
        readers.tell("go on")
        assert readers.answers() == [(others + 1, others + 1, others + 11)] * READERS
        assert docs.verify()["ok"]


def test_a_snapshot_is_swapped_beneath_eight_readers(
    index: Path, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times, while they search; each uses the new one at its next query, and is right before, after and meanwhile."""
    monkeypatch.setattr("shelflist.stores._compaction._NEWER", 50)
    with opened(index, busy_timeout=5.0) as docs:
        truth = {number: found_by(docs, near(number), exact=True) for number in QUERIES}
        readers.tell("look on", truth)
        for start in range(1_000, 1_300, 100):
            docs.sync_all(documents(range(start, start + 100), far))
            docs._parts.store._vectors.wait()
        readers.tell("enough")
        for seen in readers.answers():
            assert seen["wrong"] == [] and seen["recall"] >= 0.95 and seen["searches"] >= len(truth)
        for seen in readers.ask("look", near(3), "near"):
            assert seen["plan"].startswith(f"dense: graph of {docs.count()} rows") and "newer" not in seen["plan"]
        assert docs.verify()["ok"]


# Two writers: that they take turns is in test_bad_days.py, test_two_processes_sync_at_once.


def hold(database: Path, asked: Connection) -> None:
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    asked.send(os.getpid())
    asked.recv()


def test_a_writer_that_waits_too_long_names_the_process_that_writes(index: Path) -> None:
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    holder = spawn.Process(target=hold, args=(index / "shelflist.db", theirs))
    holder.start()
    assert ours.poll(PATIENCE)
    pid = ours.recv()
    with opened(index, busy_timeout=0.2) as docs:
        with pytest.raises(LedgerBusy) as refused:
            docs.sync("new", [Chunk("new", embedding=far(1))])
        holder_named = f"Another process ({pid})" if Path("/proc/locks").exists() else "Another process"
        assert str(refused.value).startswith(f"{holder_named} has been writing to {index}")
        assert "then run this again" in str(refused.value)
        assert found_by(docs, near(3))[0] == "near3"
        ours.send("let go")
        holder.join(PATIENCE)
        assert docs.sync("new", [Chunk("new", embedding=far(1))]).added == 1
