"""Processes that are killed while they write, and the oracle that knows what may be left.

A `Trial` forks children of one warm process. A child opens the index anew, works through a list of operations, and writes
a line to a log after each that returned: what the log holds was acknowledged. It is killed with SIGKILL, half of the times
after a random delay and half of the times before its n-th SQL statement. Then another child opens what is left and reports
what it finds, and the oracle compares. Used by test_kill.py and bench/kill.py; test_copy_kill.py kills by statements too.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import shelflist
from shelflist import Chunk, Document, F
from shelflist.indexing import handover
from shelflist.indexing.embedding import VectorSource

COLLECTION = "crash"
SOURCE = "pages"
FIELDS = {"page": str, "n": int}
NAMES = [f"page-{number:02}" for number in range(12)]
WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "islet",
    "jetty",
    "knoll",
    "ledge",
    "marsh",
    "north",
    "orbit",
    "plain",
    "quartz",
    "ridge",
]
DIMENSIONS = 24

Piece = tuple[str, int]
"""A chunk as the oracle knows it: its text and the metadata value `n`."""
Pages = tuple[Piece, ...]
"""A document's chunks in order. No chunks: the document is not there."""
Operation = dict[str, Any]


class CrashError(AssertionError):
    """A promise was broken; the message holds what reproduces it."""


class ToyEmbedder:
    """A bag of words hashed to a few dimensions; calls `paid` with the texts of every batch that it embeds."""

    spec = "custom:toy"
    fingerprint = f"toy-{DIMENSIONS}"
    dimensions = DIMENSIONS
    max_tokens = None
    fusion_alpha = 0.5

    def __init__(self, paid: Callable[[Sequence[str]], None]) -> None:
        self._paid = paid

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self._paid(texts)
        return np.stack([self.embed_query(text) for text in texts])

    def embed_query(self, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        vector = np.full(DIMENSIONS, 0.01, dtype=np.float32)
        for word in text.split():
            digest = hashlib.sha256(word.encode()).digest()
            vector[digest[0] % DIMENSIONS] += 1.0 if digest[1] % 2 else -1.0
        return vector / np.linalg.norm(vector)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


@dataclass
class Trial:
    """One index that is hurt again and again.

    `permitted` holds, for each document, the revisions that searches may see, in the order in which they were asked for:
    one that was acknowledged, and after it those that were under way when a process died. `paid` holds the texts that must
    not be embedded again: they were acknowledged, or their vectors were saved.
    """

    directory: Path
    seed: int
    separate_ledger: bool = False
    kills: int = 0
    finished: int = 0
    embedded: int = 0
    permitted: dict[str, list[Pages]] = field(default_factory=dict)
    paid: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._wanted: dict[str, Pages] = dict.fromkeys(NAMES, ())
        self.permitted = {name: [()] for name in NAMES}
        self._seconds = 0.3
        self._statements = 200.0
        self._round = 0
        self._texts: list[str] = []

    def run(self, kills: int) -> None:
        """Kill children until `kills` of them died at work; raises CrashError at the first broken promise."""
        wanted = self.kills + kills
        while self.kills < wanted:
            self._round += 1
            self._hurt(self._operations())
            self._inspect()
            if self._rng.random() < 0.5:
                self._finish()
        self._finish()

    # What is done.

    def _operations(self) -> list[Operation]:
        """A few operations that touch each document at most once."""
        names = self._rng.sample(NAMES, len(NAMES))
        operations: list[Operation] = []
        if self._rng.random() < 0.35:
            changed = names[: self._rng.randint(1, 6)]
            for name in changed:
                self._wanted[name] = self._edited(self._wanted[name])
            missing = self._rng.random() < 0.5
            ids = sorted(NAMES) if missing else sorted(changed)
            pages = {name: self._wanted[name] for name in ids if self._wanted[name]}
            operations.append(
                {"kind": "sync_all", "pages": pages, "missing": missing, "touched": ids if missing else list(pages)}
            )
            gone = [] if missing else [name for name in changed if not self._wanted[name]]
            operations += [{"kind": "delete", "name": name, "touched": [name]} for name in gone]
            return operations
        for name in names[: self._rng.randint(2, 6)]:
            pages = self._wanted[name] = self._edited(self._wanted[name])
            kind = "sync" if pages else "delete"
            operations.append({"kind": kind, "name": name, "pages": pages, "touched": [name]})
        return operations

    def _edited(self, pages: Pages) -> Pages:
        """Another version: something inserted, dropped, moved, rewritten, doubled, or with other metadata; or all gone."""
        pieces = list(pages)
        if pieces and self._rng.random() < 0.1:
            return ()
        for _ in range(self._rng.randint(1, 3)):
            place = self._rng.randint(0, len(pieces))
            way = self._rng.choice(("insert", "insert", "drop", "move", "rewrite", "double", "metadata"))
            if way == "insert" or not pieces:
                pieces.insert(place, (self._text(), 0))
                continue
            place = min(place, len(pieces) - 1)
            if way == "drop" and len(pieces) > 1:
                del pieces[place]
            elif way == "move":
                pieces.insert(self._rng.randint(0, len(pieces) - 1), pieces.pop(place))
            elif way == "rewrite":
                pieces[place] = (self._text(), pieces[place][1])
            elif way == "double":
                pieces.insert(place, pieces[place])
            elif way == "metadata":
                pieces[place] = (pieces[place][0], pieces[place][1] + 1)
        return tuple(pieces[:8])

    def _text(self) -> str:
        """Mostly new words; sometimes a text that some document has or had, to meet caches and condemned points."""
        if self._texts and self._rng.random() < 0.25:
            return self._rng.choice(self._texts)
        text = " ".join(self._rng.choices(WORDS, k=6)) + f" {self._rng.randrange(10**9)}"
        self._texts.append(text)
        return text

    # Children.

    def _hurt(self, operations: list[Operation]) -> None:
        """Let a child do the operations and kill it on the way; some get away."""
        by_statement = self._rng.random() < 0.5
        statement = self._rng.randint(1, max(2, int(self._statements * 1.1))) if by_statement else None
        delay = self._rng.uniform(0.0, self._seconds * 1.1)
        for operation in operations:
            for name in operation["touched"]:
                new = tuple(operation["pages"].get(name, ())) if operation["kind"] == "sync_all" else self._wanted[name]
                self.permitted[name].append(new)
        started = time.monotonic()
        pid, log = self._fork(lambda out: _work(self._job(), operations, statement, out))
        if by_statement:
            _, status = os.waitpid(pid, 0)
        else:
            status = _kill_after(pid, delay)
        events = self._events(log)
        if os.WIFSIGNALED(status):
            self.kills += 1
        else:
            self.finished += 1
            self._seconds = 0.7 * self._seconds + 0.3 * (time.monotonic() - started)
        for event in events:
            if event["kind"] == "ack":
                operation = operations[event["operation"]]
                for name in operation["touched"]:
                    self.permitted[name] = self.permitted[name][-1:]
                    self.paid.update(text for text, _ in self.permitted[name][0])
            elif event["kind"] == "done":
                self._statements = 0.7 * self._statements + 0.3 * event["statements"]

    def _inspect(self) -> None:
        """Open what is left, and compare it with what may be there."""
        pid, log = self._fork(lambda out: _look(self._job(), out))
        os.waitpid(pid, 0)
        seen = next((event for event in self._events(log) if event["kind"] == "seen"), None)
        if seen is None:
            self._broken("The index could not be inspected.")
        found = {name: tuple((text, n) for text, n in pages) for name, pages in seen["pages"].items()}
        self._compare(found)
        self._consistent(seen, found)

    def _finish(self) -> None:
        """The next sync brings everything to what was asked for last; the one after it does nothing."""
        pid, log = self._fork(lambda out: _complete(self._job(), self._wanted, out))
        os.waitpid(pid, 0)
        seen = next((event for event in self._events(log) if event["kind"] == "seen"), None)
        if seen is None:
            self._broken("The next sync did not finish the work.")
        found = {name: tuple((text, n) for text, n in pages) for name, pages in seen["pages"].items()}
        wanted = {name: pages for name, pages in self._wanted.items() if pages}
        if found != wanted:
            self._broken(f"The next sync left {_difference(found, wanted)}.")
        self.permitted = {name: [self._wanted[name]] for name in NAMES}
        self.paid.update(text for pages in wanted.values() for text, _ in pages)
        self._consistent(seen, found)
        idle = {name: seen["again"][name] for name in ("embedded", "added", "removed", "documents_changed", "failed")}
        if any(idle.values()):
            self._broken(f"A second identical sync was not idle: {idle}.")

    def _job(self) -> dict[str, Any]:
        ledger = f"sqlite:{self.directory / 'ledger.db'}" if self.separate_ledger else None
        return {"url": f"file:{self.directory / 'index'}", "ledger": ledger, "small": self._round % 2 == 1}

    def _fork(self, work: Callable[[int], None]) -> tuple[int, Path]:
        log = self.directory / "log.jsonl"
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work(out)
                status = 0
            except BaseException:
                _say(out, kind="error", text=traceback.format_exc())
            finally:
                os._exit(status)
        os.close(out)
        return pid, log

    # The oracle.

    def _events(self, log: Path) -> list[dict[str, Any]]:
        """What the child said, in order; a last line that the kill cut off does not count."""
        events = [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]
        for event in events:
            if event["kind"] == "error":
                self._broken(f"A process failed:\n{event['text']}")
            if event["kind"] == "saved":
                self.paid.update(event["texts"])
            if event["kind"] == "embed":
                self.embedded += len(event["texts"])
                again = self.paid.intersection(event["texts"])
                if again:
                    self._broken(f"Embedded again although acknowledged or saved before: {sorted(again)[:3]}.")
        return events

    def _compare(self, found: dict[str, Pages]) -> None:
        for name, permitted in self.permitted.items():
            pages = found.get(name, ())
            if pages not in permitted:
                self._broken(
                    f"{name} is in none of the {len(permitted)} revisions that it may be in.\n  found: {pages}\n"
                    + "\n".join(f"  may be: {one}" for one in permitted)
                )
            self.permitted[name] = permitted[permitted.index(pages) :]
        strangers = set(found) - set(NAMES)
        if strangers:
            self._broken(f"Documents that nobody wrote: {sorted(strangers)}.")

    def _consistent(self, seen: dict[str, Any], found: dict[str, Pages]) -> None:
        """All ways of asking tell of the same chunks, each once."""
        pieces = Counter((name, text, n) for name, pages in found.items() for text, n in pages)
        for way, answer in seen["searches"].items():
            got = Counter(tuple(one) for one in answer)
            if got != pieces:
                self._broken(f"{way} search and the ledger differ: {_difference(got, pieces)}.")
        if seen["count"] != pieces.total():
            self._broken(f"count() says {seen['count']}, the documents have {pieces.total()} chunks.")
        if len(seen["chunk_ids"]) != len(set(seen["chunk_ids"])):
            self._broken("A chunk id comes twice.")
        if not seen["verify"]["ok"] or seen["verify"]["missing"] or seen["verify"]["ghosts"]:
            self._broken(f"verify: {seen['verify']}.")

    def _broken(self, text: str) -> Any:
        raise CrashError(
            f"{text}\nseed {self.seed}, round {self._round}, {self.kills} kills, "
            f"{'separate ledger' if self.separate_ledger else 'one database'}, index left in {self.directory}"
        )


def _work(job: dict[str, Any], operations: list[Operation], statement: int | None, out: int) -> None:
    """The child that is killed: does the operations and says so after each."""
    counted = count_statements(statement)
    _say_what_is_saved(out)
    if job.get("small"):  # then a pass is several batches, each written while the next is planned
        handover._DOCUMENTS_PER_WRITE = 2
    with _open(job, out) as collection:
        for number, operation in enumerate(operations):
            if operation["kind"] == "sync":
                collection.sync(operation["name"], _chunks(operation["name"], operation["pages"]), source=SOURCE)
            elif operation["kind"] == "delete":
                collection.delete(operation["name"])
            else:
                collection.sync_all(
                    _documents(operation["pages"]),
                    source=SOURCE,
                    delete="missing" if operation["missing"] else None,
                    allow_removal=True,
                )
            _say(out, kind="ack", operation=number)
    _say(out, kind="done", statements=counted[0])


def _say_what_is_saved(out: int) -> None:
    """Have this process log the texts whose vectors are in the cache for good, long before their chunks are acknowledged."""
    embed_own = VectorSource._embed_own

    def saying(self: VectorSource, missing: Sequence[bytes], texts: dict[bytes, str], *others: Any) -> list[bytes]:
        elsewhere = embed_own(self, missing, texts, *others)
        _say(out, kind="saved", texts=[texts[one] for one in missing if one not in elsewhere])
        return elsewhere

    VectorSource._embed_own = saying  # type: ignore[method-assign]


def _look(job: dict[str, Any], out: int) -> None:
    with _open(job, out) as collection:
        _say(out, kind="seen", **_seen(collection))


def _complete(job: dict[str, Any], wanted: dict[str, Pages], out: int) -> None:
    documents = _documents({name: pages for name, pages in wanted.items() if pages})
    with _open(job, out) as collection:
        collection.sync_all(documents, source=SOURCE, delete="missing", allow_removal=True)
        again = collection.sync_all(documents, source=SOURCE, delete="missing", allow_removal=True)
        _say(out, kind="seen", again=again.to_dict(), **_seen(collection))


def _seen(collection: shelflist.Collection) -> dict[str, Any]:
    """Everything that the index tells about itself, asked in several ways."""
    pages: dict[str, list[Piece]] = {}
    chunk_ids: list[str] = []
    for document in collection.documents():
        # `show` tells of pending and condemned chunks too; what is served is what is indexed.
        shown = [
            chunk for chunk in collection.show(document["document_id"])["chunks"] if chunk["index_status"] == "indexed"
        ]
        pages[document["document_id"]] = [(chunk["content"], chunk["metadata"]["n"]) for chunk in shown]
        chunk_ids += [chunk["chunk_id"] for chunk in shown]
    everything = len(chunk_ids) + 20
    searches = {
        mode: [
            (hit.document_id, hit.content, hit.metadata["n"])
            for hit in collection.search(" ".join(WORDS), mode=mode, limit=everything)
        ]
        for mode in ("dense", "keyword", "hybrid")
    }
    for way in ("dense", "keyword"):
        searches[f"filtered {way}"] = [
            (hit.document_id, hit.content, hit.metadata["n"])
            for name in pages
            for hit in collection.search(" ".join(WORDS), mode=way, where=F("page") == name, limit=everything)
        ]
    return {
        "pages": pages,
        "chunk_ids": chunk_ids,
        "searches": searches,
        "count": collection.count(),
        "verify": collection.verify(),
    }


def _open(job: dict[str, Any], out: int) -> shelflist.Collection:
    embedder = ToyEmbedder(lambda texts: _say(out, kind="embed", texts=list(texts)))
    return shelflist.open(job["url"], COLLECTION, embedder=embedder, fields=FIELDS, ledger=job["ledger"])


def _documents(pages: dict[str, Pages]) -> list[Document]:
    return [Document(name, chunks=_chunks(name, one)) for name, one in pages.items()]


def _chunks(name: str, pages: Pages) -> list[Chunk]:
    return [Chunk(content=text, metadata={"page": name, "n": n}) for text, n in pages]


def _say(out: int, **event: Any) -> None:
    os.write(out, json.dumps(event).encode() + b"\n")


def count_statements(fatal: int | None) -> list[int]:
    """Counts the SQL statements of this process, and kills it before the one with the number `fatal`."""
    counted = [0]
    connect = sqlite3.connect

    def count(_statement: str) -> None:
        counted[0] += 1
        if counted[0] == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(count)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]
    return counted


def _kill_after(pid: int, delay: float) -> int:
    """Wait for a process for `delay` seconds, then kill it; returns its wait status."""
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(min(0.001, max(0.0, deadline - time.monotonic())))
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, Counter):
        return f"too many {list((found - wanted).items())[:4]}, too few {list((wanted - found).items())[:4]}"
    names = [name for name in sorted(set(found) | set(wanted)) if found.get(name) != wanted.get(name)]
    return "; ".join(f"{name}: {found.get(name)} instead of {wanted.get(name)}" for name in names[:3])
