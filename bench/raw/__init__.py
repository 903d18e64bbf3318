"""What bench/stores.py compares Shelflist with: each store's own client, used in the best way that it documents.

A raw side does the work that a careful user would do by hand: texts and metadata beside the vectors, indexes for the
fields that are filtered on and, where the store has one, for words. It has no ledger, and checks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

M = 16
EF_CONSTRUCTION = 128
FIELDS: dict[str, type] = {
    "source": str,
    "space": str,
    "owner": str,
    "kind": str,
    "chunk_index": int,
    "doc_ts": int,
}
"""Metadata that filters ask about; the rest is only kept. `owner` is the data's tenant_id, which Shelflist keeps for its own."""

Vector = npt.NDArray[np.float32]
Answer = tuple[str, dict[str, Any]]
"""A hit as it reaches the application: its text and its metadata."""


@dataclass(frozen=True)
class Rows:
    """What is loaded; row i of each belongs to the others."""

    ids: Sequence[str]
    document_ids: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[dict[str, Any]]
    vectors: Vector


class Side(Protocol):
    """One store by its own client. `note`: what a reader must know to judge the figures."""

    note: str

    def load(self, name: str, rows: Rows, ef: int) -> None:
        """Make a place of this name and fill it; return when all of it is durable and searchable by a built index."""
        ...

    def search(self, vector: Vector, limit: int) -> list[Answer]: ...

    def drop(self) -> None: ...

    def close(self) -> None: ...


def open_side(store: str, place: Any) -> Side:
    """`place`: what `servers.started` gave."""
    make: Callable[[Any], Side] = import_module(f"raw.{store}").Raw
    return make(place)
