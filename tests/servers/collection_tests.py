"""The tests of a collection's promises, to be run once more with a real engine as the place.

A file of a store imports everything from here. Its fixture `url` names the server that the `place` is on, unless it
brings a `place` of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from places import Place

from shelflist import Chunk, Document, F
from shelflist.core.errors import UnsupportedOperation
from shelflist.core.filters import prepare
from shelflist.core.types import Tenancy

sys.path.insert(0, str(Path(__file__).parent.parent / "collection"))

from copy_tests import *  # noqa: F403
from repair_tests import *  # noqa: F403
from test_search import *  # noqa: F403
from test_search import FIELDS, random_rows, shelve
from test_sync import *  # noqa: F403
from test_sync_all import *  # noqa: F403
from test_tenancy import *  # noqa: F403
from test_under_a_handle import *  # noqa: F403


@pytest.mark.parametrize("tenancy", ["none", "required"])
def test_the_stores_own_fusion_keeps_every_promise_or_is_refused(place: Place, tenancy: Tenancy) -> None:
    docs = place.open(fields=FIELDS, tenancy=tenancy)
    mine = docs if tenancy == "none" else docs.tenant("acme")
    rows = random_rows(140, seed=3)
    shelve(mine, rows)
    if tenancy == "required":
        docs.tenant("other").sync_all([Document("doc0", [Chunk(f"river of others {i}", {"n": 1}) for i in range(20)])])
    mine.sync("doc0", rows[:3])
    mine.delete("doc1")
    mine.mark_stale("doc2")
    store = docs._parts.store.capabilities
    if not store.hybrid:
        with pytest.raises(UnsupportedOperation, match=rf"{store.store} store has no hybrid search.*'convex' or 'rrf'"):
            mine.search("river", fusion="native")
        return
    alive = rows[:3] + rows[21:]
    for where in (None, F("n") < 3, 'color == "red" and n >= 5', F("tags").contains("a") | (F("n") == 1), "n == 77"):
        checked = prepare(where, docs.fields)
        matching = {
            row.content for row in alive if checked is None or checked.matches(docs.fields.stored(row.metadata))
        }
        for limit in (1, 5, 40, 200):
            hits = mine.search("river", limit=limit, where=where, fusion="native")
            assert len(hits) == min(limit, len(matching)), (where, limit, hits.plan)
            assert {hit.content for hit in hits} <= matching
            assert len({hit.chunk_id for hit in hits}) == len(hits)
            scores = [hit.score for hit in hits]
            assert scores == sorted(scores, reverse=True)
            assert {hit.tenant for hit in hits} <= {None if tenancy == "none" else "acme"}
            assert limit > 5 or not hits or hits.plan.startswith("hybrid (native)"), hits.plan
    best = mine.search("number90", limit=3, fusion="native")  # the first of each leg, whatever it weighs
    assert any(hit.content.endswith(" number90") for hit in best)
