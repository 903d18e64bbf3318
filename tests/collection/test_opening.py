"""Opening, dropping, declaring fields, and proving and restoring what is there."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from counting import CountingEmbedder, chunks, contents, document, documents, unit
from late_store import LateStore
from places import Place

import shelflist
from shelflist import Chunk, Collection, Flat, Hnsw, Ivf
from shelflist.core.errors import (
    CollectionMismatch,
    CollectionNotFound,
    ConfigError,
    EmbedderMismatch,
    LedgerTooNew,
    MarkerMismatch,
    StoreDamaged,
    StoreTooNew,
    StoreUnavailable,
    UnknownField,
    UnknownStore,
    UnsupportedIndex,
    WrongFieldType,
)


class TestOptions:
    def test_what_is_stored_comes_back(self, directory: Place) -> None:
        first = directory.open(fields={"n": int}, tenancy="required", metric="dot", target_recall=0.9)
        first.tenant("acme").sync("p", [Chunk("text", {"n": 1})])
        first.close()
        again = directory.open()
        assert (again.tenancy, again.metric, again.dimensions, again.fingerprint) == ("required", "dot", 16, "counting")
        assert again.fields.to_json() == {"n": "int"}
        assert again.status()["target_recall"] == 0.9
        assert contents(again.tenant("acme").search("text", where="n == 1")) == ["text"]
        same = {"fields": {"n": int}, "tenancy": "required", "metric": "dot", "target_recall": 0.9}
        directory.open(**same)  # the same options, said again

    def test_every_difference_is_listed(self, directory: Place) -> None:
        directory.open(fields={"n": int}).close()
        with pytest.raises(CollectionMismatch) as caught:
            directory.open(
                embedder=CountingEmbedder("another"),
                fields={"n": str, "m": int},
                index=Flat(),
                tenancy="required",
                metric="l2",
                target_recall=0.5,
            )
        said = str(caught.value)
        for word in ("embedder", "counting", "another", "fields", "'m'", "index", "tenancy", "metric", "target_recall"):
            assert word in said
        with pytest.raises(CollectionMismatch) as caught:
            directory.open(metric="l2")
        assert "metric" in str(caught.value) and "tenancy" not in str(caught.value)
        directory.open()

    def test_another_vector_space_is_refused_with_both_named(self, directory: Place) -> None:
        directory.open().close()
        with pytest.raises(CollectionMismatch, match=r"(?s)counting.*another"):
            directory.open(embedder=CountingEmbedder("another"))
        with pytest.raises(CollectionMismatch, match=r"(?s)counting.*none"):
            directory.open(embedder=None, fingerprint="counting", dimensions=16)
        directory.given().close()
        with pytest.raises(CollectionMismatch, match=r"(?s)4.*5"):
            directory.given(dimensions=5)
        with pytest.raises(CollectionMismatch, match=r"(?s)model-x.*counting"):
            directory.open("given")

    def test_a_fingerprint_that_changes_under_an_open_collection_is_refused(self, place: Place) -> None:
        docs = place.open()
        place.embedder.fingerprint = "drifted"
        with pytest.raises(EmbedderMismatch, match=r"(?s)counting.*drifted"):
            docs.sync("p", chunks("text"))
        assert docs.count() == 0

    def test_an_embedder_and_a_fingerprint_of_another_space(self, place: Place) -> None:
        with pytest.raises(EmbedderMismatch, match="counting"):
            place.open(embedder=place.embedder, fingerprint="other")

    def test_given_vectors_declare_their_space(self, place: Place) -> None:
        for missing in ({"fingerprint": "x"}, {"dimensions": 3}, {"fingerprint": "", "dimensions": 3}):
            with pytest.raises(ConfigError, match="fingerprint"):
                shelflist.open(place.url, "given", ledger=place.ledger, embedder=None, **missing)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="dimensions"):
            place.given(dimensions=0)
        assert place.given(dimensions=3).dimensions == 3

    @pytest.mark.parametrize("index", [Hnsw(), Ivf()])
    def test_an_index_kind_that_a_store_has_not(self, index: Hnsw | Ivf) -> None:
        with pytest.raises(UnsupportedIndex, match=f"memory store has no {index.kind} index"):
            shelflist.open("memory:", "docs", embedder="static", index=index)

    @pytest.mark.parametrize("index", [Hnsw(quantization="no such"), Ivf(quantization="no such")])
    def test_an_index_that_is_not_there_is_refused_and_leaves_nothing(self, place: Place, index: Hnsw | Ivf) -> None:
        with pytest.raises(UnsupportedIndex):
            place.open(index=index)
        assert shelflist.collections(place.url, place.ledger) == []
        assert place.open(index=Flat()).status()["index"] == "flat"

    @pytest.mark.parametrize(
        "options",
        [
            {"target_recall": 0},
            {"target_recall": 1.5},
            {"target_recall": "high"},
            {"tenancy": "maybe"},
            {"fields": {"not a name": int}},
            {"fields": ["n"]},
            {"fields": []},
            {"fields": "n"},
            {"index": "hsnw(m=16)"},
            {"index": Hnsw},
            {"index": 16},
        ],
    )
    def test_options_that_mean_nothing(self, place: Place, options: dict[str, object]) -> None:
        with pytest.raises(ConfigError):
            place.open(**options)

    def test_dimensions_are_an_integer_of_any_kind(self, place: Place) -> None:
        given = place.given(dimensions=np.int64(4))  # type: ignore[arg-type]
        assert given.dimensions == 4 and type(given.dimensions) is int
        for none in (True, 4.0, np.int64(0)):
            with pytest.raises(ConfigError, match="not a positive int"):
                place.given("other", dimensions=none)  # type: ignore[arg-type]

    def test_an_index_is_given_as_an_object_or_as_the_command_line_takes_it(self, directory: Place) -> None:
        said = directory.open(index="hnsw(m=8)").status()["index"]
        assert said == directory.open("other", index=Hnsw(m=8)).status()["index"]
        assert said == "hnsw(m=8, ef_construction=128)"
        directory.open(index=said)  # as the status says it, it is taken back
        directory.open(index=Hnsw(m=8))
        with pytest.raises(CollectionMismatch, match="index"):
            directory.open(index="flat")
        assert (
            directory.open("best", index="auto").status()["index"]
            == directory.open("plain").status()["index"]
            == "auto"
        )
        cells = directory.open("cells", index=Ivf(nlist=64, quantization="rabitq2"))
        assert cells.status()["index"] == "ivf(nlist=64, quantization=rabitq2)"

    @pytest.mark.parametrize("name", ["", None, 3])
    def test_a_name_is_a_non_empty_str(self, place: Place, name: object) -> None:
        with pytest.raises(ConfigError):
            place.open(name)  # type: ignore[arg-type]

    def test_a_strange_name_is_a_name(self, directory: Place) -> None:
        for name in ("it's", 'a"b; DROP TABLE x', "ünï", "a/b"):
            directory.open(name).sync("p", chunks(name))
        for name in shelflist.collections(directory.url, directory.ledger):
            assert contents(directory.open(name).search("x")) == [name]

    @pytest.mark.parametrize("scheme", ["file", "memory"])
    def test_an_option_of_a_url_that_is_not_known(self, scheme: str, folder: Path) -> None:
        path = folder / "index" if scheme == "file" else ""
        with pytest.raises(ConfigError, match=r"option 'foo' that is not known"):
            shelflist.open(f"{scheme}:{path}?foo=1", "docs")
        with pytest.raises(ConfigError, match=r"option 'foo' that is not known"):
            shelflist.open(f"{scheme}:{path}", "docs", ledger=f"sqlite:{folder / 'ledger.db'}?foo=1")
        assert not (folder / "ledger.db").exists()
        shelflist.open(f"{scheme}:{path}", "docs").close()

    def test_an_unknown_place(self) -> None:
        with pytest.raises(UnknownStore):
            shelflist.open("qdrantt://host", "docs")


class TestPlaces:
    def test_without_create_nothing_is_made(self, directory: Place, tmp_path: Path) -> None:
        with pytest.raises(CollectionNotFound, match="docs"):
            directory.open(create=False)
        assert directory.directory is not None and not directory.directory.exists()
        assert shelflist.collections(directory.url, directory.ledger) == []
        directory.open("other").close()
        with pytest.raises(CollectionNotFound, match="other"):
            directory.open(create=False)
        assert shelflist.collections(directory.url, directory.ledger) == ["other"]
        assert directory.open("other", create=False).count() == 0

    def test_a_newer_ledger_is_refused_and_not_touched(self, directory: Place) -> None:
        directory.open().sync("p", chunks("text"))
        directory.close()
        ((version,),) = directory.sql("SELECT value FROM sl_meta WHERE key = 'version'", ledger=True)
        directory.sql("UPDATE sl_meta SET value = '99' WHERE key = 'version'", ledger=True)
        with pytest.raises(LedgerTooNew, match=r"99"):
            directory.open()
        directory.sql("UPDATE sl_meta SET value = ? WHERE key = 'version'", version, ledger=True)
        assert directory.open().count() == 1

    def test_a_newer_store_is_refused_and_not_touched(self, directory: Place) -> None:
        directory.open().sync("p", chunks("text"))
        directory.close()
        directory.sql("PRAGMA user_version = 7")
        for name in ("docs", "another"):
            with pytest.raises(StoreTooNew, match=r"index has store version 7.*Upgrade with"):
                directory.open(name)
        assert shelflist.collections(directory.url, directory.ledger) == ["docs"]
        directory.sql("PRAGMA user_version = 0")
        assert directory.open().count() == 1

    def test_a_store_under_another_ledger_is_refused(self, folder: Path) -> None:
        one = Place(f"file:{folder / 'index'}", f"sqlite:{folder / 'one.db'}", folder / "index")
        one.open().sync("p", chunks("text"))
        one.close()
        for other in (f"sqlite:{folder / 'two.db'}", None):
            with pytest.raises(MarkerMismatch):
                Place(one.url, other).open()
        with pytest.raises(MarkerMismatch):
            Place(f"file:{folder / 'empty'}", one.ledger).open()
        assert one.open().count() == 1
        one.close()

    def test_an_opening_that_fails_leaves_no_ledger_behind(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        url, ledger = f"late://{folder.name}", folder / "apart" / "ledger.db"
        source = Place(f"file:{folder / 'index'}")
        source.open().sync("p", chunks("text"))
        reading = LateStore.read_marker

        def unreachable(store: LateStore, collection: str) -> str | None:
            raise StoreUnavailable("The server cannot be reached.")

        for answer, options, error in (
            (unreachable, {}, StoreUnavailable),
            (reading, {"embedder": "none-such:model"}, ConfigError),
            (reading, {"embedder": None}, ConfigError),
            (reading, {"index": Ivf()}, UnsupportedIndex),
            (lambda *_: "another", {}, MarkerMismatch),
        ):
            monkeypatch.setattr(LateStore, "read_marker", answer)
            with pytest.raises(error):
                shelflist.open(url, "docs", ledger=f"sqlite:{ledger}", **options)
            assert not ledger.parent.exists(), options
        monkeypatch.setattr(LateStore, "read_marker", unreachable)
        with pytest.raises(StoreUnavailable):
            shelflist.copy(source.url, url, "docs", to_ledger=f"sqlite:{ledger}")
        assert not ledger.parent.exists()

        monkeypatch.setattr(LateStore, "read_marker", reading)
        shelflist.open(url, "docs", ledger=f"sqlite:{ledger}").close()
        monkeypatch.setattr(LateStore, "read_marker", unreachable)
        for name in ("docs", "others"):
            with pytest.raises(StoreUnavailable):
                shelflist.open(url, name, ledger=f"sqlite:{ledger}")
        assert ledger.exists() and shelflist.collections("memory:", f"sqlite:{ledger}") == ["docs"]
        source.close()

    def test_a_memory_store_under_a_ledger_with_collections_is_refused(self, folder: Path) -> None:
        place = Place("memory:", f"sqlite:{folder / 'ledger.db'}")
        place.open().sync("p", chunks("text"))
        with pytest.raises(MarkerMismatch):
            Place("memory:", place.ledger).open()
        place.close()

    def test_two_collections_of_one_directory_share_nothing(self, directory: Place) -> None:
        one, two = directory.open("one"), directory.open("two", metric="l2")
        one.sync_all(documents(4), source="s")
        two.sync_all([document("d0", "of two"), document("only", "in two")], source="t")
        assert (one.count(), two.count()) == (8, 2)
        assert contents(two.search("d0 first two", limit=99)) == ["in two", "of two"]
        assert contents(one.search("two", mode="keyword")) == []
        assert two.delete("d1") == 0 and two.delete("d0") == 1
        assert two.sync_all([], source="s", delete="missing").documents_removed == 0
        assert one.count() == 8
        assert one.verify()["ok"] and two.verify()["ok"]
        two.drop()
        assert shelflist.collections(directory.url, directory.ledger) == ["one"]
        assert one.count() == 8 and one.verify()["ok"]
        fresh = directory.open("two")
        assert fresh.count() == 0
        assert (fresh.metric, list(fresh.search("two"))) == ("cosine", [])

    def test_a_dropped_collection_leaves_no_row(self, directory: Place) -> None:
        docs = directory.open()
        docs.sync_all(documents(4))
        docs.drop()
        tables = [name for (name,) in directory.sql("SELECT name FROM sqlite_master WHERE type = 'table'", ledger=True)]
        left = {
            name: rows
            for name in tables
            if name.startswith("sl_") and name not in ("sl_meta", "sl_keys")
            for rows in directory.sql(f"SELECT count(*) FROM {name}", ledger=True)
            if rows != (0,)
        }
        assert left == {}
        assert directory.sql("SELECT count(*) FROM store_generations") == [(0,)]

    def test_it_opens_where_it_was_moved_to(self, folder: Path) -> None:
        old = Place(f"file:{folder / 'old'}", None, folder / "old")
        docs = old.open()
        docs.sync("p", chunks("text"))
        name = docs.show("p")["chunks"][0]["chunk_id"]
        old.close()
        shutil.move(folder / "old", folder / "new")
        new = Place(f"file:{folder / 'new'}", None, folder / "new")
        assert new.open().search("text")[0].chunk_id == name
        new.close()


class TestAddField:
    def test_old_chunks_can_be_filtered_by_it(self, place: Place) -> None:
        docs = place.open(fields={"n": int})
        docs.sync(
            "p",
            [
                Chunk("one", {"n": 1, "lang": "en", "tags": ["a", "b"]}),
                Chunk("two", {"n": 2}),
                Chunk("three", {"tags": []}),
            ],
        )
        with pytest.raises(UnknownField):
            docs.count('lang == "en"')
        docs.add_field("lang", str)
        docs.add_field("tags", list[str])
        docs.add_field("later", "datetime")
        assert docs.count('lang == "en"') == 1
        assert docs.count('lang != "en"') == 2
        assert contents(docs.search("x", where='"b" in tags')) == ["one"]
        assert contents(docs.search("x", where={"tags": {"$exists": True}})) == ["one", "three"]
        docs.sync("q", [Chunk("four", {"lang": "de", "later": "2024-01-01T00:00:00+00:00"})])
        assert contents(docs.search("x", where='lang in ["en", "de"]')) == ["four", "one"]
        assert docs.verify()["ok"]
        assert docs.sync("p", [Chunk("one", {"n": 1, "lang": "en", "tags": ["a", "b"]})]).embedded == 0
        with pytest.raises(ConfigError, match="'lang'"):
            docs.add_field("lang", int)

    def test_a_value_that_misfits_refuses_it_without_a_change(self, place: Place) -> None:
        docs = place.open(fields={"n": int})
        fine = [Chunk(f"text {i}", {"n": i, "page": i, "at": "2024-01-01T00:00:00+00:00"}) for i in range(3)]
        docs.sync("p", [*fine, Chunk("odd", {"page": "four", "at": "soon"})])
        for name, kind in (("page", int), ("at", "datetime")):
            with pytest.raises(WrongFieldType, match=name):
                docs.add_field(name, kind)
        assert docs.fields.to_json() == {"n": "int"}
        assert docs.count() == 4 and docs.count("n >= 1") == 2
        with pytest.raises(UnknownField):
            docs.count("page == 1")
        metadata = {hit.content: hit.metadata for hit in docs.search("x")}
        assert metadata["odd"] == {"page": "four", "at": "soon"}
        assert metadata["text 1"]["at"] == "2024-01-01T00:00:00+00:00"
        assert docs.verify()["ok"]
        docs._parts.writer._grace = 0.0
        docs.sync("p", fine)
        docs.purge()
        docs.add_field("page", int)
        assert docs.count("page == 1") == 1

    def test_it_is_there_after_opening_again(self, directory: Place) -> None:
        docs = directory.open()
        docs.sync("p", [Chunk("one", {"lang": "en"})])
        docs.add_field("lang", str)
        docs.close()
        assert directory.open().count('lang == "en"') == 1


def points(docs: Collection) -> list[bytes]:
    return sorted(point for point, _ in docs._parts.store.scan(docs._parts.spec))


class TestVerifyAndRepair:
    @pytest.fixture
    def docs(self, place: Place) -> Collection:
        docs = place.open(fields={"n": int, "tags": list[str]})
        docs.sync_all(documents(6))
        docs.sync("p", [Chunk("planted", {"n": 7, "tags": ["a"]})])
        assert docs.verify()["ok"]
        place.embedder.take()
        return docs

    def repaired(self, place: Place, docs: Collection) -> None:
        docs.repair()
        verdict = docs.verify()
        assert verdict["ok"], verdict
        assert docs.count() == 13 and docs.count('n == 7 and "a" in tags') == 1
        assert contents(docs.search("planted", mode="keyword")) == ["planted"]
        assert len(docs.search("x", limit=99, mode="dense")) == 13
        assert docs.search(unit("planted"))[0].content == "planted"
        assert docs.sync_all(documents(6)).documents_unchanged == 6

    def test_a_missing_point(self, place: Place, docs: Collection) -> None:
        parts = docs._parts
        gone = points(docs)[::3]
        parts.store.delete(parts.spec, gone)
        verdict = docs.verify()
        assert not verdict["ok"] and sorted(verdict["missing"]) == [one.hex() for one in gone]
        assert verdict["missing_documents"] and verdict["ghosts"] == []
        self.repaired(place, docs)
        if place.apart:
            assert place.embedder.take() == [], "the cache has what was paid for"
        else:
            assert len(place.embedder.take()) == len(gone), "only what nothing else has is paid for again"

    def test_a_ghost(self, place: Place, docs: Collection) -> None:
        parts = docs._parts
        (real,) = parts.store.get(parts.spec, points(docs)[:1])
        ghost = type(real)(b"g" * 16, b"c" * 16, "ghost", None, "planted ghost", {"n": 1}, unit("planted ghost"))
        parts.store.upsert(parts.spec, [ghost])
        assert "planted ghost" not in contents(docs.search("planted ghost", limit=99))
        assert "planted ghost" not in contents(docs.search("planted ghost", limit=99, mode="keyword"))
        assert len(docs.search("planted ghost", limit=13, mode="dense")) == 13
        verdict = docs.verify()
        assert not verdict["ok"] and verdict["ghosts"] == [ghost.point_id.hex()]
        self.repaired(place, docs)
        assert place.embedder.take() == []

    def test_a_point_that_was_hidden_behind_our_back(self, place: Place, docs: Collection) -> None:
        parts = docs._parts
        hidden = points(docs)[:2]
        parts.store.set_stale(parts.spec, hidden)
        verdict = docs.verify()
        assert not verdict["ok"] and sorted(verdict["hidden"]) == [one.hex() for one in hidden]
        self.repaired(place, docs)
        assert place.embedder.take() == []

    def test_a_marked_document_stays_hidden_through_a_repair(self, place: Place, docs: Collection) -> None:
        parts = docs._parts
        docs.mark_stale("p")
        assert docs.verify()["ok"]
        parts.store.delete(parts.spec, points(docs))
        docs.repair()
        assert docs.verify()["ok"]
        assert docs.count() == 12
        assert "planted" not in contents(docs.search("planted", limit=99))

    def test_a_changed_vector(self, directory: Place) -> None:
        docs = directory.open(fields={"n": int, "tags": list[str]})
        docs.sync_all(documents(6))
        docs.sync("p", [Chunk("planted", {"n": 7, "tags": ["a"]})])
        directory.embedder.take()
        docs.close()
        table = directory.table()
        directory.sql(
            f"UPDATE {table}_vectors SET vector = ? WHERE row = (SELECT row FROM {table} WHERE content = 'planted')",
            unit("something else").tobytes(),
        )
        docs = directory.open()
        verdict = docs.verify()
        assert not verdict["ok"] and len(verdict["vectors_different"]) == 1
        self.repaired(directory, docs)
        assert directory.embedder.take() == ([] if directory.apart else ["planted"])

    def test_a_changed_given_vector(self, directory: Place) -> None:
        docs = directory.given()
        docs.sync("p", [Chunk("one", embedding=[1, 0, 0, 0]), Chunk("two", embedding=[0, 1, 0, 0])])
        docs.close()
        table = directory.table()
        directory.sql(f"UPDATE {table}_vectors SET vector = ? WHERE row = 1", np.ones(4, np.float32).tobytes())
        docs = directory.given()
        verdict = docs.verify()
        assert not verdict["ok"] and len(verdict["vectors_different"]) == 1
        assert docs.repair(sample=0)["actions"] == []  # none is compared, so none is found
        assert docs.repair(sample=2)["restored" if directory.apart else "lost"]
        assert docs.verify()["ok"]

    def test_a_vector_of_another_length(self, directory: Place) -> None:
        docs = directory.open(fields={"n": int, "tags": list[str]})
        docs.sync_all(documents(6))
        docs.sync("p", [Chunk("planted", {"n": 7, "tags": ["a"]})])
        docs.close()
        directory.sql(f"UPDATE {directory.table()}_vectors SET vector = x'0102030405' WHERE row = 3")
        docs = directory.open()
        with pytest.raises(StoreDamaged, match=r"has not 16 numbers.*shelflist repair"):
            docs.search("planted", mode="dense")
        assert len(docs.verify()["vectors_different"]) == 1
        self.repaired(directory, docs)

    def test_a_vector_of_not_a_number(self, directory: Place) -> None:
        docs = directory.open(fields={"n": int, "tags": list[str]})
        docs.sync_all(documents(6))
        docs.sync("p", [Chunk("planted", {"n": 7, "tags": ["a"]})])
        docs.close()
        directory.sql(f"UPDATE {directory.table()}_vectors SET vector = ?", np.full(16, np.nan, np.float32).tobytes())
        docs = directory.open()
        assert len(docs.verify()["vectors_different"]) == 13
        self.repaired(directory, docs)


def crash_in(folder: Path, method: str, work: Callable[[Collection], object]) -> None:
    """Run `work` in a process that dies where the store's `method` would have begun."""
    child = os.fork()
    if child == 0:
        try:
            place = Place(f"file:{folder / 'index'}", f"sqlite:{folder / 'ledger.db'}", folder / "index")
            docs = place.open()
            setattr(docs._parts.store, method, lambda *a: os._exit(77))
            work(docs)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77


class TestUnfinished:
    @pytest.mark.parametrize("method", ["upsert", "flush", "set_stale"])
    def test_a_killed_process_leaves_work_that_the_next_sync_finishes(self, folder: Path, method: str) -> None:
        place = Place(f"file:{folder / 'index'}", f"sqlite:{folder / 'ledger.db'}", folder / "index")
        docs = place.open()
        docs.sync("p", chunks("stays", "old"))
        docs.sync("other", chunks("other"))
        docs.close()
        crash_in(folder, method, lambda docs: docs.sync("p", chunks("stays", "new", "newer")))
        docs = place.open()
        switched = method == "set_stale"
        expected = ["new", "newer", "other", "stays"] if switched else ["old", "other", "stays"]
        for mode in ("dense", "keyword", "hybrid"):
            assert contents(docs.search("stays old new newer other", mode=mode)) == expected
        assert docs.count() == len(expected)
        assert docs.status()["unfinished"] == (0 if switched else 1)
        verdict = docs.verify()
        assert verdict["ok"], verdict
        place.embedder.take()
        docs.sync("unrelated", chunks("unrelated"))
        assert place.embedder.take() == ["unrelated"], "what the dead process paid for is in the ledger"
        assert contents(docs.search("x", limit=99)) == ["new", "newer", "other", "stays", "unrelated"]
        assert docs.status()["unfinished"] == 0
        assert docs.count() == 5 and docs.verify()["ok"]
        assert docs.sync("p", chunks("stays", "new", "newer")).documents_unchanged == 1
        place.close()

    def test_repair_finishes_it_too(self, folder: Path) -> None:
        place = Place(f"file:{folder / 'index'}", f"sqlite:{folder / 'ledger.db'}", folder / "index")
        place.open().close()
        crash_in(folder, "upsert", lambda docs: docs.sync("p", chunks("new")))
        docs = place.open()
        assert docs.documents() == [] and docs.count() == 0
        assert docs.repair()["finished"] == 1
        assert contents(docs.search("new")) == ["new"]
        place.close()

    def test_it_gives_way_to_a_newer_revision(self, folder: Path) -> None:
        place = Place(f"file:{folder / 'index'}", f"sqlite:{folder / 'ledger.db'}", folder / "index")
        place.open().close()
        crash_in(folder, "flush", lambda docs: docs.sync("p", chunks("half")))
        docs = place.open()
        docs.sync("p", chunks("whole"))
        assert contents(docs.search("half whole")) == ["whole"]
        assert docs.count() == 1 and docs.status()["unfinished"] == 0 and docs.verify()["ok"]
        place.close()

    def test_what_a_store_refused_for_a_moment_the_next_sync_finishes(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        docs = place.open()

        def refuse(*_: object) -> None:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(docs._parts.store, "upsert", refuse)
            with pytest.raises(StoreUnavailable):
                docs.sync("p", chunks("first"))
        place.embedder.take()
        docs.sync("q", chunks("other"))
        assert docs.status()["unfinished"] == 0
        assert contents(docs.search("x")) == (["first", "other"] if place.apart else ["other"])
        assert place.embedder.take() == ["other"]

    def test_a_live_process_is_not_robbed_of_its_work(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        if not place.apart:
            return
        docs = place.open()

        def refuse(*_: object) -> None:
            raise StoreUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(docs._parts.store, "upsert", refuse)
            with pytest.raises(StoreUnavailable):
                docs.sync("p", chunks("first"))

        def lease(until: float) -> None:
            with docs._parts.ledger.database.write() as tx:
                tx.execute("UPDATE sl_revisions SET lease_until = ?", (until,))

        lease(time.time() + 60)
        docs.sync("q", chunks("other"))
        assert docs.status()["unfinished"] == 1
        assert contents(docs.search("x")) == ["other"]
        lease(1)
        docs.sync("q", chunks("other"))
        assert docs.status()["unfinished"] == 0
        assert contents(docs.search("x")) == ["first", "other"]


class TestKeywordIndex:
    """The keyword index is a cache: it heals, and says so."""

    def damage(self, place: Place, how: str, old: Path | None = None) -> None:
        assert place.directory is not None
        (index,) = (place.directory / "keywords").iterdir()
        if how == "delete":
            shutil.rmtree(index)
        elif how == "cut":
            for file in index.iterdir():
                if file.name != "meta.json":
                    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif how == "garble":
            (index / "meta.json").write_text("{not json")
        else:
            assert old is not None
            shutil.rmtree(index)
            shutil.copytree(old, index)

    @pytest.mark.parametrize("how", ["delete", "cut", "garble", "old"])
    @pytest.mark.parametrize("step", ["search", "sync", "repair"])
    def test_it_heals(
        self, directory: Place, folder: Path, how: str, step: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        docs = directory.open()
        docs.sync_all(documents(3))
        assert directory.directory is not None
        (index,) = (directory.directory / "keywords").iterdir()
        shutil.copytree(index, folder / "copy")
        docs.sync("late", chunks("late words"))
        docs.close()
        self.damage(directory, how, folder / "copy")
        directory.embedder.take()
        docs = directory.open()
        with caplog.at_level(logging.WARNING):
            if step == "search":
                assert contents(docs.search("late", mode="keyword")) == ["late words"]
            elif step == "sync":
                docs.sync("later", chunks("later words"))
            else:
                assert not docs.verify()["ok"]
                assert any("keyword" in action for action in docs.repair()["actions"])
        if step != "repair":
            assert "keyword index" in caplog.text
        assert contents(docs.search("late words", mode="keyword"))[0] == "late words"
        assert len(docs.search("first", mode="keyword")) == 3
        assert docs.verify()["ok"]
        assert set(directory.embedder.take()) <= {"later words"}

    def test_a_sound_one_says_nothing(self, directory: Place, caplog: pytest.LogCaptureFixture) -> None:
        directory.open().sync_all(documents(3))
        directory.close()
        with caplog.at_level(logging.WARNING):
            docs = directory.open()
            assert len(docs.search("first", mode="keyword")) == 3
            docs.sync("later", chunks("later"))
        assert caplog.text == ""


def test_a_file_that_is_no_database_is_named(alone: Place) -> None:
    alone.open().close()
    file = alone.databases()[0]
    file.write_bytes(b"this is not a database, it is a text" * 100)
    with pytest.raises(shelflist.ShelflistError, match="not a sound"):
        alone.open()
    with pytest.raises(sqlite3.DatabaseError):
        alone.sql("SELECT 1 FROM sl_meta")


def test_an_emptied_store_is_refused_and_filled_again_on_demand(place: Place) -> None:
    if not place.outlives:
        return
    docs = place.open()
    if docs._parts.writer.together:  # then the ledger is gone with the store
        return
    docs.sync_all(documents(5))
    place.embedder.take()
    name = docs._parts.spec.name
    docs._parts.store.drop(name)
    docs._parts.store.write_marker("docs", None)
    with pytest.raises(MarkerMismatch, match="repair --emptied"):
        place.open()
    again = place.open(emptied=True)
    assert not again.verify()["ok"]
    again.repair()
    assert again.verify()["ok"] and again.count() == docs.count()
    assert place.embedder.take() == []


def test_a_store_that_is_away_after_the_switch_fails_no_sync(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replaced is out of every answer by the ledger's check; the stale mark only spares candidates."""
    if not place.apart:
        return
    docs = place.open()
    docs.sync("p", chunks("old"))

    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(docs._parts.store, "set_stale", away)
    assert docs.sync("p", chunks("new")).added == 1
    assert contents(docs.search("old new")) == ["new"]
    assert docs.delete("p") == 1
    assert not docs.search("new")
