"""Shelflist: the indexing layer for RAG. What you search is what you wrote."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shelflist.collection import Collection, collections, open
    from shelflist.copying import copy
    from shelflist.core.errors import ShelflistError
    from shelflist.core.filters import F, Filter
    from shelflist.core.types import (
        Chunk,
        Document,
        Explanation,
        Flat,
        Hit,
        Hits,
        Hnsw,
        IndexStatus,
        Ivf,
        Progress,
        Recall,
        SearchParams,
        SyncReport,
    )
    from shelflist.embedders.protocol import Embedder
    from shelflist.indexing.chunking import Chunker
    from shelflist.indexing.copy import CopyReport
    from shelflist.indexing.sources import Folder, open_source
    from shelflist.indexing.tabular import Jsonl, Parquet

__version__ = "0.1.0"

# Loaded on first use: a program that only searches should not pay for parsers, nor the CLI's --help for NumPy.
_HOMES = {
    "shelflist.collection": ("Collection", "collections", "open"),
    "shelflist.copying": ("copy",),
    "shelflist.core.errors": ("ShelflistError",),
    "shelflist.core.filters": ("F", "Filter"),
    "shelflist.core.types": (
        "Chunk",
        "Document",
        "Explanation",
        "Flat",
        "Hit",
        "Hits",
        "Hnsw",
        "IndexStatus",
        "Ivf",
        "Progress",
        "Recall",
        "SearchParams",
        "SyncReport",
    ),
    "shelflist.embedders.protocol": ("Embedder",),
    "shelflist.indexing.chunking": ("Chunker",),
    "shelflist.indexing.copy": ("CopyReport",),
    "shelflist.indexing.sources": ("Folder", "open_source"),
    "shelflist.indexing.tabular": ("Jsonl", "Parquet"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Chunk",
    "Chunker",
    "Collection",
    "CopyReport",
    "Document",
    "Embedder",
    "Explanation",
    "F",
    "Filter",
    "Flat",
    "Folder",
    "Hit",
    "Hits",
    "Hnsw",
    "IndexStatus",
    "Ivf",
    "Jsonl",
    "Parquet",
    "Progress",
    "Recall",
    "SearchParams",
    "ShelflistError",
    "SyncReport",
    "collections",
    "copy",
    "open",
    "open_source",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'shelflist' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
