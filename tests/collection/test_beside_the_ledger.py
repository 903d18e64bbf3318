"""What a store cannot do, the ledger does beside it: the keyword leg, and filters that the store cannot compile."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from counting import chunks, contents
from places import Place, place_of

from shelflist import Chunk, Document, F
from shelflist.core.errors import FilterTooBroad
from shelflist.searching import scope


@pytest.fixture
def late(folder: Path) -> Iterator[Place]:
    place = place_of("late", folder)
    yield place
    place.close()


def index_folder(place: Place) -> Path:
    return Path(str(place.ledger).partition(":")[2] + ".keywords")


def found(place: Place, text: str) -> list[str]:
    return contents(place.open().search(text, mode="keyword"))


def test_a_second_handle_finds_what_the_first_writes_and_not_what_it_removes(late: Place) -> None:
    one, other = late.open(), late.open()
    one.sync("p", chunks("heron lake", "reed pond"))
    assert contents(other.search("heron", mode="keyword")) == ["heron lake"]
    other.sync("p", chunks("reed pond", "osprey nest"))
    assert contents(one.search("heron osprey", mode="keyword")) == ["osprey nest"]
    one.delete("p")
    assert not other.search("reed", mode="keyword")


@pytest.mark.parametrize("harm", ["gone", "cut", "put back"])
def test_a_damaged_index_is_built_anew_and_says_so(
    late: Place, harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docs = late.open()
    docs.sync("p", chunks("heron lake"))
    (place,) = index_folder(late).iterdir()
    shutil.copytree(place, tmp_path / "old")
    docs.sync("q", chunks("heron pond"))
    assert len(docs.search("heron", mode="keyword")) == 2
    late.close()
    if harm == "gone":
        shutil.rmtree(index_folder(late))
    elif harm == "cut":
        for file in place.glob("*.idx"):
            file.write_bytes(file.read_bytes()[:-9])
    else:
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "old", place)
    with caplog.at_level(logging.WARNING, "shelflist"):
        again = late.open()
        assert sorted(contents(again.search("heron", mode="keyword"))) == ["heron lake", "heron pond"]
    assert "ebuilding" in caplog.text
    assert again.verify()["ok"]
    again.sync("r", chunks("heron reed"))
    assert len(again.search("heron", mode="keyword")) == 3


def test_verify_sees_a_lack_and_repair_mends_it(late: Place) -> None:
    docs = late.open()
    docs.sync("p", chunks("heron lake", "heron pond"))
    keywords = docs._parts.generation.keywords
    assert keywords is not None
    with docs._parts.ledger.database.read() as tx:
        keys = [key for (key,) in tx.execute("SELECT chunk_key FROM sl_chunks ORDER BY chunk_key LIMIT 1")]
    keywords.remove(keys)
    assert not docs.verify()["keywords_ok"]
    assert "keyword index rebuilt from 2 chunks" in docs.repair()["actions"]
    assert docs.verify()["ok"] and len(docs.search("heron", mode="keyword")) == 2


def test_purged_chunks_leave_the_index(late: Place) -> None:
    docs = late.open()
    docs._parts.writer._grace = 0.0
    for i in range(5):
        docs.sync("p", chunks(f"heron {i}"))
    docs.purge()
    keywords = docs._parts.generation.keywords
    assert keywords is not None and keywords.rows() == 1


def test_a_match_behind_many_that_the_filter_refuses_is_found(late: Place) -> None:
    docs = late.open(fields={"kind": str})
    loud = [Chunk(f"osprey osprey nest{i}", {"kind": "loud"}) for i in range(300)]
    filler = " ".join(f"word{i}" for i in range(100))
    docs.sync_all(
        [
            Document("loud", loud),
            Document("quiet", [Chunk(f"osprey {filler} {i}", {"kind": "quiet"}) for i in range(3)]),
        ]
    )
    hits = docs.search("osprey", mode="keyword", limit=3, where=F("kind") == "quiet")
    assert len(hits) == 3 and all(hit.metadata["kind"] == "quiet" for hit in hits)
    assert hits.refused == 0


@pytest.mark.parametrize("mode", ["dense", "keyword", "hybrid"])
def test_operators_that_the_store_lacks_are_resolved_by_the_ledger(late: Place, mode: str) -> None:
    docs = late.open(fields={"path": str, "tags": list[str], "page": int})
    docs.sync_all(
        Document(
            f"{n}",
            [Chunk(f"heron {n}", {"path": f"guide/{n}" if n % 2 else f"api/{n}", "tags": ["x"] * (n % 3), "page": n})],
        )
        for n in range(20)
    )
    for where, expected in (
        (F("path").starts_with("guide/"), {n for n in range(20) if n % 2}),
        (F("path").starts_with("guide/") & (F("page") < 5), {1, 3}),
        (F("tags").contains("x") & ~F("path").starts_with("api"), {n for n in range(20) if n % 3 and n % 2}),
        ((F("path") < "b") | (F("page") == 1), {1, *range(0, 20, 2)}),
        (F("path").starts_with("nowhere"), set()),
    ):
        hits = docs.search("heron", limit=50, where=where, mode=mode)  # type: ignore[arg-type]
        assert {hit.metadata["page"] for hit in hits} == expected
        assert docs.count(where) == len(expected)


def test_a_filter_that_resolves_to_too_many_says_which_and_how_many(
    late: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope, "MOST_IDS", 5)
    docs = late.open(fields={"path": str})
    docs.sync_all(Document(f"{n}", [Chunk(f"text {n}", {"path": f"a{n}"})]) for n in range(8))
    with pytest.raises(FilterTooBroad, match=r"'starts with' on 'path' \(str\).* 8 chunks"):
        docs.search("text", where=F("path").starts_with("a"))
    assert len(docs.search("text", where=F("path").starts_with("a1"))) == 1


def test_a_search_during_a_late_delete_is_covered_by_the_ledger(late: Place) -> None:
    """The store still shows what was deleted: the ledger's check refuses it, and says that it did."""
    docs = late.open()
    docs.sync("p", chunks("heron"))
    docs.sync("q", chunks("heron too"))
    docs.delete("p")
    hits = docs.search("heron", mode="dense")
    assert contents(hits) == ["heron too"] and hits.refused == 1


def test_a_dropped_collection_leaves_no_index_and_its_name_is_free(late: Place) -> None:
    docs = late.open()
    docs.sync("p", chunks("heron"))
    docs.drop()
    assert list(index_folder(late).iterdir()) == []
    again = late.open()
    assert not again.search("heron", mode="keyword")
    again.sync("p", chunks("osprey"))
    assert contents(again.search("osprey heron", mode="keyword")) == ["osprey"]
