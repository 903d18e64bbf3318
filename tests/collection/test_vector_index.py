"""A collection that grows past the threshold of its vector index, and what verify and repair say of the index's snapshot."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from counting import CountingEmbedder

import shelflist
from shelflist import Chunk, Collection, Document, F, Hnsw, Progress, SearchParams
from shelflist.core.errors import InvalidInput
from shelflist.core.types import Vector
from shelflist.engine import planner
from shelflist.engine.columns import Columns
from shelflist.engine.graph import Graph
from shelflist.stores._vector_cache import VectorCache

DIMENSIONS = 40


def vector(number: int) -> np.ndarray:
    centre = np.random.default_rng(number % 10).normal(size=DIMENSIONS)
    return (centre + 0.3 * np.random.default_rng(100 + number).normal(size=DIMENSIONS)).astype(np.float32)


def documents(numbers: range) -> list[Document]:
    return [
        Document(f"d{number}", [Chunk(f"text {number}", metadata={"even": number % 2 == 0}, embedding=vector(number))])
        for number in numbers
    ]


def opened(place: Path) -> Collection:
    return shelflist.open(
        f"file:{place}",
        "docs",
        embedder=None,
        fingerprint="test",
        dimensions=DIMENSIONS,
        fields={"even": bool},
        index=Hnsw(indexing_threshold=200, full_scan_threshold=20),
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with opened(tmp_path / "index") as docs:
        docs.sync_all(documents(range(150)))
        assert docs.search(vector(3)).plan == "dense: exact over 150 rows (no index is in use)"
        docs.sync_all(documents(range(150, 300)))
    return tmp_path / "index"  # closed: what was built aside is there


def test_it_moves_up_by_itself_and_goes_on_answering(place: Path) -> None:
    with opened(place) as docs:
        hits = docs.search(vector(3))
        assert hits.plan.startswith("dense: graph of 300 rows, ef_search ") and not hits.exact
        assert hits[0].document_id == "d3" and hits[0].content == "text 3"
        assert docs.recall() >= 0.95
        even = docs.search(vector(3), where=F("even") == True)  # noqa: E712
        assert len(even) == 10 and all(hit.metadata["even"] for hit in even)
        assert docs.search(vector(3), params=SearchParams(exact=True)).exact
        assert docs.search(vector(3), params=SearchParams(ef_search=99)).plan.endswith("ef_search 99 (no filter)")
        docs.sync("new", [Chunk("new", embedding=vector(3) * 2)])
        docs.delete("d3")
        found = docs.search(vector(3))
        assert found[0].document_id == "new" and "d3" not in {hit.document_id for hit in found} and len(found) == 10
        assert docs.verify()["ok"] and docs.status()["store"]["snapshot_rows"] == 300


def test_a_damaged_snapshot_is_found_and_mended(place: Path) -> None:
    (graph,) = (place / "vectors").glob("*/graph.faiss")
    data = bytearray(graph.read_bytes())
    data[len(data) // 3] ^= 1
    graph.write_bytes(data)
    with opened(place) as docs:
        assert docs.search(vector(3)).exact
        found = docs.verify()
        assert (found["ok"], found["snapshot_ok"], found["keywords_ok"]) == (False, False, True)
        assert docs.status()["store"]["snapshot_rows"] is None
        assert docs.repair()["actions"] == [
            "keyword index showed no damage, rebuilt all the same from 300 rows",
            "vector index rebuilt",
        ]
        assert docs.verify()["ok"] and docs.search(vector(3)).plan.startswith("dense: graph of 300")


def test_deleting_documents_builds_it_anew(place: Path) -> None:
    with opened(place) as docs:
        docs.delete("d299")
        docs.wait_for_build()
        assert docs.search(vector(3)).plan.startswith("dense: graph of 300 rows")  # one is not worth it
        for number in range(230, 299):
            docs.delete(f"d{number}")
        docs.wait_for_build()
        assert not docs.search(vector(3)).plan.startswith("dense: graph of 300 rows")
        assert docs.search(vector(3)).plan.startswith("dense: graph of ")


DAY = 86_400.0


@pytest.mark.parametrize("step", [-DAY, DAY])
def test_a_clock_that_is_set_by_a_day(place: Path, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    right = time.time
    with opened(place) as docs, opened(place) as reader:
        assert reader.search(vector(3))[0].document_id == "d3"
        monkeypatch.setattr("time.time", lambda: right() + step)
        docs.sync("new", [Chunk("new", embedding=vector(3) * 2)])
        docs.delete("d3")
        docs.sync("d4", [Chunk("other", embedding=-vector(4))])
        for one in (docs, reader):
            hits = one.search(vector(3))
            assert hits.plan.startswith("dense: graph of 300 rows") and hits[0].document_id == "new" and len(hits) == 10
            assert "d3" not in {hit.document_id for hit in hits}
            assert one.search(-vector(4))[0].content == "other"
        docs.repair()
        for one in (docs, reader):
            assert one.search(vector(3)).plan.startswith("dense: graph of 300 rows")
            assert one.search(vector(3))[0].document_id == "new" and one.search(-vector(4))[0].content == "other"
        monkeypatch.setattr("time.time", right)
        docs.delete("new")
        assert reader.search(vector(3))[0].document_id not in ("new", "d3")
        assert docs.verify()["ok"]


def test_a_copy_builds_its_own(place: Path, tmp_path: Path) -> None:
    shelflist.copy(f"file:{place}", f"file:{tmp_path / 'copy'}", "docs")
    with shelflist.open(f"file:{tmp_path / 'copy'}", "docs") as docs:
        assert docs.search(vector(3)).plan.startswith("dense: graph of 300")


def test_a_sync_that_changes_nothing_builds_what_an_interrupted_one_has_not(place: Path) -> None:
    shutil.rmtree(place / "vectors")
    with opened(place) as docs:
        assert docs.search(vector(3)).exact
        assert docs.sync_all(documents(range(300))).unchanged == 300
    with opened(place) as docs:
        assert docs.search(vector(3)).plan.startswith("dense: graph of 300")


def test_the_wait_for_the_index_shows_progress(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as docs:
        docs.sync_all(documents(range(300)))
        steps: list[Progress] = []
        docs.wait_for_build(progress=steps.append)
        assert {step.stage for step in steps} <= {"building the vector index"}
        assert all(step.unit == "vectors" and step.total in (None, 300, 900) for step in steps)
        assert docs.search(vector(3)).plan.startswith("dense: graph of 300 rows")
        steps.clear()
        docs.wait_for_build(progress=steps.append)
        assert steps == []


def test_verify_and_repair_show_progress(place: Path) -> None:
    with opened(place) as docs:
        steps: list[Progress] = []
        assert docs.verify(sample=120, progress=steps.append)["ok"]
        assert [(step.stage, step.total) for step in steps] == [
            ("reading the ledger", None),
            ("reading the store", 300),
            ("comparing vectors", 120),
        ]
        parts = docs._parts
        parts.store.delete(parts.spec, [one for one, _ in parts.store.scan(parts.spec)][:40])
        steps.clear()
        docs.repair(progress=steps.append)
        assert ("restoring", 40) in [(step.stage, step.total) for step in steps]


def test_why_shows_what_the_index_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Hnsw(indexing_threshold=200, full_scan_threshold=0)
    with shelflist.open(f"file:{tmp_path / 'index'}", "docs", embedder=CountingEmbedder(), index=index) as docs:
        docs.sync_all(Document(f"d{number}", [Chunk(f"text {number}")]) for number in range(500))
        docs.wait_for_build()
        (found,) = docs.why("d7", "text 7")["chunks"]
        assert found["exact_rank"] == found["dense_rank"] == 1
        monkeypatch.setattr(planner, "_EFFORT_COST", 0)  # else a hundred of five hundred are found without it
        whole = Graph.nearest
        monkeypatch.setattr(Graph, "nearest", lambda *asked: whole(*asked)[1:])
        told = docs.why("d7", "text 7")
        (missed,) = told["chunks"]
        assert missed["exact_rank"] == 1 and missed["dense_rank"] is None
        assert "graph of 500 rows" in told["plan"]


def test_why_by_a_vector_looks_as_far_as_its_search_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Hnsw(indexing_threshold=200, full_scan_threshold=0)
    with shelflist.open(f"file:{tmp_path / 'index'}", "docs", embedder=CountingEmbedder(), index=index) as docs:
        docs.sync_all(Document(f"d{number}", [Chunk(f"text {number}")]) for number in range(500))
        docs.wait_for_build()
        query = CountingEmbedder().embed_query("text 7")
        (found,) = docs.why("d7", query)["chunks"]
        assert found["exact_rank"] == found["dense_rank"] == 1
        whole = Graph.nearest

        def hasty(self: Graph, asked: Vector, count: int, ef_search: int) -> object:
            nearest = whole(self, asked, count, ef_search)
            return nearest[1:] if count < 50 else nearest

        monkeypatch.setattr(Graph, "nearest", hasty)
        assert "text 7" not in [hit.content for hit in docs.search(query)]
        told = docs.why("d7", query)
        assert told["chunks"][0]["exact_rank"] == 1 and told["chunks"][0]["dense_rank"] > 10
        assert told["plan"] == f"{docs.search(query).plan}"


def test_recall_where_nothing_matches_is_no_recall(place: Path) -> None:
    with opened(place) as docs:
        assert docs.recall(where=F("even") == True) >= 0.9  # noqa: E712
        with pytest.raises(InvalidInput, match="no chunk matches"):
            docs.recall(where=(F("even") == True) & (F("even") == False))  # noqa: E712


def test_a_field_declared_after_the_snapshot_is_answered_too(place: Path) -> None:
    with opened(place) as docs:
        docs.sync("late", [Chunk("late", metadata={"even": True, "colour": "red"}, embedding=vector(3))])
        docs.add_field("colour", str)
        assert docs.count(F("colour") == "red") == 1 and docs.count(F("colour") != "red") == 300
        assert docs.count((F("even") == True) & (F("colour") != "red")) == 150  # noqa: E712
        docs.delete("d0")
        assert docs.count(F("even") == True) == 150  # noqa: E712
        docs.repair()
        assert docs.count(F("colour") == "red") == 1 and docs.count(F("even") == True) == 150  # noqa: E712


def test_a_new_filter_asks_the_columns_and_not_the_database(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(place) as docs:
        docs.search(vector(3))
        asked: list[str] = []
        whole = VectorCache._mask
        monkeypatch.setattr(VectorCache, "_mask", lambda self, *given: asked.append(given[2]) or whole(self, *given))
        assert docs.count(F("even") == True) == 150 and asked == []  # noqa: E712
        docs.sync("late", [Chunk("late", metadata={"even": True}, embedding=vector(3))])
        assert docs.count(F("even") != True) == 150 and len(asked) == 1  # noqa: E712
        monkeypatch.setattr(Columns, "matching", lambda *given: None)
        assert docs.count(~(F("even") == False)) == 151 and len(asked) == 2  # noqa: E712


@pytest.mark.parametrize("marked", [["p"], ["p", "q"]], ids=["some", "all"])
def test_the_caches_are_rebuilt_where_chunks_with_lists_are_stale(tmp_path: Path, marked: list[str]) -> None:
    with shelflist.open(
        f"file:{tmp_path / 'index'}", "docs", embedder=CountingEmbedder(), fields={"tags": list[str]}
    ) as docs:
        for name in ("p", "q"):
            docs.sync(name, [Chunk(f"text {name}", metadata={"tags": ["a", name]})])
        for name in marked:
            docs.mark_stale(name)
        docs._parts.store.repair(docs._parts.spec)
        assert docs.count(F("tags").contains("a")) == 2 - len(marked)
