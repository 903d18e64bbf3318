"""The database put back from a backup, beneath keyword index and snapshots that are newer than its rows."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

import shelflist
from shelflist import Chunk, Collection, Document, Hnsw, SearchParams
from shelflist.core.types import Vector

DIMENSIONS = 32


def vector(number: int) -> Vector:
    centre = np.random.default_rng(number % 20).normal(size=DIMENSIONS)
    return (centre + 0.4 * np.random.default_rng(1_000 + number).normal(size=DIMENSIONS)).astype(np.float32)


def documents(numbers: range, word: str) -> list[Document]:
    return [Document(f"{word}{i}", [Chunk(f"{word} w{i}", embedding=vector(i))]) for i in numbers]


def opened(directory: Path) -> Collection:
    return shelflist.open(
        f"file:{directory}",
        "docs",
        embedder=None,
        fingerprint="test",
        dimensions=DIMENSIONS,
        index=Hnsw(indexing_threshold=100, full_scan_threshold=0),
    )


def answers(docs: Collection, *, exact: bool = False) -> list[list[str]]:
    asked = range(0, 300, 30)
    params = SearchParams(exact=exact)
    return [
        *([hit.content for hit in docs.search(vector(number), limit=5, params=params)] for number in asked),
        *(sorted(hit.content for hit in docs.search(f"w{number}", mode="keyword", limit=5)) for number in asked),
    ]


@pytest.mark.parametrize("later", ["rows came", "rows went", "a snapshot was built"])
@pytest.mark.parametrize("then", ["search", "sync"])
def test_an_older_database_beneath_newer_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, later: str, then: str
) -> None:
    monkeypatch.setattr("shelflist.stores._embedded_keywords._UNLISTED_GRACE", 0.0)
    index, backup = folder / "index", folder / "backup.db"
    with opened(index) as docs:
        docs.sync_all(documents(range(300), "old"))
        docs._parts.store._vectors.wait()
        before = answers(docs, exact=True)
        with sqlite3.connect(index / "shelflist.db") as source, sqlite3.connect(backup) as target:
            source.backup(target)
        source.close()
        target.close()
        docs.sync_all(documents(range(300, 360), "new"))
        if later == "rows went":
            for number in range(0, 300, 30):
                docs.delete(f"old{number}")
            docs.sync("more", [Chunk("more", embedding=vector(1))])
        if later == "a snapshot was built":
            docs.repair()
            docs.repair()
    for file in index.glob("shelflist.db*"):
        file.unlink()
    backup.rename(index / "shelflist.db")

    with opened(index) as docs:
        if then == "sync":
            assert docs.sync_all(documents(range(400, 410), "latest")).added == 10
            assert [hit.document_id for hit in docs.search("w405", mode="keyword")] == ["latest405"]
            assert docs.search(vector(405), limit=1)[0].document_id == "latest405"
            assert not docs.search("new", mode="keyword")
            for number in range(400, 410):
                docs.delete(f"latest{number}")
        assert answers(docs, exact=True) == before
        found = answers(docs)
        assert (
            np.mean([len({*one} & {*wanted}) / len(wanted) for one, wanted in zip(found, before, strict=True)]) >= 0.9
        )
        assert docs.verify()["ok"]
    with opened(index) as docs:
        assert any("put back from a backup" in one for one in caplog.messages) == (later == "rows went")
        docs.sync("one", [Chunk("one more", embedding=vector(1))])
        docs._parts.store._vectors.wait()
        assert docs.search(vector(3)).plan.startswith("dense: graph of ")
        assert docs.verify()["ok"]
