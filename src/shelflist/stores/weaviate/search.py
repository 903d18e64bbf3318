"""Answers that are whole: every match that was asked for, though the engine's index or its limits would give fewer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shelflist.core.types import Candidate, Candidates, IndexStatus, Vector
from shelflist.engine.exact import distances, nearest, prepared
from shelflist.stores.weaviate import rows
from shelflist.stores.weaviate.calls import PAGE, Calls
from shelflist.stores.weaviate.filters import POINT, STATUS
from shelflist.stores.weaviate.schema import Place

_WHOLE = 1 << 128
_FEW = 1_000
"""A flat scan below so many matches is too small a part to put an exact search together from."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Where a search looks: a class, a tenant of it ("" for none), and what must hold besides the status."""

    place: Place
    tenant: str
    where: Any


def answers(calls: Calls, asked: Asked, limit: int, how: Mapping[str, Any]) -> list[Any]:
    """Results of one query that are indexed, best first.

    Without any filter the engine is asked without the status too, which lets it walk its index freely; stale points
    among the answers are passed over by asking for more, and, where they are many, by the status after all.
    """
    ask = limit
    while asked.where is None and ask <= min(PAGE, 4 * limit):
        found = calls.searched(asked.place.name, asked.tenant, limit=ask, properties=[STATUS], **how)
        live = [one for one in found if rows.text_of(one, STATUS) == IndexStatus.INDEXED]
        if len(live) >= limit or len(found) < ask:
            return live[:limit]
        ask *= 2
    return calls.searched(
        asked.place.name, asked.tenant, limit=limit, filters=calls.say.both(asked.where, calls.indexed), **how
    )


def exact_answers(calls: Calls, asked: Asked, query: Vector, limit: int, after: str = "") -> Candidates:
    """Parts of the matches, each small enough for the engine's own exact scan, or their vectors compared here."""
    place, total = asked.place, 0
    best: list[tuple[float, bytes]] = []
    native = not place.compressed and limit < PAGE and (place.flat_below is None or place.flat_below >= _FEW)
    near = {"near_vector": calls.proto.base_search_pb2.NearVector(vectors=[calls.near(query)])}
    page = max(1, min(PAGE - 1, calls.session.largest_message // 2 // (4 * place.dimensions + 500)))
    for part, count in parts(calls, asked, (place.flat_below or 40_000) if native else page):
        total += count
        found = answers(calls, part, min(limit, count), near) if native else []
        if len(found) == min(limit, count):
            best += [(distance(one, place), rows.id_of(one)) for one in found]
        else:
            best += _compared(calls, part, page, query, limit)
        best = sorted(best)[:limit]
    items = [Candidate(one, value) for value, one in best]
    return Candidates(items, exact=True, exhausted=limit >= total, plan=f"{after}exact over {total} rows")


def _compared(calls: Calls, asked: Asked, page: int, query: Vector, limit: int) -> list[tuple[float, bytes]]:
    """The nearest by vectors that are fetched: where the engine has quantized them, or has not indexed them yet."""
    best: list[tuple[float, bytes]] = []
    for part, _ in parts(calls, asked, page):
        found = calls.searched(part.place.name, part.tenant, limit=PAGE, filters=part.where, vectors=True)
        if found:
            matrix = prepared(np.stack([rows.vector_of(one) for one in found]), asked.place.metric)
            far = distances(matrix, prepared(query, asked.place.metric), asked.place.metric)
            best += [(float(far[i]), rows.id_of(found[i])) for i in nearest(far, limit)]
            best = sorted(best)[:limit]
    return best


def parts(calls: Calls, asked: Asked, size: int) -> Iterator[tuple[Asked, int]]:
    """What was asked, cut by ranges of ids so that fewer than `size` points match each part; with their number."""
    waiting = [(0, _WHOLE)]
    while waiting:
        low, high = waiting.pop()
        part = Asked(
            asked.place,
            asked.tenant,
            calls.say.both(
                asked.where,
                calls.indexed,
                calls.say.compare(POINT, "GREATER_THAN_EQUAL", str(uuid.UUID(int=low))) if low else None,
                calls.say.compare(POINT, "LESS_THAN", str(uuid.UUID(int=high))) if high < _WHOLE else None,
            ),
        )
        count = counted(calls, part)
        if 0 < count < size or high - low == 1:
            yield part, count
        elif count:
            step = -(-(high - low) // (count * 5 // (4 * size) + 2))
            waiting += [(start, min(start + step, high)) for start in range(low, high, step)]


def counted(calls: Calls, asked: Asked) -> int:
    name, tenant = asked.place.name, asked.tenant
    if asked.where is None:  # the engine reads every object that a filtered count is about, and here none
        stale = calls.objects(name, tenant, calls.say.compare(STATUS, "EQUAL", str(IndexStatus.STALE)))
        return calls.objects(name, tenant, None) - stale
    return calls.objects(name, tenant, calls.say.both(asked.where, calls.indexed))


def distance(result: Any, place: Place) -> float:
    value = float(result.metadata.distance)
    return float(np.sqrt(max(0.0, value))) if place.metric == "l2" else value
