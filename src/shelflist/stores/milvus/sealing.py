"""Closing the segments that Milvus writes to, until searches are answered from the index that was built of them.

A segment that is written to has an index for the time being, with a recall that nobody chose (.87 was measured). A closed
one that is built takes its place only when the query coordinator next looks, every ten seconds. Told of it, the coordinator
loads it at once, but still changes over when it next looks: `refresh_load` was seen to take from .6 to 9.6 s.
"""

from __future__ import annotations

import time
from typing import Any

from shelflist.core.errors import StoreError
from shelflist.stores.milvus.asking import Asking
from shelflist.stores.milvus.link import UNDER_WAY, Link

_PAUSE = 0.2
_CHANGE_OVER = 1.0
"""Seconds: a shard learns twice a second which segments are loaded, and goes on answering from the open one till then."""


def seal(link: Link, asking: Asking, name: str) -> None:
    """Close what is open, and return when its index answers."""
    link.persist(f"flush {name}", lambda client, seconds: client.flush(name, timeout=seconds))
    link.wait(f"index {name}", lambda: _unbuilt(link, asking, name), _PAUSE)
    link.persist(f"refresh {name}", lambda client, seconds: client.refresh_load(name, timeout=seconds))
    link.wait(
        f"load the segments of {name}",
        lambda: link.insist(f"segments of {name}", lambda c: _unloaded(c, name)),
        _PAUSE,
    )
    time.sleep(_CHANGE_OVER)


def _unbuilt(link: Link, asking: Asking, name: str) -> object:
    """Rows of closed segments that no index is built of; a large segment is one step, however long that takes."""
    told = asking.index()
    rows, state = int(told.get("pending_index_rows", 0)), told.get("state")
    if not rows:
        return None
    if state == "Failed":
        raise StoreError(
            f"Milvus at {link.address} failed at building the index of {name}: {rows} rows are left. Look at the log of "
            "the server; what was written is stored."
        )
    return UNDER_WAY if state == "InProgress" else rows


def _unloaded(client: Any, name: str) -> object:
    """Closed segments that are not among those that queries are answered from."""
    closed = {one.segment_id for one in client.list_persistent_segments(name)}
    loaded = {one.segment_id for one in client.list_loaded_segments(name) if str(one.state).endswith("Sealed")}
    return (closed - loaded) or None
