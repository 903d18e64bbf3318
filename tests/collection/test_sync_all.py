"""Streams of documents: sources and their scope of removal, plans, laziness, interruption."""

from __future__ import annotations

import gc
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from counting import chunks, contents, counts, document, documents
from places import Place

from shelflist import Chunk, Collection, Document, Folder, Parquet, Progress
from shelflist.core.errors import InvalidInput, RemovalRefused, SourceConflict, UnreadableSource
from shelflist.indexing.protocol import KnownDigests, Source, Unchanged, Unreadable


@dataclass
class Listed:
    """A source that yields what it is told."""

    items: list[Document | Unchanged | Unreadable]
    name: str = "listed"
    asked: dict[str, bytes | None] = field(default_factory=dict)

    def documents(self, known: KnownDigests) -> Iterator[Document | Unchanged | Unreadable]:
        for item in self.items:
            self.asked[item.document_id] = known.get(item.document_id)
            yield item

    def total(self) -> int | None:
        return len(self.items)


def there(collection: Collection) -> list[str]:
    return [row["document_id"] for row in collection.documents()]


def everything(collection: Collection) -> list[str]:
    return contents(collection.search("x", limit=1000, mode="dense"))


def test_a_pass_counts_documents_and_chunks(place: Place) -> None:
    docs = place.open()
    report = docs.sync_all(documents(5))
    assert counts(report, "documents_added", "added", "embedded", "unchanged") == (5, 10, 10, 0)
    changed = [*documents(4), document("d4", "d4 first", "edited"), document("d5", "new")]
    report = docs.sync_all(changed)
    names = ("documents_added", "documents_changed", "documents_unchanged", "added", "removed", "unchanged", "embedded")
    assert counts(report, *names) == (1, 1, 4, 2, 1, 9, 2)
    assert len(everything(docs)) == 11
    assert docs.verify()["ok"]


def test_a_second_pass_writes_nothing_at_all(directory: Place) -> None:
    docs = directory.open()
    docs.sync_all(documents(8), source="s", delete="missing")
    watchers = [sqlite3.connect(file) for file in directory.databases()]

    def versions() -> list[int]:
        return [watcher.execute("PRAGMA data_version").fetchone()[0] for watcher in watchers]

    before = versions()
    report = docs.sync_all(documents(8), source="s", delete="missing")
    assert counts(report, "documents_unchanged", "unchanged", "embedded") == (8, 16, 0)
    assert versions() == before
    docs.sync_all(documents(9), source="s")
    assert versions() != before
    for watcher in watchers:
        watcher.close()


class TestSources:
    def test_a_document_of_another_source_is_refused_naming_it(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("mine"), source="wiki")
        with pytest.raises(SourceConflict, match="'wiki'"):
            docs.sync("p", chunks("theirs"), source="blog")
        report = docs.sync_all([document("p", "theirs"), document("q", "fine")], source="blog")
        assert [failure.document_id for failure in report.failures] == ["p"]
        assert "'wiki'" in report.failures[0].error
        assert everything(docs) == ["fine", "mine"]
        assert docs.sync("p", chunks("edited"), source="wiki").failed == 0

    @pytest.mark.parametrize("prefix", ["", "handbook/"])
    def test_a_folder_inside_another_source_is_warned_of(self, place: Place, tmp_path: Path, prefix: str) -> None:
        for name in ("docs/top.md", "docs/guide/a.md", "docs/guide/b.md", "docs-2/c.md", "other/guide/a.md"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"# {name}")
        docs = place.open()

        def synced(folder: str, **options: Any) -> list[str]:
            source = Folder(tmp_path / folder, name=f"folder:{folder}", **options)
            report = docs.sync_all(source, delete="missing", allow_removal=True)
            assert report.failures == []
            return report.warnings

        assert synced("docs-2") == synced("other", prefix="other/") == []
        assert synced("docs/guide", prefix=prefix) == []
        (warning,) = synced("docs")
        assert f"2 files are in the collection twice, such as {prefix}a.md" in warning
        assert "of the source folder:docs/guide, and, below guide/, of folder:docs." in warning
        ids = {one["document_id"]: one["source"] for one in docs.documents()}
        twice = {f"{prefix}a.md", f"{prefix}b.md", "guide/a.md", "guide/b.md"}
        assert twice <= set(ids) and ids["guide/a.md"] == "folder:docs" and ids[f"{prefix}b.md"] == "folder:docs/guide"
        assert synced("docs/guide", prefix=prefix) == [warning]
        assert synced("docs", exclude="/guide") == [] and synced("docs/guide", prefix=prefix) == []
        assert "guide/a.md" not in {one["document_id"] for one in docs.documents() if one["source"] == "folder:docs"}

    def test_a_deleted_document_may_come_back_from_another_source(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("mine"), source="wiki")
        docs.delete("p")
        docs.sync("p", chunks("theirs"), source="blog")
        assert docs.show("p")["source"] == "blog"

    def test_missing_documents_of_the_same_source_go_and_no_others(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(6, "a"), source="a")
        docs.sync_all(documents(6, "b"), source="b")
        report = docs.sync_all(documents(4, "a"), source="a", delete="missing")
        assert counts(report, "documents_removed", "removed", "documents_unchanged") == (2, 4, 4)
        assert there(docs) == [*(f"a{i}" for i in range(4)), *(f"b{i}" for i in range(6))]
        assert docs.count() == 20 and len(everything(docs)) == 20
        assert docs.sync_all(documents(3, "a"), source="a").documents_removed == 0

    def test_missing_needs_a_name_for_iterables_and_not_for_sources(self, place: Place) -> None:
        docs = place.open()
        with pytest.raises(InvalidInput, match="source"):
            docs.sync_all(documents(3), delete="missing")
        with pytest.raises(InvalidInput, match="all"):
            docs.sync_all(documents(3), source="s", delete="all")  # type: ignore[arg-type]
        assert there(docs) == []
        listed = Listed([*documents(4)])
        assert isinstance(listed, Source)
        docs.sync_all(listed, delete="missing")
        assert {row["source"] for row in docs.documents()} == {"listed"}
        assert docs.sync_all(Listed([*documents(3)]), delete="missing").documents_removed == 1

    def test_removal_and_return_embed_nothing_twice(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(6), source="s")
        place.embedder.take()
        docs.sync_all(documents(5), source="s", delete="missing")
        docs.purge()
        report = docs.sync_all(documents(6), source="s")
        assert counts(report, "documents_added", "added", "embedded", "cached") == (1, 2, 0, 2)
        assert place.embedder.take() == []
        assert docs.verify()["ok"]

    def test_unchanged_and_unreadable_count_as_present(self, place: Place) -> None:
        docs = place.open()
        items: list[Document] = [*documents(5), document("sub/a", "deep"), document("sub/b", "deeper")]
        docs.sync_all(Listed([*items]))
        report = docs.sync_all(
            Listed(
                [
                    Unchanged("d0"),
                    Unreadable("d1", "d1 is locked"),
                    Unreadable("sub/", "sub cannot be listed", prefix=True),
                    items[2],
                    items[3],
                ]
            ),
            delete="missing",
        )
        assert counts(report, "documents_removed", "documents_failed", "documents_unchanged") == (1, 2, 3)
        assert [failure.error for failure in report.failures] == ["d1 is locked", "sub cannot be listed"]
        assert there(docs) == ["d0", "d1", "d2", "d3", "sub/a", "sub/b"]

    def test_a_failed_document_is_not_removed(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(6), source="s")
        place.embedder.failing = {"bad"}
        broken = [*documents(4), document("d4", "bad"), document("d5", "  ")]
        report = docs.sync_all(broken, source="s", delete="missing")
        assert counts(report, "documents_failed", "documents_removed", "failed") == (2, 0, 2)
        assert len(everything(docs)) == 12

    def test_known_digests_reach_the_source(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(Listed([Document("p", chunks("text"), source_digest=b"raw 1"), document("q", "other")]))
        listed = Listed([Unchanged("p"), document("q", "other"), document("new", "n")])
        docs.sync_all(listed)
        assert listed.asked == {"p": b"raw 1", "q": None, "new": None}
        docs.sync_all(Listed([Document("p", chunks("text"), source_digest=b"raw 2")]))
        listed = Listed([Unchanged("p")])
        docs.sync_all(listed)
        assert listed.asked == {"p": b"raw 2"}
        docs.mark_stale("p")
        listed = Listed([Document("p", chunks("text"), source_digest=b"raw 2")])
        docs.sync_all(listed)
        assert listed.asked == {"p": None}, "a marked document has to be read again"
        assert contents(docs.search("text", mode="keyword")) == ["text"]

    @pytest.mark.parametrize("same", [True, False])
    @pytest.mark.parametrize("known", [True, False])
    def test_a_document_id_twice_in_one_pass_is_named(self, place: Place, same: bool, known: bool) -> None:
        docs = place.open()
        if known:
            docs.sync_all([document("p", "first"), document("q", "other")])
        twice = [document("p", "first"), document("q", "other"), document("p", "first" if same else "second")]
        report = docs.sync_all(twice)
        assert [failure.document_id for failure in report.failures] == ["p"]
        assert "twice" in report.failures[0].error
        assert everything(docs) == ["first", "other"]
        assert docs.sync_all(twice[:2]).failed == 0


def test_chunks_may_be_whatever_can_be_read(place: Place) -> None:
    docs = place.open()
    stream = [
        Document("made", (one for one in chunks("first", "second"))),  # type: ignore[arg-type]
        Document("none", None),  # type: ignore[arg-type]
        Document("text", "text"),  # type: ignore[arg-type]
        Document("last", chunks("last")),
    ]
    for report in (docs.plan(stream[1:]), docs.sync_all(stream)):
        assert [failure.document_id for failure in report.failures] == ["none", "text"]
        assert all("Give a list of Chunk" in failure.error for failure in report.failures)
    assert everything(docs) == ["first", "last", "second"]


def test_memory_is_bounded_by_text_not_only_by_number(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shelflist.indexing.sync._CHARACTERS_PER_BATCH", 10_000)
    docs = place.open()
    alive: WeakSet[Any] = WeakSet()
    most = 0

    class Watched(list[Chunk]):
        """A list that can be weakly referenced."""

        __hash__ = object.__hash__

    def stream() -> Iterator[Document]:
        nonlocal most
        for number in range(20):
            gc.collect(1)  # not the oldest generation: all that is counted here is young
            most = max(most, len(alive))
            large = Watched(chunks(f"{number} " + "long " * 1_000))
            alive.add(large)
            yield Document(f"d{number}", large)
            del large

    docs.plan(stream())
    assert 0 < most < 10


def test_what_came_before_a_source_broke_off_is_kept(place: Place) -> None:
    docs = place.open()
    docs.sync_all(documents(3), source="listed")

    @dataclass
    class Broken(Listed):
        def documents(self, known: KnownDigests) -> Iterator[Document | Unchanged | Unreadable]:
            yield from super().documents(known)
            raise UnreadableSource("rows.jsonl, line 3: embedding must be a list of numbers.")

    source = Broken([document("new", "new"), document("d0", "edited")])
    with pytest.raises(UnreadableSource, match=r"line 3.* 2 documents before it were synced\.$"):
        docs.sync_all(source, delete="missing")
    assert there(docs) == ["d0", "d1", "d2", "new"], "and nothing counts as missing"
    assert {"new", "edited"} < set(everything(docs))
    with pytest.raises(UnreadableSource, match=r"numbers\.$"):
        docs.plan(source, delete="missing")
    assert docs.verify()["ok"]


class TestRefusal:
    def test_more_than_a_third_is_refused_and_said(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(9), source="s")
        with pytest.raises(RemovalRefused, match="4 of 9"):
            docs.sync_all([*documents(5), document("new", "kept all the same")], source="s", delete="missing")
        assert len(there(docs)) == 10, "what was added is kept, nothing was deleted"
        report = docs.sync_all(documents(5), source="s", delete="missing", allow_removal=True)
        assert report.documents_removed == 5
        assert len(there(docs)) == 5

    @pytest.mark.parametrize("ending", ["removal", "unreadable"])
    def test_what_failed_before_the_end_is_in_the_error_and_in_the_ledger(self, directory: Place, ending: str) -> None:
        docs = directory.open()
        docs.sync_all(documents(9), source="s")
        passed = [document("bad", " "), document("new", "added")]

        def stream() -> Iterator[Document]:
            yield from passed
            if ending == "unreadable":
                raise UnreadableSource("the wiki closed the connection")

        kind = {"removal": RemovalRefused, "unreadable": UnreadableSource}[ending]
        events = "SELECT detail FROM sl_events WHERE kind = 'synced' ORDER BY event_id"
        for ask in (docs.plan, docs.sync_all):
            before = len(directory.sql(events, ledger=True))
            with pytest.raises(kind) as ended:
                ask(stream(), source="s", delete="missing")
            assert ended.value.report is not None
            assert [(one.document_id, one.position) for one in ended.value.report.failures] == [("bad", 0)]
            assert ended.value.report.documents_added == 1
            assert len(directory.sql(events, ledger=True)) == before + (ask == docs.sync_all)
        detail = json.loads(directory.sql(events, ledger=True)[-1][0])
        assert [one["document_id"] for one in detail["failures"]] == ["bad"]
        assert detail["error"] == str(ended.value) and detail["documents_added"] == 1
        docs.sync_all([document("another", "text")], source="s")
        assert "error" not in json.loads(directory.sql(events, ledger=True)[-1][0])

    def test_a_third_is_not_more_than_a_third(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(9), source="s")
        assert docs.sync_all(documents(6), source="s", delete="missing").documents_removed == 3

    def test_the_share_is_of_the_whole_collection(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(4, "a"), source="a")
        docs.sync_all(documents(20, "b"), source="b")
        assert (
            docs.sync_all([document("a0", "a0 first", "a0 second")], source="a", delete="missing").documents_removed
            == 3
        )

    def test_an_empty_stream_is_refused(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(3), source="s")
        with pytest.raises(RemovalRefused):
            docs.sync_all([], source="s", delete="missing")
        assert len(there(docs)) == 3

    def test_it_is_chunks_that_are_searched(self, place: Place) -> None:
        docs = place.open()
        large = document("large", *(f"part {number}" for number in range(30)))
        docs.sync_all([large, *documents(4)], source="s")
        for ask in (docs.plan, docs.sync_all):
            with pytest.raises(RemovalRefused, match="1 of 5 documents of 'docs' \\(large\\), 30 of 38 chunks"):
                ask([*documents(4), document("new", "added")], source="s", delete="missing")
        assert len(there(docs)) == 6 and docs.count() == 39
        small = document("small", "one")
        docs.sync_all([large, *documents(4), small], source="s", delete="missing")
        assert docs.sync_all([large, *documents(4)], source="s", delete="missing").documents_removed == 1

    def test_documents_that_became_empty_count_as_well(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(9), source="s")
        emptied = [Document(f"d{number}", []) for number in range(9)]
        for options in ({}, {"delete": "missing"}):
            for ask in (docs.plan, docs.sync_all):
                with pytest.raises(RemovalRefused, match="9 of 9"):
                    ask(emptied, source="s", **options)
            with pytest.raises(RemovalRefused, match="4 of 9"):
                docs.sync_all([*emptied[:2], *documents(7)[2:]], source="s", delete="missing")
        assert docs.count() == 18
        report = docs.sync_all([*emptied[:3], *documents(9)[3:]], source="s")
        assert counts(report, "removed", "documents_changed") == (6, 3) and docs.count() == 12
        docs.sync("d8", [], source="s")  # one that is named is meant
        docs.sync_all(emptied, source="s", allow_removal=True)
        assert docs.count() == 0 and docs.verify()["ok"]

    def test_a_plan_refuses_too(self, place: Place) -> None:
        docs = place.open()
        docs.sync_all(documents(9), source="s")
        with pytest.raises(RemovalRefused):
            docs.plan(documents(2), source="s", delete="missing")
        assert docs.plan(documents(2), source="s", delete="missing", allow_removal=True).documents_removed == 7
        assert len(there(docs)) == 9


class TestPlan:
    def test_it_counts_what_a_switch_without_the_failed_would_write(self, place: Place) -> None:
        docs = place.open()
        stream = [document("half", "good", " "), document("whole", "fine")]
        planned = docs.plan(stream, on_failed="switch_without")
        assert counts(docs.plan(stream), "added", "documents_failed") == (1, 1)
        done = docs.sync_all(stream, on_failed="switch_without")
        assert counts(planned, "added", "documents_failed") == counts(done, "added", "documents_failed") == (2, 0)

    NAMES = (
        "added",
        "metadata_only",
        "moved",
        "removed",
        "unchanged",
        "embedded",
        "cached",
        "documents_added",
        "documents_changed",
        "documents_unchanged",
        "documents_removed",
        "documents_superseded",
        "documents_failed",
        "failed",
    )

    def test_the_plan_of_a_mixed_pass_is_what_happens(self, place: Place) -> None:
        docs = place.open(fields={"n": int})
        docs.sync_all(documents(9), source="s")
        docs.sync("old", chunks("old text", "older"), source="s")
        docs.sync("else", chunks("not ours"), source="t")
        docs.sync("fenced", chunks("fenced"), source="s", revision=7)
        docs.delete("d8")
        docs.sync_all([document("x", "d0 first")], source="u")
        stream = [
            *documents(3),
            document("d3", "d3 second", "d3 first"),
            document("d4", "d4 first"),
            document("d5", "d5 first", "d5 second", "d5 third", "d5 third"),
            document("else", "conflict"),
            Document("fenced", chunks("late"), revision=6),
            document("d8", "d8 first", "d8 second"),
            document("n1", "new text", "shared"),
            document("n2", "shared", " "),
            document("n3", "shared", "d0 first"),
            document("n1", "twice"),
        ]
        before = docs.status()
        plan = docs.plan(stream, source="s", delete="missing")
        after = docs.status()
        assert {**before, "store": 0} == {**after, "store": 0}
        place.embedder.take()
        done = docs.sync_all(stream, source="s", delete="missing")
        assert {name: getattr(plan, name) for name in self.NAMES} == {name: getattr(done, name) for name in self.NAMES}
        assert sorted(place.embedder.take()) == ["d5 third", "new text", "shared"]
        assert (plan.tokens, plan.documents_failed, plan.documents_removed) == (5, 3, 3)

    def test_a_plan_writes_nothing(self, directory: Place) -> None:
        docs = directory.open()
        docs.sync_all(documents(3), source="s")
        watchers = [sqlite3.connect(file) for file in directory.databases()]
        before = [watcher.execute("PRAGMA data_version").fetchone() for watcher in watchers]
        directory.embedder.take()
        assert docs.plan(documents(5), source="a new source").documents_failed == 3
        assert docs.plan(documents(5), source="s").embedded == 4
        assert [watcher.execute("PRAGMA data_version").fetchone() for watcher in watchers] == before
        assert directory.embedder.take() == []
        for watcher in watchers:
            watcher.close()


class TestStream:
    def test_a_generator_is_read_as_it_is_written(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shelflist.indexing.sync._CHUNKS_PER_BATCH", 20)
        monkeypatch.setattr("shelflist.indexing.handover._CHUNKS_PER_WRITE", 20)
        docs = place.open()
        searchable: list[int] = []

        def stream() -> Iterator[Document]:
            for one in documents(40):
                searchable.append(docs.count())
                yield one

        docs.sync_all(stream())
        written = [i // 10 * 20 for i in range(40)]
        assert all(most - 20 <= found <= most for found, most in zip(searchable, written, strict=True)), (
            "one batch behind"
        )
        assert docs.count() == 80

    def test_an_interrupted_pass_keeps_what_it_wrote_and_goes_on(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shelflist.indexing.sync._CHUNKS_PER_BATCH", 20)
        monkeypatch.setattr("shelflist.indexing.handover._CHUNKS_PER_WRITE", 20)
        docs = place.open()
        docs.sync_all(documents(3, "old"), source="s")

        def stream(*, stop: bool) -> Iterator[Document]:
            for i, one in enumerate(documents(40)):
                if stop and i == 25:
                    raise KeyboardInterrupt
                yield one

        with pytest.raises(KeyboardInterrupt):
            docs.sync_all(stream(stop=True), source="s", delete="missing")
        assert docs.count() == 40 + 6, "acknowledged batches are kept, and an incomplete pass removes nothing"
        assert docs.verify()["ok"]
        report = docs.sync_all(stream(stop=False), source="s", delete="missing", allow_removal=True)
        assert counts(report, "documents_unchanged", "documents_added", "documents_removed") == (20, 20, 3)
        assert len(place.embedder.texts) == len(set(place.embedder.texts)) == 86
        assert docs.count() == 80

    def test_progress_counts_up_to_the_total(self, place: Place) -> None:
        steps: list[Progress] = []
        place.open().sync_all(Listed([*documents(7)]), progress=steps.append)
        assert {step.stage for step in steps} <= {"syncing", "building the vector index"}
        steps = [step for step in steps if step.stage == "syncing"]
        assert (steps[-1].done, steps[-1].total, steps[-1].unit) == (7, 7, "documents")

    def test_an_error_of_the_stream_is_raised_as_it_is(self, place: Place) -> None:
        def stream() -> Iterator[Document]:
            yield document("a", "text")
            raise OSError("the disk went away")

        docs = place.open()
        docs.sync_all([document("z", "old")], source="s")
        with pytest.raises(OSError, match="went away"):
            docs.sync_all(stream(), source="s", delete="missing")
        assert "z" in there(docs)


@pytest.mark.parametrize("metadata", [None, [1], [], "m", np.array([1, 2])], ids=repr)
def test_metadata_that_is_no_mapping_fails_its_document_alone(place: Place, metadata: Any) -> None:
    docs = place.open()
    docs.sync("b", chunks("before"))
    report = docs.sync_all([document("a", "first"), Document("b", [Chunk("before", metadata)]), document("c", "last")])
    assert [(failure.document_id, failure.position) for failure in report.failures] == [("b", 0)]
    assert "metadata of a chunk is" in report.failures[0].error and "Give a dict" in report.failures[0].error
    assert sorted(contents(docs.search("x", mode="dense"))) == ["before", "first", "last"]


@pytest.mark.parametrize("given", [None, 3, Document("p", [Chunk("text")])])
def test_what_is_no_stream_of_documents_is_refused(place: Place, given: Any) -> None:
    docs = place.open()
    for call in (docs.sync_all, docs.plan):
        with pytest.raises(InvalidInput, match=r"list of Document"):
            call(given)


@pytest.mark.parametrize("given", [None, 3, Chunk("x"), document("e", "x")], ids=repr)
def test_what_is_no_list_of_chunks_is_refused(place: Place, given: Any) -> None:
    docs = place.open()
    with pytest.raises(InvalidInput, match=r"'e' are .*list of Chunk"):
        docs.sync("e", given)
    assert docs.documents() == []


def test_a_time_without_a_zone_fails_its_document_alone_whichever_file_brings_it(alone: Place, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "bare.md").write_text("---\nat: 2024-05-06 12:00:00\n---\nnoon\n")
    (pages / "zoned.md").write_text("---\nat: 2024-05-06 12:00:00Z\n---\nnoon\n")
    (pages / "day.md").write_text("---\nat: 2024-05-06\n---\nmidnight\n")
    noon = datetime(2024, 5, 6, 12)
    for name, zone in (("bare", None), ("zoned", "UTC")):
        columns = {"document_id": [name], "content": ["noon"], "at": pa.array([noon], pa.timestamp("ns", tz=zone))}
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    docs = alone.open(fields={"at": "datetime"})
    sources = (Folder(pages), Parquet(tmp_path / "bare.parquet"), Parquet(tmp_path / "zoned.parquet"))
    reports = [docs.sync_all(source) for source in sources]
    failures = [failure for report in reports for failure in report.failures]
    assert [failure.document_id for failure in failures] == ["bare.md", "bare"]
    for failure in failures:
        assert "'at'" in failure.error and "without a time zone" in failure.error
        assert "cast it to a timestamp with a zone" in failure.error
    assert there(docs) == ["day.md", "zoned", "zoned.md"]
    assert docs.count('at == "2024-05-06T12:00:00Z"') == 2 and docs.count('at == "2024-05-06T00:00:00Z"') == 1
