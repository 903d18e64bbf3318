"""What a pass writes follows from what changed, and not from what the collection holds: rows of SQLite, counted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counting import counts, document, documents
from places import Place, place_of

from shelflist import Document

SIZES = (200, 2_000)
ROWS_OF_A_DOCUMENT = 40
"""More than a document of two chunks, one of them changed, writes into ledger and store until it is purged."""


class WrittenRows:
    """Counts the rows that this process inserts, updates and deletes, on every connection that it opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open: list[sqlite3.Connection] = []
        self._of_closed = 0
        connect, written = sqlite3.connect, self

        class Counted(sqlite3.Connection):
            def close(self) -> None:
                if self in written._open:
                    written._open.remove(self)
                    written._of_closed += self.total_changes
                super().close()

        def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
            options["factory"] = Counted
            connection = connect(*arguments, **options)
            self._open.append(connection)
            return connection

        monkeypatch.setattr(sqlite3, "connect", counted)
        self._taken = 0

    def take(self) -> int:
        """How many since the last look."""
        total = self._of_closed + sum(connection.total_changes for connection in self._open)
        taken, self._taken = total - self._taken, total
        return taken


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> WrittenRows:
    return WrittenRows(monkeypatch)


@pytest.fixture(params=["file", "apart"])
def two(request: pytest.FixtureRequest, written: WrittenRows, folder: Path) -> Iterator[list[Place]]:
    """A place for the small collection, and one for the large."""
    places = [place_of(request.param, folder / str(size)) for size in SIZES]
    for size in SIZES:
        (folder / str(size)).mkdir()
    yield places
    for place in places:
        place.close()


def edited(size: int, changed: int) -> list[Document]:
    """The documents of a collection, of which the last ones have another second chunk."""
    kept = documents(size)
    return [
        *kept[: size - changed],
        *(document(one.document_id, one.chunks[0].content, "edited") for one in kept[size - changed :]),
    ]


def test_one_changed_document_writes_as_much_among_few_as_among_many(two: list[Place], written: WrittenRows) -> None:
    rows = []
    for place, size in zip(two, SIZES, strict=True):
        docs = place.open()
        docs.sync_all(documents(size), source="s", delete="missing")
        assert written.take() > size
        report = docs.sync_all(edited(size, 1), source="s", delete="missing")
        assert counts(report, "documents_changed", "added", "removed", "documents_unchanged") == (1, 1, 1, size - 1)
        rows.append(written.take())
    assert min(rows) > 0 and max(rows) <= ROWS_OF_A_DOCUMENT and max(rows) - min(rows) <= 3, rows


def test_a_hundredth_that_changed_writes_rows_for_that_hundredth(two: list[Place], written: WrittenRows) -> None:
    for place, size in zip(two, SIZES, strict=True):
        changed = size // 100
        docs = place.open()
        docs.sync_all(documents(size), source="s", delete="missing")
        written.take()
        report = docs.sync_all(edited(size, changed), source="s", delete="missing")
        assert counts(report, "documents_changed", "documents_unchanged") == (changed, size - changed)
        assert 0 < written.take() <= ROWS_OF_A_DOCUMENT * changed


def test_a_pass_that_finds_nothing_new_writes_no_row_of_a_document(two: list[Place], written: WrittenRows) -> None:
    for place, size in zip(two, SIZES, strict=True):
        docs = place.open()
        docs.sync_all(documents(size), source="s", delete="missing")
        written.take()
        for again in (docs.sync_all, docs.plan):
            assert again(documents(size), source="s", delete="missing").documents_unchanged == size
            assert written.take() == 0
        docs.sync_all(edited(size, 1), source="s", delete="missing")
        assert written.take() > 0
