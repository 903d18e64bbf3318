"""The public names, pinned: adding or losing one is a decision, not an accident."""

from __future__ import annotations

import shelflist

NAMES = (
    "Chunk Chunker Collection CopyReport Document Embedder Explanation F Filter Flat Folder Hit Hits Hnsw IndexStatus Ivf Jsonl "
    "Parquet Progress Recall SearchParams ShelflistError SyncReport collections copy open open_source"
)


def test_the_public_names_are_these() -> None:
    assert shelflist.__all__ == NAMES.split()


def test_every_name_is_there_and_has_a_docstring() -> None:
    for name in shelflist.__all__:
        assert getattr(shelflist, name).__doc__, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(shelflist, "tune")
