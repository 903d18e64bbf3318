"""Random histories against a plain dict: after every step, what is found is what was written, and nothing was paid twice."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from counting import unit
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from places import Place, place_of

from shelflist import Chunk, Document
from shelflist.core.errors import RemovalRefused

Row = tuple[str, int]
"""Text and page."""

NAMES = ("a", "b", "c", "d")
SOURCES = {"a": "left", "b": "left", "c": "right", "d": "right"}
ROWS = st.lists(st.tuples(st.sampled_from([f"word{i}" for i in range(6)]), st.integers(0, 2)), max_size=5)
QUICK = Path("/dev/shm")


def chunks(rows: list[Row]) -> list[Chunk]:
    return [Chunk(text, {"page": page}) for text, page in rows]


class Histories(RuleBasedStateMachine):
    """`model` holds what must be found; `hidden` the documents that were marked stale."""

    kind: str

    def make_place(self, folder: Path) -> Place:
        return place_of(self.kind, folder)

    @initialize()
    def start(self) -> None:
        quick = QUICK if os.access(QUICK, os.W_OK) else None
        self.folder = tempfile.TemporaryDirectory(prefix="shelflist-", dir=quick)
        self.place = self.make_place(Path(self.folder.name))
        self.docs = self.place.open(fields={"page": int})
        self.model: dict[str, list[Row]] = {}
        self.hidden: set[str] = set()
        self.allowed: Counter[str] = Counter()
        self.known: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.close()
            self.folder.cleanup()

    def pays(self, name: str, rows: list[Row], *, again: bool = False) -> None:
        """Texts that may be embedded once more from now on: new ones, and those of a marked document."""
        for text in {text for text, _ in rows}:
            if text not in self.known or again:
                self.allowed[text] += 1
                self.known.add(text)

    @rule(name=st.sampled_from(NAMES), rows=ROWS)
    def sync(self, name: str, rows: list[Row]) -> None:
        self.pays(name, rows, again=name in self.hidden)
        report = self.docs.sync(name, chunks(rows), source=SOURCES[name])
        assert report.failed == 0
        self.model[name] = rows
        self.hidden.discard(name)

    @rule(
        source=st.sampled_from(["left", "right"]),
        texts=st.lists(ROWS, min_size=2, max_size=2),
        missing=st.booleans(),
        skip=st.sets(st.integers(0, 1)),
    )
    def sync_all(self, source: str, texts: list[list[Row]], missing: bool, skip: set[int]) -> None:
        names = [name for name in NAMES if SOURCES[name] == source]
        coming = {name: rows for i, (name, rows) in enumerate(zip(names, texts, strict=True)) if i not in skip}
        stream = [Document(name, chunks(rows)) for name, rows in coming.items()]
        options: dict[str, Any] = {"source": source, "delete": "missing" if missing else None, "allow_removal": True}
        plan = self.docs.plan(stream, **options)
        for name, rows in coming.items():
            self.pays(name, rows, again=name in self.hidden)
        gone = [name for name in names if name in self.model and name not in coming] if missing else []
        before = len(self.place.embedder.texts)
        report = self.docs.sync_all(stream, **options)
        for name in (
            "added",
            "metadata_only",
            "moved",
            "removed",
            "unchanged",
            "embedded",
            "documents_removed",
            "documents_changed",
        ):
            assert getattr(plan, name) == getattr(report, name), name
        assert report.documents_removed == len(gone)
        assert report.embedded == len(self.place.embedder.texts) - before
        self.model.update(coming)
        self.hidden -= coming.keys()
        for name in gone:
            del self.model[name]
            self.hidden.discard(name)

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        assert self.docs.delete(name) == len(self.model.pop(name, []))
        self.hidden.discard(name)

    @rule(name=st.sampled_from(NAMES))
    def mark_stale(self, name: str) -> None:
        expected = 0 if name in self.hidden else len(self.model.get(name, []))
        assert self.docs.mark_stale(name) == expected
        if expected:
            self.hidden.add(name)

    @rule(name=st.sampled_from(NAMES))
    def sync_the_same_again(self, name: str) -> None:
        if name in self.model and name not in self.hidden:
            report = self.docs.sync(name, chunks(self.model[name]), source=SOURCES[name])
            assert (report.documents_unchanged, report.unchanged) == (1, len(self.model[name]))

    @rule()
    def refuse_to_remove_everything(self) -> None:
        left = [name for name in self.model if SOURCES[name] == "left"]
        if len(left) * 3 > len(self.model):
            try:
                self.docs.sync_all([], source="left", delete="missing")
            except RemovalRefused:
                return
            raise AssertionError("nothing was refused")

    @rule(at_once=st.booleans())
    def purge(self, at_once: bool) -> None:
        if at_once:  # as if the grace had passed
            with self.docs._parts.ledger.database.write() as tx:
                tx.execute("UPDATE sl_states SET purge_after = 0 WHERE purge_after IS NOT NULL")
        self.docs.purge()

    @rule()
    def repair(self) -> None:
        assert self.docs.repair()["restored"] == 0

    @rule()
    def lose_a_point_and_repair(self) -> None:
        parts = self.docs._parts
        stored = sorted(parts.store.scan(parts.spec))[:1]
        parts.store.delete(parts.spec, [point for point, _ in stored])
        for text in self.known if not self.place.apart else ():
            self.allowed[text] += 1  # the store's own rows were the cache
        self.docs.repair()

    @rule()
    def open_again(self) -> None:
        if self.kind != "memory":
            self.place.close()
            self.docs = self.place.open()

    @invariant()
    def what_is_found_is_what_was_written(self) -> None:
        if not hasattr(self, "docs"):
            return
        visible = Counter(
            (name, i, text, page)
            for name, rows in self.model.items()
            if name not in self.hidden
            for i, (text, page) in enumerate(rows)
        )
        number = sum(visible.values())
        for mode in ("dense", "keyword"):
            query = " ".join(f"word{i}" for i in range(6))
            hits = self.docs.search(query, limit=100, mode=mode)
            assert Counter((h.document_id, h.position, h.content, h.metadata["page"]) for h in hits) == visible
        assert self.docs.count() == number
        ones = Counter({row: count for row, count in visible.items() if row[3] == 1})
        hits = self.docs.search(unit("word1"), limit=100, where="page == 1")
        assert Counter((h.document_id, h.position, h.content, h.metadata["page"]) for h in hits) == ones
        assert self.docs.count("page == 1") == sum(ones.values())
        assert [row["document_id"] for row in self.docs.documents()] == sorted(self.model)

    @invariant()
    def the_ledger_and_the_store_agree(self) -> None:
        if hasattr(self, "docs"):
            verdict = self.docs.verify()
            assert verdict["ok"], verdict
            assert self.docs.status()["unfinished"] == 0

    @invariant()
    def nothing_was_paid_twice(self) -> None:
        if hasattr(self, "docs"):
            paid = Counter(self.place.embedder.texts)
            assert paid <= self.allowed, paid - self.allowed


class MemoryHistories(Histories):
    kind = "memory"


class FileHistories(Histories):
    kind = "file"


class ApartHistories(Histories):
    kind = "apart"


_SETTINGS = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
for _machine in (MemoryHistories, FileHistories, ApartHistories):
    _machine.TestCase.settings = _SETTINGS

TestMemory = MemoryHistories.TestCase
TestFile = FileHistories.TestCase
TestApart = ApartHistories.TestCase
