"""Qdrant for the tests: a server that SHELFLIST_TEST_QDRANT_URL names, or the client's re-implementation in memory.

No binary of the server can be installed where these tests are written. The re-implementation (`QdrantClient(":memory:")`,
NumPy and Python) is no engine: it has the whole API and the meaning of filters, but neither indexes, nor segments, nor
durability. What a real server does otherwise than it, the store follows the server; see also `qdrant_core`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from engines import missing

from shelflist.config import parse_url
from shelflist.stores import _connect
from shelflist.stores.qdrant.store import QdrantStore

ADDRESS = "SHELFLIST_TEST_QDRANT_URL"
NewStore = Callable[[], QdrantStore]


class Reimplementation:
    """One `QdrantClient(":memory:")` that several stores may hold and close, from several threads.

    It keeps its points in plain arrays without a lock, which a server does not; so calls take turns.
    """

    def __init__(self) -> None:
        from qdrant_client import QdrantClient

        self._client = QdrantClient(":memory:")
        self._turn = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def in_turn(*args: Any, **options: Any) -> Any:
            with self._turn:
                return method(*args, **options)

        return in_turn

    def close(self) -> None:
        """What was acknowledged stays: a server outlives its clients."""


def new_stores() -> NewStore:
    """What opens another handle on one place, time and again."""
    if find_spec("qdrant_client") is None:
        missing("the Qdrant tests need qdrant-client: pip install 'shelflist[qdrant]'")
    place = os.environ.get(ADDRESS)
    if place:
        return lambda: QdrantStore.at(parse_url(place), busy_timeout=30)
    shared: Any = Reimplementation()
    server = _connect.server(parse_url("qdrant://in-memory"), port=6333)
    return lambda: QdrantStore(server, open_client=lambda: shared)
