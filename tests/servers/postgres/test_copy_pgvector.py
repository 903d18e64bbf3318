"""A copy into Postgres and back: chunks and ledger in one database there, and the ledger alone there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from copy_tests import told

import shelflist
from shelflist import Chunk, Document
from shelflist.core.errors import CollectionMismatch


@pytest.fixture
def source(tmp_path: Path) -> Any:
    with shelflist.open(f"file:{tmp_path / 'a'}", "docs", fields={"n": int, "tags": list[str]}) as collection:
        pages = []
        for number in range(300):
            texts = [f"Page {number} tells of part {part} of the archive." for part in range(3)]
            metadata = {"n": number, "tags": ["even" if number % 2 == 0 else "odd"], "free": {"at": [number]}}
            pages.append(Document(f"page-{number}", [Chunk(text, metadata=metadata) for text in texts]))
        collection.sync_all(pages, source="pages")
        collection.delete("page-7")
        collection.mark_stale("page-8")
        yield collection


def test_there_and_back_again(source: shelflist.Collection, postgres: Any, tmp_path: Path) -> None:
    url = postgres.fresh(scheme="pgvector")
    report = shelflist.copy(source.url, url, "docs")
    assert (report.documents, report.chunks, report.marked) == (298, 894, ["page-8"])
    assert report.vectors_checked >= 190 and report.answers_checked == 20
    assert "p%40ss" not in report.destination
    with shelflist.open(url, "docs") as copy:
        assert told(copy) == told(source) and copy.verify()["ok"]
        found = copy.search("part 2 of the archive", where='n < 20 and "even" in tags', limit=50)
        assert {hit.metadata["n"] for hit in found} == {0, 2, 4, 6, 10, 12, 14, 16, 18}
        query = np.ones(copy.dimensions, dtype=np.float32)
        params = shelflist.SearchParams(exact=True)
        assert [hit.chunk_id for hit in copy.search(query, params=params)] == [
            hit.chunk_id for hit in source.search(query, params=params)
        ]

    source.sync("page-8", [Chunk("Page 8 is back.", metadata={"n": 8})], source="pages")
    source.delete("page-9")
    report = shelflist.copy(source.url, url, "docs")
    assert (report.documents_added, report.documents_removed, report.documents_unchanged) == (1, 1, 297)

    back = f"file:{tmp_path / 'b'}"
    assert shelflist.copy(url, back, "docs").chunks == 892
    with shelflist.open(back, "docs") as copy:
        assert told(copy) == told(source) and copy.verify()["ok"]


def test_a_ledger_in_postgres_of_a_store_that_is_elsewhere(
    source: shelflist.Collection, postgres: Any, tmp_path: Path
) -> None:
    ledger = postgres.fresh(scheme="postgresql")
    there = f"file:{tmp_path / 'b'}"
    assert shelflist.copy(source.url, there, "docs", to_ledger=ledger).documents == 298
    assert shelflist.copy(there, f"file:{tmp_path / 'c'}", "docs", ledger=ledger).chunks == 894
    with pytest.raises(CollectionMismatch, match="ledger of 'docs' itself"):
        shelflist.copy(there, f"file:{tmp_path / 'd'}", "docs", ledger=ledger, to_ledger=ledger)
