"""`shelflist.copy`: the same collection in another store, nothing embedded, resumable, and compared at the end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import DIMENSIONS, CountingEmbedder, chunks, contents, counts, document, documents, unit
from late_store import LateStore
from places import Place, place_of

import shelflist
from shelflist import Chunk, CopyReport, F, Flat, Hnsw, Ivf
from shelflist.core.errors import CollectionMismatch, ConfigError, CopyDiffers, UnsupportedIndex
from shelflist.core.types import Progress, UpsertResult
from shelflist.indexing import copy as copy_module
from shelflist.ledger.revisions import Revisions
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import GenerationSpec

FIELDS = {"n": int, "when": "datetime", "tags": list[str]}


class Pair:
    """A collection somewhere, and an empty place for its copy."""

    def __init__(self, source: Place, target: Place) -> None:
        self.source = source
        self.target = target

    def copy(self, name: str = "docs", **options: Any) -> CopyReport:
        return shelflist.copy(
            self.source.url, self.target.url, name, ledger=self.source.ledger, to_ledger=self.target.ledger, **options
        )

    def there(self, name: str = "docs", **options: Any) -> shelflist.Collection:
        return self.target.open(name, create=False, **options)


def pair_of(kinds: str, folder: Path) -> Pair:
    source, target = (place_of(kind, folder / str(number)) for number, kind in enumerate(kinds.split("-")))
    (folder / "0").mkdir()
    (folder / "1").mkdir()
    return Pair(source, target)


@pytest.fixture(params=["file-file", "file-apart", "apart-file", "file-late", "late-file"])
def pair(request: pytest.FixtureRequest, folder: Path) -> Iterator[Pair]:
    """One database or two, and the fake of a server that shows writes late and normalises, on either side."""
    found = pair_of(request.param, folder)
    yield found
    found.source.close()
    found.target.close()


@pytest.fixture
def files(folder: Path) -> Iterator[Pair]:
    found = pair_of("file-file", folder)
    yield found
    found.source.close()
    found.target.close()


def everything(collection: shelflist.Collection) -> dict[str, Any]:
    """All that a collection tells of its documents and chunks, its ids included."""
    shown = {one["document_id"]: collection.show(one["document_id"]) for one in collection.documents()}
    for one in shown.values():
        one.pop("updated_at")
    return shown


def chunk_ids(collection: shelflist.Collection) -> dict[str, list[str]]:
    return {name: [chunk["chunk_id"] for chunk in one["chunks"]] for name, one in everything(collection).items()}


def point_ids(collection: shelflist.Collection) -> set[bytes]:
    parts = collection._parts
    return {point for point, _ in parts.store.scan(parts.spec)}


def test_a_copy_is_the_same_collection_and_nothing_was_embedded(pair: Pair) -> None:
    source = pair.source.open(fields=FIELDS, target_recall=0.9, metric="dot")
    source.sync_all(documents(30), source="wiki")
    source.sync(
        "rich",
        [
            Chunk(
                "alpha", metadata={"n": 1, "when": "2026-01-02T03:04:05+01:00", "tags": ["a", "b"], "free": {"x": [1]}}
            ),
            Chunk("beta", section="Top > Sub", chunk_strategy="tokens-512"),
            Chunk("alpha"),  # the same text twice
        ],
    )
    source.sync("d3", chunks("d3 second", "new", "d3 first"), source="wiki")  # kept, moved and new chunks
    source.sync("empty", [])
    pair.source.embedder.take()
    steps: list[Progress] = []

    report = pair.copy(progress=steps.append)

    assert pair.source.embedder.take() == [] == pair.target.embedder.take()
    assert counts(report, "documents", "chunks", "documents_added", "added", "unchanged") == (32, 64, 32, 64, 0)
    assert report.vectors_checked == 64 and report.answers_checked == 20 and not report.marked + report.warnings
    assert {step.stage for step in steps} == {"copying", "catching up", "verifying"}
    assert steps[-1].done == steps[-1].total == 64 and all(step.unit == "chunks" for step in steps)

    copy = pair.there()
    assert everything(copy) == everything(source)
    assert point_ids(copy) == point_ids(source)
    for name in (
        "uid",
        "fields",
        "target_recall",
        "embedder",
        "fingerprint",
        "dimensions",
        "metric",
        "tenancy",
        "index",
    ):
        assert getattr(copy._parts.record, name) == getattr(source._parts.record, name), name
    assert copy._parts.ledger.ledger_id != source._parts.ledger.ledger_id
    assert copy.verify()["ok"]
    for query in ("d3 new", "alpha", unit("d7 first")):
        assert [hit.chunk_id for hit in copy.search(query)] == [hit.chunk_id for hit in source.search(query)]
    assert contents(copy.search("x", where=F("n") == 1)) == ["alpha"]

    # Life goes on: what is known is not looked at again, what is new has the same id on both sides.
    again = copy.sync_all([*documents(3), document("d3", "d3 second", "new", "d3 first")], source="wiki")
    assert counts(again, "documents_unchanged", "documents_failed") == (4, 0)
    for one in (source, copy):
        one.sync("d3", chunks("d3 second", "newer"), source="wiki")
    assert everything(copy) == everything(source)
    assert pair.target.embedder.take() == ["newer"]


def test_copying_again_does_nothing_and_later_catches_up(pair: Pair) -> None:
    source = pair.source.open(fields=FIELDS)
    source.sync_all(documents(20), source="wiki")
    pair.copy()
    again = pair.copy()
    assert counts(again, "added", "removed", "documents_unchanged", "unchanged", "passes") == (0, 0, 20, 40, 1)

    source.sync("d1", chunks("d1 second", "d1 third"), source="wiki")
    source.sync("d2", [Chunk("d2 first", metadata={"n": 5}), Chunk("d2 second")], source="wiki")
    source.sync("d3", chunks("d3 second", "d3 first"), source="wiki")
    source.delete("d4")
    source.sync("new", chunks("entirely"))
    source.add_field("colour", str)
    source.sync("new", [Chunk("entirely", metadata={"colour": "red"})])
    report = pair.copy()

    assert counts(report, "documents_added", "documents_changed", "documents_removed", "documents_unchanged") == (
        1,
        3,
        1,
        16,
    )
    assert report.chunks == 39 and report.documents == 20
    copy = pair.there()
    assert everything(copy) == everything(source)
    assert contents(copy.search("x", where='colour == "red"')) == ["entirely"]
    assert not copy.search("d4", where=None, mode="keyword")
    assert copy.verify()["ok"]


def test_tenants_and_given_vectors(pair: Pair) -> None:
    source = pair.source.given(tenancy="required", dimensions=3, metric="l2")
    rows = {"acme": [[1, 0, 0], [-0.0, 2e10, 1e-40]], "other": [[0, 0, 5]]}
    for tenant, vectors in rows.items():
        source.tenant(tenant).sync("x", [Chunk(f"{tenant} {i}", embedding=vector) for i, vector in enumerate(vectors)])
    report = pair.copy("given")
    assert counts(report, "documents", "chunks", "vectors_checked", "answers_checked") == (2, 3, 3, 3)
    copy = pair.target.open("given", create=False, embedder=None)
    for tenant in rows:
        mine, theirs = source.tenant(tenant), copy.tenant(tenant)
        assert mine.show("x")["chunks"] == theirs.show("x")["chunks"]
        found, wanted = (one.search(np.array([1, 1, 1]), limit=5) for one in (theirs, mine))
        assert [(hit.content, hit.distance) for hit in found] == [(hit.content, hit.distance) for hit in wanted]
    parts, original = copy._parts, source._parts
    points = sorted(point_ids(source))
    for one, other in zip(*(side.store.vectors(side.spec, points).items() for side in (parts, original)), strict=True):
        assert one[0] == other[0] and one[1].tobytes() == other[1].tobytes()
    assert copy.verify()["ok"] and copy.repair()["actions"] == []


def test_a_collection_in_memory_can_be_copied_from_and_to(folder: Path) -> None:
    memory, file = place_of("memory", folder), place_of("file", folder)
    source = memory.open()
    source.sync_all(documents(5))
    report = source.copy_to(file.url, to="kept")
    assert (report.documents, report.destination) == (5, file.url)
    kept = file.open("kept", create=False)
    assert everything(kept) == everything(source)
    with pytest.raises(ConfigError, match="ends with the process"):
        kept.copy_to("memory:")
    back = shelflist.open("memory:", "docs", embedder=CountingEmbedder())
    copy_module.Copier(kept._parts.generation, back._parts.generation).run()
    assert everything(back) == everything(source)
    for place in (memory, file):
        place.close()
    back.close()


# What has a state of its own.


def test_what_is_marked_stale_is_left_out_and_hidden_in_a_copy_that_has_it(pair: Pair) -> None:
    source = pair.source.open()
    source.sync_all(documents(6), source="wiki")
    source.mark_stale("d1")
    report = pair.copy()
    assert report.marked == ["d1"] and counts(report, "documents", "chunks") == (5, 10)
    assert "d1" in report.warnings[0]
    copy = pair.there()
    assert "d1" not in everything(copy)

    source.mark_stale("d2")
    report = pair.copy()
    assert report.marked == ["d1", "d2"]
    assert len(copy.search("d2 first", limit=50)) == 8 and copy.count() == 8
    assert {chunk["stale_reason"] for chunk in copy.show("d2")["chunks"]} == {"marked"}
    assert pair.copy().marked == ["d1", "d2"]  # and nothing new

    source.sync_all(documents(3), source="wiki")
    pair.source.embedder.take()
    report = pair.copy()
    assert report.marked == [] and everything(copy) == everything(source)
    assert counts(report, "documents", "chunks") == (6, 12) and pair.target.embedder.take() == []


def test_what_failed_is_copied_as_failed(pair: Pair) -> None:
    source = pair.source.open()
    pair.source.embedder.failing = {"bad"}
    source.sync("half", chunks("good", "bad"), on_failed="switch_without")
    report = pair.copy()
    assert counts(report, "documents", "chunks") == (1, 1)
    copy = pair.there()
    assert everything(copy) == everything(source)
    assert [chunk["index_status"] for chunk in copy.show("half")["chunks"]] == ["indexed", "failed"]
    assert counts(copy.sync("half", chunks("good", "bad")), "added", "failed") == (1, 0)  # another embedder may succeed


def test_a_removed_document_fences_late_writers_in_the_copy_as_well(pair: Pair) -> None:
    source = pair.source.open()
    source.sync("gone", chunks("old"), revision=7)
    source.delete("gone")
    source.sync("here", chunks("text"), revision=5)
    pair.copy()
    copy = pair.there()
    for one in (source, copy):
        assert one.sync("gone", chunks("late"), revision=7).documents_superseded == 1
        assert one.sync("here", chunks("late"), revision=5).documents_superseded == 1
    assert [one["document_id"] for one in copy.documents()] == ["here"]


def test_a_removal_in_a_copy_that_was_killed_is_finished_as_a_removal(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pair.source.open()
    source.sync_all(documents(4), source="wiki")
    pair.copy()
    source.delete("d1")
    with monkeypatch.context() as patch:
        patch.setattr(Revisions, "switch", _killed)
        patch.setattr("shelflist.ledger.revisions.LEASE_SECONDS", -1)  # as if it were long ago
        with pytest.raises(_Killed):
            pair.copy()
    with pair.there() as copy:
        copy.sync("other", chunks("a text of its own"))  # takes up what was begun
        left = {"d0", "d2", "d3", "other"}
        # In one database nothing was begun, as all of it is one transaction.
        assert {one["document_id"] for one in copy.documents()} == left | ({"d1"} if not pair.target.apart else set())
        assert copy.verify()["unfinished"] == 0


@pytest.mark.parametrize("kind", ["file", "apart"])
def test_a_document_whose_chunks_were_all_refused_is_no_removal_when_it_is_taken_up(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_of(kind, folder)
    with place.given() as docs, monkeypatch.context() as patch:
        patch.setattr(Revisions, "switch", _killed)
        patch.setattr("shelflist.ledger.revisions.LEASE_SECONDS", -1)
        wrong = Chunk("a", embedding=np.ones(9, np.float32))
        with pytest.raises(_Killed):
            docs.sync("p", [wrong], revision=5, on_failed="switch_without")
    with place.given() as docs:
        docs.sync("other", [Chunk("b", embedding=unit(1)[:4])])  # takes up what was begun
        report = docs.sync("p", [Chunk("a", embedding=unit(2)[:4])], revision=5)
        assert report.documents_superseded == 0 and report.added == 1
        assert [hit.content for hit in docs.search(unit(2)[:4], limit=1)] == ["a"]


class _Killed(Exception):
    pass


def _killed(*_: object, **__: object) -> None:
    raise _Killed


def test_two_vectors_of_one_text_stay_two(files: Pair) -> None:
    """A model that was mended under its old name: the one document was embedded before, the other after."""
    source = files.source.open()
    source.sync("one", chunks("same"))
    source.sync("two", chunks("same"))
    source.mark_stale("two")
    files.source.embedder.salt = "mended"
    source.sync("two", chunks("same"))
    assert len({round(hit.distance or 0, 3) for hit in source.search(unit("same"))}) == 2
    files.copy()
    copy = files.there()
    assert [(h.document_id, h.distance) for h in copy.search(unit("same"))] == [
        (h.document_id, h.distance) for h in source.search(unit("same"))
    ]


# A source that moves.


def test_changes_during_the_copy_are_caught_up_with(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy_module, "_CHUNKS_PER_WRITE", 4)
    source = pair.source.open()
    source.sync_all(documents(12), source="wiki")
    seen: set[str] = set()

    def disturb(step: Progress) -> None:
        if step.stage in seen or not step.done:
            return
        seen.add(step.stage)
        source.sync("d0", chunks(f"d0 {step.stage}"), source="wiki")
        source.sync(f"new while {step.stage}", chunks("something"))
        source.delete({"copying": "d1", "catching up": "d2", "verifying": "d3"}[step.stage])

    pair.copy(progress=disturb)
    assert seen == {"copying", "catching up", "verifying"}
    found = everything(pair.there())
    assert found == everything(source)
    assert "d3" not in found and found["d0"]["chunks"][0]["content"] == "d0 verifying"


def test_a_document_that_has_grown_apart_is_named_and_not_overwritten(pair: Pair) -> None:
    source = pair.source.open()
    source.sync_all(documents(4), source="wiki")
    pair.copy()
    copy = pair.there()
    copy.sync("d1", chunks("mine"), source="wiki")
    copy.sync("own", chunks("also mine"))
    source.sync("d1", chunks("theirs"), source="wiki")
    source.sync("d2", chunks("news"), source="wiki")
    with pytest.raises(CopyDiffers) as caught:
        pair.copy()
    assert "d1 was not copied: It was changed in the destination" in str(caught.value)
    assert "own is in the copy and not in the source" in str(caught.value)
    assert "d2" not in str(caught.value)
    assert contents(copy.search("x", limit=50)) == sorted(
        ["mine", "also mine", "news", "d0 first", "d0 second", "d3 first", "d3 second"]
    )


def test_what_the_store_refused_once_is_copied_the_next_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first revision number is given up, and the ids that went with it; a later change is no conflict for all that."""
    pair = pair_of("file-late", folder)
    source = pair.source.open()
    source.sync_all(documents(6), source="wiki")
    bad = unit("d2 second")
    whole = LateStore.upsert

    def refuse(self: LateStore, spec: Any, points: Any) -> UpsertResult:
        good = [point for point in points if not np.allclose(point.vector, bad)]
        stored = whole(self, spec, good).stored
        return UpsertResult(stored, {point.point_id: "no room" for point in points if point not in good})

    monkeypatch.setattr(LateStore, "upsert", refuse)
    with pytest.raises(CopyDiffers, match="d2 was not copied: no room"):
        pair.copy()
    assert len(everything(pair.there())) == 5
    monkeypatch.undo()
    assert counts(pair.copy(), "documents", "chunks", "documents_added") == (6, 12, 1)
    copy = pair.there()
    assert chunk_ids(copy) == chunk_ids(source) and point_ids(copy) != point_ids(source)

    source.sync("d2", chunks("d2 first", "d2 third"), source="wiki")
    assert counts(pair.copy(), "documents_changed", "documents_unchanged") == (1, 5)
    assert chunk_ids(copy) == chunk_ids(source)
    source.sync("d2", chunks("d2 fourth"), source="wiki")
    copy.sync("d2", chunks("mine"), source="wiki")
    with pytest.raises(CopyDiffers, match="d2 was not copied: It was changed"):
        pair.copy()
    for place in (pair.source, pair.target):
        place.close()


# What is refused.


def test_another_collection_in_the_way(files: Pair) -> None:
    files.source.open().sync("a", chunks("text"))
    files.target.open().sync("b", chunks("other"))
    with pytest.raises(CollectionMismatch, match=r"'docs' of its own.*--to"):
        files.copy()
    assert files.copy(to="second").documents == 1
    with pytest.raises(CollectionMismatch, match="under the name 'second'"):
        files.copy(to="third")
    assert shelflist.collections(files.target.url) == ["docs", "second"]
    assert contents(files.there("second").search("text")) == ["text"]


def test_the_same_ledger_or_the_same_store(files: Pair, folder: Path) -> None:
    files.source.open().sync("a", chunks("text"))
    with pytest.raises(CollectionMismatch, match="ledger of 'docs' itself"):
        shelflist.copy(files.source.url, files.source.url, "docs", to="twin")
    other = f"sqlite:{folder / 'other.db'}"
    with pytest.raises(CollectionMismatch, match="store that 'docs' is in"):
        shelflist.copy(files.source.url, files.source.url, "docs", to="twin", to_ledger=other)
    assert files.source.open().verify()["ok"]


def test_a_store_that_holds_a_copy_of_another_ledger(files: Pair, folder: Path) -> None:
    files.source.open().sync("a", chunks("text"))
    first, second = (f"sqlite:{folder / name}" for name in ("one.db", "two.db"))
    shelflist.copy(files.source.url, files.target.url, "docs", to_ledger=first)
    with pytest.raises(CollectionMismatch, match="knows nothing of"):
        shelflist.copy(files.source.url, files.target.url, "docs", to="other", to_ledger=second)
    assert shelflist.open(files.target.url, "docs", ledger=first, embedder=CountingEmbedder()).verify()["ok"]


def test_an_index_that_the_destination_lacks(files: Pair) -> None:
    source = files.source.open()
    source.sync("a", chunks("text"))
    with pytest.raises(UnsupportedIndex):
        files.copy(index=Ivf(quantization="half"))
    assert shelflist.collections(files.target.url) == []
    with sqlite3.connect(files.source.databases()[0]) as connection:  # as if the source had such an index
        connection.execute(
            """UPDATE sl_generations SET index_spec = '{"nlist": 8, "quantization": "half", "kind": "ivf"}'"""
        )
    connection.close()
    report = files.copy()
    assert "has not the index Ivf(nlist=8" in report.warnings[0]
    assert files.there()._parts.record.index is None
    assert files.copy(index=Flat()).warnings  # what is there stays, and is said


def test_an_index_that_the_destination_refuses_when_it_is_made(files: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a kind that it has, with a parameter that it has not."""
    source = files.source.open(index=Hnsw(m=8))
    source.sync("a", chunks("text"))
    source.close()
    create = EmbeddedStore.create

    def picky(self: EmbeddedStore, spec: GenerationSpec) -> None:
        if isinstance(spec.index, Hnsw):
            raise UnsupportedIndex("m is not taken here.")
        create(self, spec)

    monkeypatch.setattr(EmbeddedStore, "create", picky)
    with pytest.raises(UnsupportedIndex):
        files.copy(index=Hnsw(m=8))
    assert shelflist.collections(files.target.url) == []
    report = files.copy()
    assert "has not the index Hnsw(m=8" in report.warnings[0]
    assert files.there()._parts.record.index is None and files.there().verify()["ok"]


# The comparison can fail.


def damaged(place: Place, statement: str) -> None:
    with sqlite3.connect(place.databases()[0]) as connection:
        assert connection.execute(statement).rowcount
    connection.close()


def test_a_damaged_vector_of_the_source_is_not_copied(files: Pair) -> None:
    files.source.open().sync_all(documents(3))
    table = f"{files.source.table()}_vectors"
    damaged(files.source, f"UPDATE {table} SET vector = zeroblob({4 * DIMENSIONS}) WHERE row = 1")
    with pytest.raises(CopyDiffers, match=r"d0 was not copied: .*no sound vector of its chunk 0.*repair"):
        files.copy()
    assert len(everything(files.there())) == 2
    files.source.open().repair()
    assert files.copy().documents == 3


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM {table} WHERE rowid = 2", "1 chunks are not in the store"),
        (
            "UPDATE {table}_vectors SET vector = (SELECT vector FROM {table}_vectors WHERE row = 5) WHERE row = 2",
            "another vector",
        ),
        (
            "UPDATE sl_chunks SET chunk_id = randomblob(16) WHERE chunk_key = 3",
            "1 of 2 chunks are missing, 1 are too many",
        ),
        ("UPDATE sl_chunks SET metadata_hash = randomblob(32) WHERE chunk_key = 3", "another metadata"),
        ("UPDATE sl_documents SET removed_at = 1, revision = 9 WHERE document_key = 2", "d1 is missing"),
    ],
)
def test_each_kind_of_difference_is_found(files: Pair, statement: str, said: str) -> None:
    files.source.open().sync_all(documents(5))
    files.copy()
    files.target.close()
    damaged(files.target, statement.format(table=files.target.table()))
    with pytest.raises(CopyDiffers, match=said):
        files.copy()


def test_equally_near_chunks_may_stand_at_the_end() -> None:
    from shelflist.core.types import Hit, Hits
    from shelflist.indexing.comparison import same_answers

    def hits(**distances: float) -> Hits:
        return Hits(
            [
                Hit(score=1 - d, distance=d, content="", document_id="", chunk_id=name, metadata={})
                for name, d in distances.items()
            ],
            plan="",
            exact=True,
        )

    assert same_answers(hits(a=0.1, b=0.5), hits(a=0.1, c=0.5))
    assert not same_answers(hits(a=0.1, b=0.5), hits(c=0.1, b=0.5))
    assert not same_answers(hits(a=0.1, b=0.5), hits(a=0.1, b=0.6))
    assert not same_answers(hits(a=0.1, b=0.5), hits(a=0.1))
    assert same_answers(hits(), hits())
