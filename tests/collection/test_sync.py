"""One document: names that follow from content, counts, nothing paid twice, one step, failures, fences."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from counting import CountingEmbedder, chunks, contents, counts, unit
from places import Place

from shelflist import Chunk, Collection, Document
from shelflist.core.errors import EmbedderError, InvalidInput, StoreUnavailable, Transient
from shelflist.core.types import SyncReport
from shelflist.stores.protocol import GenerationSpec

FOUR = ("alpha one", "beta two", "gamma three", "delta four")


def ids(collection: Collection, document_id: str) -> list[tuple[str, str]]:
    return [(chunk["content"], chunk["chunk_id"]) for chunk in collection.show(document_id)["chunks"]]


def found(collection: Collection, query: str = "alpha") -> list[str]:
    return contents(collection.search(query, limit=100, mode="dense"))


def changes(report: SyncReport) -> dict[str, int]:
    """The counts of chunks that are not zero."""
    names = ("added", "metadata_only", "moved", "removed", "unchanged", "embedded", "failed")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def test_a_paragraph_at_the_top_embeds_one_text_and_moves_the_rest(place: Place) -> None:
    docs = place.open()
    docs.sync("page", chunks(*FOUR))
    before = dict(ids(docs, "page"))
    place.embedder.take()
    report = docs.sync("page", chunks("the new top", *FOUR))
    assert place.embedder.take() == ["the new top"]
    assert changes(report) == {"added": 1, "moved": 4, "embedded": 1}
    after = dict(ids(docs, "page"))
    assert {text: after[text] for text in FOUR} == before
    assert [text for text, _ in ids(docs, "page")] == ["the new top", *FOUR]
    assert [hit.position for hit in docs.search("delta", mode="keyword")] == [4]


def test_the_same_text_twice_has_two_ids_and_is_embedded_once(place: Place) -> None:
    docs = place.open()
    report = docs.sync("page", chunks("same", "other", "same"))
    assert changes(report) == {"added": 3, "embedded": 2}
    assert sorted(place.embedder.take()) == ["other", "same"]
    names = ids(docs, "page")
    assert len({name for _, name in names}) == 3
    assert found(docs) == ["other", "same", "same"]
    report = docs.sync("page", chunks("same", "other"))
    assert changes(report) == {"removed": 1, "unchanged": 2}
    assert ids(docs, "page") == names[:2]


def test_the_same_text_in_two_documents_is_embedded_once_and_named_twice(place: Place) -> None:
    docs = place.open()
    docs.sync("a", chunks("shared text"))
    report = docs.sync("b", chunks("shared text"))
    assert counts(report, "added", "embedded", "cached") == (1, 0, 1)
    assert place.embedder.take() == ["shared text"]
    assert ids(docs, "a")[0][1] != ids(docs, "b")[0][1]


def test_ids_differ_between_collections_and_are_the_same_after_delete(place: Place) -> None:
    docs, others = place.open("one"), place.open("two")
    docs.sync("page", chunks("text"))
    others.sync("page", chunks("text"))
    first = ids(docs, "page")
    assert first != ids(others, "page")
    docs.delete("page")
    docs.sync("page", chunks("text"))
    assert ids(docs, "page") == first


def test_each_kind_of_change_is_counted_as_what_it_is(place: Place) -> None:
    docs = place.open(fields={"page": int})
    base = [Chunk(text, {"page": i}) for i, text in enumerate(FOUR)]
    assert changes(docs.sync("p", base)) == {"added": 4, "embedded": 4}
    assert counts(docs.sync("p", base), "unchanged", "documents_unchanged", "documents_changed") == (4, 1, 0)

    edited = [base[0], Chunk(FOUR[1], {"page": 99}), *base[2:]]
    report = docs.sync("p", edited)
    assert changes(report) == {"metadata_only": 1, "unchanged": 3}
    assert counts(report, "documents_changed", "cached") == (1, 1)
    assert docs.count("page == 99") == 1 and docs.count("page == 1") == 0
    assert [hit.metadata for hit in docs.search("x", where="page == 99")] == [{"page": 99}]

    assert changes(docs.sync("p", edited[::-1])) == {"moved": 4}
    assert changes(docs.sync("p", edited[1:][::-1])) == {"removed": 1, "unchanged": 3}
    mixed = [Chunk("epsilon five"), edited[3], edited[2]]
    assert changes(docs.sync("p", mixed)) == {"added": 1, "removed": 1, "moved": 2, "embedded": 1}
    assert found(docs) == sorted(["epsilon five", FOUR[3], FOUR[2]])


def test_section_and_strategy_are_metadata_and_text_is_not(place: Place) -> None:
    docs = place.open()
    docs.sync("p", [Chunk("text", section="A", chunk_strategy="whole")])
    assert changes(docs.sync("p", [Chunk("text", section="B", chunk_strategy="whole")])) == {"metadata_only": 1}
    assert [hit.section for hit in docs.search("text")] == ["B"]
    assert changes(docs.sync("p", [Chunk("text", section="B", chunk_strategy="cut")])) == {"metadata_only": 1}
    assert changes(docs.sync("p", [Chunk("text", section="B", chunk_strategy="cut")])) == {"unchanged": 1}
    assert place.embedder.take() == ["text"]


def test_a_second_sync_writes_nothing(directory: Place) -> None:
    docs = directory.open(fields={"n": int})
    page = [Chunk(text, {"n": i}) for i, text in enumerate(FOUR)]
    docs.sync("page", page)
    docs.sync("page", page)

    def state() -> list[object]:
        log = [file.with_name(file.name + "-wal") for file in directory.databases()]
        keywords = sorted((directory.databases()[0].parent / "keywords").rglob("*"))
        files = [file for file in [*directory.databases(), *log, *keywords] if file.is_file()]
        return [(file, file.read_bytes()) for file in files if not file.name.endswith(".lock")]

    before = state()
    assert docs.sync("page", page).unchanged == 4
    assert state() == before
    docs.sync("page", page[:3])
    assert state() != before


def test_a_b_a_serves_a_again_and_embeds_it_once(place: Place) -> None:
    docs = place.open()
    for _ in range(3):
        docs.sync("p", chunks("version A"))
        assert found(docs) == ["version A"]
        docs.sync("p", chunks("version B"))
        assert found(docs) == ["version B"]
        docs.purge()
        assert found(docs) == ["version B"]
        assert docs.verify()["ok"]
    assert sorted(place.embedder.take()) == ["version A", "version B"]


def test_points_of_a_b_a_are_never_purged_alive(place: Place) -> None:
    docs = place.open()
    docs._parts.writer._grace = 0.0
    for text in ("A", "B", "A", "B", "A"):
        docs.sync("p", chunks(text, "stays"))
        docs.purge()
        assert found(docs) == sorted([text, "stays"])
        assert docs.verify()["ok"]


def test_delete_hides_counts_and_costs_nothing_when_it_comes_back(place: Place) -> None:
    docs = place.open()
    docs.sync("p", chunks(*FOUR))
    docs.sync("q", chunks("other"))
    assert docs.delete("p") == 4
    assert docs.delete("p") == 0
    assert docs.delete("never was") == 0
    assert found(docs) == ["other"] and docs.count() == 1
    assert [row["document_id"] for row in docs.documents()] == ["q"]
    with pytest.raises(InvalidInput, match="'p'"):
        docs.show("p")
    place.embedder.take()
    assert docs.sync("p", chunks(*FOUR)).documents_added == 1
    assert place.embedder.take() == []
    assert found(docs) == sorted([*FOUR, "other"])


def test_an_empty_document_is_a_document_with_no_chunk(place: Place) -> None:
    docs = place.open()
    docs.sync("p", chunks("text"))
    assert changes(docs.sync("p", [])) == {"removed": 1}
    assert found(docs) == []
    assert [(row["document_id"], row["chunks"]) for row in docs.documents()] == [("p", 0)]
    assert docs.sync("p", []).documents_unchanged == 1


def test_mark_stale_hides_at_once_and_the_next_sync_embeds_again(place: Place) -> None:
    docs = place.open()
    docs.sync("p", chunks("wrong", "also wrong"))
    docs.sync("q", chunks("right"))
    place.embedder.take()
    assert docs.mark_stale("p") == 2
    assert docs.mark_stale("nobody") == 0
    for mode in ("dense", "keyword", "hybrid"):
        assert contents(docs.search("wrong right", mode=mode)) == ["right"]
    assert docs.count() == 1
    assert {(c["index_status"], c["stale_reason"]) for c in docs.show("p")["chunks"]} == {("stale", "marked")}
    assert docs.verify()["ok"]
    place.embedder.salt = "mended"
    report = docs.sync("p", chunks("wrong", "also wrong"))
    assert report.embedded == 2
    assert sorted(place.embedder.take()) == ["also wrong", "wrong"]
    (best, *_) = docs.search(unit("wrong", "mended"))
    assert (best.content, round(best.score, 4)) == ("wrong", 1.0)
    assert contents(docs.search("wrong right", mode="keyword")) == ["also wrong", "right", "wrong"]
    assert docs.verify()["ok"]
    assert docs.sync("q", chunks("right")).unchanged == 1  # the others are not embedded again
    docs.sync("p", [])
    docs.sync("p", chunks("wrong"))
    assert docs.search(unit("wrong", "mended"))[0].score == pytest.approx(1, abs=1e-4), "the vector known to be wrong"


class TestFailures:
    def test_keep_old_names_document_and_position_and_tries_again(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("old"))
        place.embedder.failing = {"bad"}
        report = docs.sync("p", chunks("good", "bad"))
        ((failure),) = report.failures
        assert (failure.document_id, failure.position) == ("p", 1)
        assert "bad" in failure.error
        assert counts(report, "failed", "documents_failed", "documents_changed", "added") == (1, 1, 0, 0)
        assert found(docs) == ["old"]
        place.embedder.take()
        place.embedder.failing = set()
        report = docs.sync("p", chunks("good", "bad"))
        assert place.embedder.take() == ["bad"], "the good text was paid for already"
        assert (report.failed, found(docs)) == (0, ["bad", "good"])

    def test_switch_without_serves_the_good_ones_and_tries_again(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("old"))
        place.embedder.failing = {"bad"}
        report = docs.sync("p", chunks("good", "bad", "fine"), on_failed="switch_without")
        assert [(f.document_id, f.position) for f in report.failures] == [("p", 1)]
        assert found(docs) == ["fine", "good"]
        states = [(c["content"], c["index_status"], c["attempts"]) for c in docs.show("p")["chunks"]]
        assert states == [("good", "indexed", 0), ("bad", "failed", 1), ("fine", "indexed", 0)]
        assert "cannot embed" in docs.show("p")["chunks"][1]["error"]
        assert docs.status()["chunks"]["failed"] == 1
        assert docs.verify()["ok"]
        report = docs.sync("p", chunks("good", "bad", "fine"), on_failed="switch_without")
        assert docs.show("p")["chunks"][1]["attempts"] == 2
        place.embedder.failing = set()
        place.embedder.take()
        docs.sync("p", chunks("good", "bad", "fine"))
        assert place.embedder.take() == ["bad"]
        assert found(docs) == ["bad", "fine", "good"]

    def test_input_that_cannot_be_accepted_is_named_by_position(self, place: Place) -> None:
        docs = place.open(fields={"n": int})
        bad = [Chunk("fine", {"n": 1}), Chunk("  "), Chunk("text", {"n": "1"}), Chunk("x" * 1_000_001)]
        report = docs.sync("p", bad)
        assert [failure.position for failure in report.failures] == [1, 2, 3]
        said = [failure.error for failure in report.failures]
        assert "no text" in said[0] and "'n'" in said[1] and "1,000,001" in said[2]
        assert docs.documents() == []
        docs.sync("p", bad, on_failed="switch_without")
        assert found(docs) == ["fine"]
        assert docs.sync("p", bad, on_failed="switch_without").failed == 3, "what failed is never a no-op"

    @pytest.mark.parametrize("text", ["lone \ud800 surrogate", 7, None])
    def test_text_that_is_no_text(self, place: Place, text: object) -> None:
        docs = place.open()
        docs.sync("p", chunks("old"))
        report = docs.sync("p", [Chunk(text)])  # type: ignore[arg-type]
        assert (report.failed, report.failures[0].document_id, found(docs)) == (1, "p", ["old"])

    @pytest.mark.parametrize("name", ["", 7, None, b"x", "\ud800"])
    def test_a_document_id_is_a_non_empty_str(self, place: Place, name: object) -> None:
        with pytest.raises(InvalidInput):
            place.open().sync(name, chunks("text"))  # type: ignore[arg-type]

    def test_a_transient_error_raises_and_the_next_sync_pays_only_the_rest(self, place: Place) -> None:
        class Busy(EmbedderError, Transient):
            pass

        docs = place.open()
        docs.sync("p", chunks("old"))
        place.embedder.outage = Busy("try later")
        with pytest.raises(Busy, match="try later"):
            docs.sync("p", chunks("new"))
        assert found(docs) == ["old"]
        assert docs.show("p")["revision"] == 1
        place.embedder.outage = None
        assert docs.sync("p", chunks("new")).failed == 0
        assert found(docs) == ["new"]

    @pytest.mark.parametrize("member", ["embed_query", "token_counts"])
    def test_what_any_part_of_an_embedder_raises_shows_no_secret(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, member: str
    ) -> None:
        docs = place.open()
        docs.sync("p", chunks("text"))

        def ask() -> object:
            return docs.search("text", mode="dense") if member == "embed_query" else docs.sync("q", chunks("more"))

        def refuse(*_: object) -> object:
            raise RuntimeError("no model for Bearer abc123def, api_key=hunter2")

        with monkeypatch.context() as patch:
            patch.setattr(type(place.embedder), member, refuse, raising=False)
            with pytest.raises(EmbedderError, match=r"^counting: RuntimeError: no model for Bearer \*\*\*") as caught:
                ask()
            assert "api_key=***" in str(caught.value) and "hunter2" not in str(caught.value)
            if member == "token_counts":
                with pytest.raises(EmbedderError, match=r"Bearer \*\*\*"):
                    docs.plan([Document("q", chunks("more"))])
                patch.setattr(type(place.embedder), member, lambda *_: [], raising=False)
                with pytest.raises(EmbedderError, match="returned 0 token counts for 1 texts"):
                    ask()
        ask()

    def test_a_dead_embedder_stops_the_pass_and_bad_texts_do_not(self, place: Place) -> None:
        docs = place.open()
        place.embedder.outage = RuntimeError("no model for Bearer abc123def, api_key=hunter2")
        with pytest.raises(EmbedderError, match="no model") as caught:
            docs.sync("p", chunks(*(f"text {i}" for i in range(50))))
        assert "Bearer ***, api_key=***" in str(caught.value) and "hunter2" not in str(caught.value)
        assert place.embedder.calls < 15, "it does not try fifty times"
        place.embedder.outage = None
        place.embedder.failing = {"text 3", "text 40"}
        report = docs.sync("p", chunks(*(f"text {i}" for i in range(50))), on_failed="switch_without")
        assert sorted(failure.position or 0 for failure in report.failures) == [3, 40]
        assert len(found(docs)) == 48

    def test_vectors_that_are_no_vectors_are_refused(self, place: Place) -> None:
        class Odd(CountingEmbedder):
            def embed_documents(self, texts):  # type: ignore[no-untyped-def]
                rows = super().embed_documents(texts)
                for row, text in zip(rows, texts, strict=True):
                    row *= {"nan": np.nan, "zero": 0.0}.get(text, 1.0)
                return rows

        place.embedder = Odd()
        docs = place.open()
        report = docs.sync("p", chunks("nan", "fine", "zero"), on_failed="switch_without")
        assert sorted(failure.position or 0 for failure in report.failures) == [0, 2]
        assert found(docs) == ["fine"]

    def test_a_wrong_number_of_rows_is_refused(self, place: Place) -> None:
        class Short(CountingEmbedder):
            def embed_documents(self, texts):  # type: ignore[no-untyped-def]
                return super().embed_documents(texts)[:, :8]

        place.embedder = Short()
        report_or_error: object
        try:
            report_or_error = place.open().sync("p", chunks("text"))
        except EmbedderError as error:
            report_or_error = error
        said = report_or_error.failures[0].error if isinstance(report_or_error, SyncReport) else str(report_or_error)
        assert "16" in said and "8" in said


class TestRevisions:
    @pytest.mark.parametrize("ten", [np.int64(10), np.uint16(10)])
    def test_a_callers_revision_is_an_integer_of_any_kind(self, place: Place, ten: Any) -> None:
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=ten)
        assert docs.show("p")["revision"] == 10 and type(docs.show("p")["revision"]) is int
        docs.sync("p", chunks("ten"), revision=ten + 1)
        assert docs.sync("p", chunks("late"), revision=ten).documents_superseded == 1
        for no_number in (True, np.bool_(True), 1.0, ten - ten):
            with pytest.raises(InvalidInput, match="is not an int"):
                docs.sync("p", chunks("x"), revision=no_number)  # type: ignore[arg-type]

    def test_a_callers_older_revision_is_superseded(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=10)
        for late in (10, 9, 1):
            report = docs.sync("p", chunks("late"), revision=late)
            assert counts(report, "documents_superseded", "added", "embedded") == (1, 0, 0)
            assert found(docs) == ["ten"]
        report = docs.sync("p", chunks("eleven"), revision=11)
        assert (report.documents_superseded, found(docs)) == (0, ["eleven"])
        assert docs.show("p")["revision"] == 11

    def test_a_late_writer_does_not_bring_a_deleted_document_back(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=10)
        docs.delete("p")
        assert docs.sync("p", chunks("late"), revision=10).documents_superseded == 1
        assert found(docs) == []
        assert docs.sync("p", chunks("new"), revision=11).documents_superseded == 0
        assert found(docs) == ["new"] and docs.show("p")["revision"] == 11

    def test_a_document_that_comes_back_needs_only_the_next_number(self, place: Place) -> None:
        docs = place.open()
        every = [Document(str(number), chunks(f"text {number}"), revision=1) for number in range(8)]
        docs.sync_all(every, source="s")
        docs.sync_all(every[1:], source="s", delete="missing")
        assert docs.sync_all([Document("0", chunks("again"), revision=1)], source="s").documents_superseded == 1
        report = docs.sync_all([Document("0", chunks("again"), revision=2)], source="s")
        assert (report.documents_superseded, report.documents_added) == (0, 1)
        assert "again" in found(docs)

    def test_the_ledgers_own_count_does_not_stand_in_a_callers_way(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=10)
        docs.sync("p", chunks("without a number"))
        assert docs.sync("p", chunks("late"), revision=10).documents_superseded == 1
        assert docs.sync("p", chunks("eleven"), revision=11).documents_superseded == 0
        assert found(docs) == ["eleven"]

    def test_what_was_marked_stale_comes_again_under_its_number(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=10)
        for _ in range(2):
            docs.mark_stale("p")
            assert docs.sync("p", chunks("nine"), revision=9).documents_superseded == 1
            assert found(docs) == []
            assert docs.sync("p", chunks("ten"), revision=10).documents_superseded == 0
            assert found(docs) == ["ten"]
        assert docs.sync("p", chunks("late"), revision=10).documents_superseded == 1
        assert docs.verify()["ok"]

    def test_nothing_is_made_good_under_a_number_that_a_newer_one_has_left_behind(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=10)
        docs.mark_stale("p")
        upsert = docs._parts.store.upsert
        reports: list[SyncReport] = []

        def meanwhile(*given: Any) -> Any:
            monkeypatch.setattr(docs._parts.store, "upsert", upsert)
            if place.apart:  # else nothing is begun before it is finished
                reports.append(docs.sync("p", chunks("ten"), revision=10))
            return upsert(*given)

        monkeypatch.setattr(docs._parts.store, "upsert", meanwhile)
        docs.sync("p", chunks("twenty"), revision=20)
        reports.append(docs.sync("p", chunks("ten"), revision=10))
        assert [counts(report, "documents_superseded", "failed") for report in reports] == [(1, 0)] * len(reports)
        assert found(docs) == ["twenty"]

    def test_what_came_in_part_comes_again_under_its_number(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("good", ""), revision=10, on_failed="switch_without")
        assert found(docs) == ["good"]
        assert docs.sync("p", chunks("good", "better"), revision=10).documents_superseded == 0
        assert sorted(found(docs)) == ["better", "good"]
        assert docs.sync("p", chunks("late"), revision=10).documents_superseded == 1

    def test_an_older_one_is_superseded_while_a_newer_is_on_its_way(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=10)
        begun, go_on = threading.Event(), threading.Event()
        upsert = docs._parts.store.upsert

        def slow(*given: Any) -> Any:
            begun.set()
            go_on.wait(20)
            return upsert(*given)

        monkeypatch.setattr(docs._parts.store, "upsert", slow)
        writer = threading.Thread(target=lambda: docs.sync("p", chunks("twenty"), revision=20))
        writer.start()
        assert begun.wait(20)
        if place.apart:
            report = docs.sync("p", chunks("fifteen"), revision=15)
            assert counts(report, "documents_superseded", "embedded", "failed") == (1, 0, 0)
        go_on.set()
        writer.join()
        report = docs.sync("p", chunks("fifteen"), revision=15)
        assert counts(report, "documents_superseded", "embedded", "failed") == (1, 0, 0)
        assert found(docs) == ["twenty"]

    def test_a_deletion_comes_after_what_was_begun_before_it(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not place.apart:
            pytest.skip("nothing is begun and not finished in one transaction")
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=10)
        upsert = docs._parts.store.upsert

        def deleted_meanwhile(*given: Any) -> Any:
            monkeypatch.setattr(docs._parts.store, "upsert", upsert)
            docs.delete("p")
            return upsert(*given)

        monkeypatch.setattr(docs._parts.store, "upsert", deleted_meanwhile)
        assert docs.sync("p", chunks("twenty"), revision=20).documents_superseded == 1
        assert found(docs) == []
        docs.sync("p", chunks("twenty-one"), revision=21)
        assert found(docs) == ["twenty-one"]

    def test_the_same_content_under_a_new_revision_moves_the_fence(self, place: Place) -> None:
        docs = place.open()
        docs.sync("p", chunks("text"), revision=10)
        docs.sync("p", chunks("text"), revision=20)
        assert docs.sync("p", chunks("late"), revision=15).documents_superseded == 1
        assert found(docs) == ["text"]

    def test_a_revision_that_was_begun_fences_an_older_one(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        docs = place.open()
        docs.sync("p", chunks("ten"), revision=10)
        with monkeypatch.context() as patch:
            patch.setattr(docs._parts.store, "upsert", _unavailable)
            with pytest.raises(StoreUnavailable):
                docs.sync("p", chunks("twenty"), revision=20)
        report = docs.sync("p", chunks("fifteen"), revision=15)
        if place.apart:  # where store and ledger are one database, nothing of revision 20 is left
            assert report.documents_superseded == 1
            assert found(docs) == ["twenty"]
        docs.sync("p", chunks("twenty-one"), revision=21)
        assert found(docs) == ["twenty-one"]

    def test_two_threads_on_one_document_leave_one_whole_version(self, place: Place) -> None:
        docs = place.open()
        errors: list[BaseException] = []
        reports: list[SyncReport] = []

        def write(name: str) -> None:
            try:
                reports.extend(docs.sync("p", chunks(*(f"{name} {i} {n}" for n in range(6)))) for i in range(4))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(name,)) for name in ("left", "right")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert [report.failed for report in reports] == [0] * 8
        texts = found(docs)
        assert len(texts) == 6 and len({text.rsplit(" ", 1)[0] for text in texts}) == 1
        assert texts[0].split()[1] == "3"
        assert docs.verify()["ok"]


class TestGivenVectors:
    def test_a_vector_in_any_shape_of_row_and_its_change(self, place: Place) -> None:
        docs = place.given()
        docs.sync("p", [Chunk("list", embedding=[1.0, 0.0, 0.0, 0.0]), Chunk("array", embedding=np.ones(4))])
        hits = docs.search(np.array([1, 0, 0, 0], dtype=np.float32), limit=2)
        assert [(hit.content, round(hit.score, 4)) for hit in hits] == [("list", 1.0), ("array", 0.5)]
        report = docs.sync("p", [Chunk("list", embedding=[0, 1, 0, 0]), Chunk("array", embedding=np.ones(4))])
        assert changes(report) == {"metadata_only": 1, "unchanged": 1}
        hits = docs.search(np.array([0, 1, 0, 0], dtype=np.float32), limit=1)
        assert [(hit.content, round(hit.score, 4)) for hit in hits] == [("list", 1.0)]
        assert docs.verify()["ok"]

    @pytest.mark.parametrize(
        ("vector", "said"),
        [
            ([1.0, 2.0, 3.0], "4 dimensions"),
            ([[1.0, 0.0, 0.0, 0.0]], "4 dimensions"),
            ([1.0, float("nan"), 0.0, 0.0], "NaN"),
            ([1.0, float("inf"), 0.0, 0.0], "infinity"),
            ([0.0, 0.0, 0.0, 0.0], "zeros"),
            ([1.0, 1e300, 0.0, 0.0], "beyond 3.4e+38"),
            (np.array([1.0, -1e300, 0.0, 0.0]), "beyond 3.4e+38"),
            (np.array([1.0 + 2.0j, 0.0, 0.0, 0.0]), "complex"),
            ([np.complex64(1.0 + 2.0j), 0.0, 0.0, 0.0], "complex"),
            (np.array([np.nan, 3e38, 3e38, 0.0], np.float32), "NaN"),
            (None, "4 dimensions"),
            ("text", "numbers"),
        ],
    )
    def test_a_vector_that_cannot_be_one(self, place: Place, vector: object, said: str) -> None:
        docs = place.given()
        docs.sync("p", [Chunk("old", embedding=[1, 0, 0, 0])])
        report = docs.sync("p", [Chunk("fine", embedding=[1, 0, 0, 0]), Chunk("bad", embedding=vector)])  # type: ignore[arg-type]
        assert report.failed == 1 and said in report.failures[0].error, report.failures
        assert contents(docs.search(np.ones(4, dtype=np.float32))) == ["old"]

    def test_zero_is_a_vector_where_no_direction_is_needed(self, place: Place) -> None:
        docs = place.given(metric="l2")
        assert docs.sync("p", [Chunk("zero", embedding=[0, 0, 0, 0])]).failed == 0
        assert contents(docs.search(np.zeros(4, dtype=np.float32))) == ["zero"]

    def test_a_vector_into_a_collection_that_embeds_is_refused_naming_its_space(self, place: Place) -> None:
        docs = place.open()
        report = docs.sync("p", [Chunk("text", embedding=np.ones(16))])
        assert report.failed == 1 and "counting" in report.failures[0].error
        assert docs.sync("p", [Chunk("text")]).failed == 0

    def test_a_text_query_on_given_vectors_names_what_to_do(self, place: Place) -> None:
        docs = place.given()
        docs.sync("p", [Chunk("some words", embedding=[1, 0, 0, 0])])
        with pytest.raises(EmbedderError, match="model-x"):
            docs.search("words")
        assert contents(docs.search("words", mode="keyword")) == ["some words"]

    def test_given_vectors_are_restored_by_repair(self, place: Place) -> None:
        docs = place.given()
        given = [Chunk("one", embedding=[1, 0, 0, 0]), Chunk("two", embedding=[0, 1, 0, 0])]
        docs.sync("p", given)
        parts = docs._parts
        ids = [point_id for point_id, _ in parts.store.scan(parts.spec)]
        parts.store.delete(parts.spec, ids[:1])
        assert not docs.verify()["ok"]
        result = docs.repair()
        if result["restored"]:
            assert docs.verify()["ok"] and docs.count() == 2
        else:
            assert result["lost"] == ["p"], "what cannot be restored is named"
            assert docs.count() == 1 and docs.verify()["ok"]  # it is not searchable, and not said to be
            assert sorted(one["index_status"] for one in docs.show("p")["chunks"]) == ["indexed", "stale"]
            report = docs.sync("p", given)
            assert report.failed == 0 and docs.count() == 2 and docs.verify()["ok"]
            assert docs.sync("p", given).unchanged == 2


def test_wait_and_on_failed_know_their_words(place: Place) -> None:
    docs = place.open()
    for options in ({"wait": "soon"}, {"on_failed": "ignore"}):
        with pytest.raises(InvalidInput):
            docs.sync("p", chunks("text"), **options)  # type: ignore[arg-type]
    docs.sync("p", chunks("text"), wait="stored")
    docs._parts.writer.settle()
    assert found(docs) == ["text"]


def test_stored_is_revealed_later_in_order_and_closing_waits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writes show late, `wait="stored"` returns before; the old revision answers until the new one can."""
    docs = place.open()
    docs.sync("p", chunks("old"))
    late = docs._parts.store.capabilities.visibility != "immediate"
    flush, free = docs._parts.store.flush, threading.Event()

    def slow(spec: GenerationSpec) -> None:
        free.wait(10)
        flush(spec)

    monkeypatch.setattr(docs._parts.store, "flush", slow)
    if not late:
        free.set()
    for text in ("new", "newer"):
        assert docs.sync("p", chunks(text), wait="stored").added == 1
        assert found(docs) == (["old"] if late else [text])
    free.set()
    docs._parts.writer.settle()
    assert found(docs) == ["newer"]
    assert docs.status()["unfinished"] == 0
    docs.close()
    assert not [one for one in threading.enumerate() if one.name == "shelflist-later"]


def test_a_store_that_fails_between_begin_and_switch_leaves_the_old_revision(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = place.open()
    docs.sync("p", chunks("old"))
    place.embedder.take()
    with monkeypatch.context() as patch:
        patch.setattr(docs._parts.store, "upsert", _unavailable)
        with pytest.raises(StoreUnavailable):
            docs.sync("p", chunks("new"))
    assert found(docs) == ["old"]
    assert docs.count() == 1
    report = docs.sync("p", chunks("new"))
    assert report.failed == 0 and found(docs) == ["new"]
    assert place.embedder.take() == ["new"], "paid for before the store failed"
    verdict = docs.verify()
    assert verdict["ok"], verdict


def _unavailable(*_: object) -> None:
    raise StoreUnavailable("The store cannot be reached.")
