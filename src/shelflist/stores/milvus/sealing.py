"""Closing the segments that Milvus writes to, until searches are answered from the index that was built of them.

A segment that is written to has an index for the time being, with a recall that nobody chose (.87 was measured). A closed
one that is built takes its place only when the query coordinator next looks, every ten seconds. Told of it, the coordinator
loads it at once, but still changes over when it next looks: `refresh_load` was seen to take from .6 to 9.6 s.
"""

from __future__ import annotations

import time
from typing import Any

from shelflist.stores.milvus.asking import Asking
from shelflist.stores.milvus.link import PATIENCE, Link

_PAUSE = 0.2
_CHANGE_OVER = 1.0
"""Seconds: a shard learns twice a second which segments are loaded, and goes on answering from the open one till then."""


def seal(link: Link, asking: Asking, name: str) -> None:
    """Close what is open, and return when its index answers."""
    patience = max(PATIENCE, link.timeout)
    link.insist(f"flush {name}", lambda client: client.flush(name, timeout=patience))
    link.wait(f"index {name}", lambda: not int(asking.index().get("pending_index_rows", 0)), _PAUSE)
    link.insist(f"refresh {name}", lambda client: client.refresh_load(name, timeout=patience))
    link.wait(
        f"load the segments of {name}",
        lambda: link.insist(f"segments of {name}", lambda c: _is_loaded(c, name)),
        _PAUSE,
    )
    time.sleep(_CHANGE_OVER)


def _is_loaded(client: Any, name: str) -> bool:
    """Whether every closed segment is among those that queries are answered from."""
    closed = {one.segment_id for one in client.list_persistent_segments(name)}
    loaded = {one.segment_id for one in client.list_loaded_segments(name) if str(one.state).endswith("Sealed")}
    return closed <= loaded
