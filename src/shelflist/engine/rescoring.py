"""The nearest by code, compared whole as far as their codes leave it open.

How wrong a code can be follows from where the query and the vector are (`Codes.doubts`) and from chance, whichever rows may answer.
So what is measured once on a collection tells of every query under every filter who may still be among the nearest: whoever
seems no further than that beyond the last of the best so far. Mostly the neighbours lie at distances of their own, and less is
enough than where many are about equally far, as behind rows that were deleted or do not match. After RaBitQ's authors, who rank
again by such a bound. Of product codes no theorem says as much; that the same holds of them was measured (`bench/calibration.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shelflist.core.types import Metric, Vector
from shelflist.engine.codes import Codes, Ranked
from shelflist.engine.exact import Positions, raw

_LEAST = 3
"""So many times the hits wanted are compared to begin with, or as many as were usually left open: the best of them say how far
the others need to be looked for, and the nearer the best so far, the fewer are left open."""
_WIDER = 3
"""So many times as many at each further step, at most."""
_FURTHER = 4
"""Where those that came do not reach so far, so many times as many are asked for."""
_DOUBTED = 16
"""So many of the best so far say how wrong the codes of such as they are can be, where they differ in length."""


class Rescored(NamedTuple):
    """Candidates and their distances, in no order; how many were left open, and how often codes were scanned for them."""

    positions: Positions
    distances: Vector
    open: int
    scans: int


class Allowed(NamedTuple):
    """Of what `Codes.doubts` says: the error that is allowed for, and where a crowd is left open by it, more than so many
    candidates for ten hits, the one that is allowed for there."""

    error: float
    crowded_error: float
    crowd: int


def doubt_of(codes: Codes, vectors: Vector, query: Vector) -> Callable[[Positions], float]:
    """For `rescored`: the most that the vectors at some positions are in doubt."""

    def doubt(positions: Positions) -> float:
        if len(positions) == 1:
            return codes.doubt(query, vectors[positions[0]])
        return float(codes.doubts(query, vectors[positions]).max())

    return doubt


class Rescoring(NamedTuple):
    """How the candidates of one query are looked at whole. `compared`: their distances; `doubt`: see `doubt_of`."""

    compared: Callable[[Positions], Vector]
    doubt: Callable[[Positions], float]
    allowed: Allowed
    limit: int
    metric: Metric


def rescored(
    scan: Callable[[int], Ranked], rescoring: Rescoring, *, usual: int, depth: int, most: int
) -> Rescored | None:
    """All candidates that may be among the nearest; None if more than `most` would have to be looked at.

    `scan(count)`: the nearest by code. `usual`: how many are left open by most queries, and `depth`: by nearly all.
    """
    begin = max(usual, _LEAST * rescoring.limit)
    count, scans = max(depth, begin), 0
    while count <= most:
        found, scans = scan(count), scans + 1
        away, bound = _compared(found, rescoring, begin)
        if found.reach > bound or found.reach == np.inf:
            left = int(np.searchsorted(found.estimates, bound, side="right"))
            return Rescored(found.positions[: len(away)], away, left, scans)
        count = min(_FURTHER * count, most) if count < most else most + 1
    return None


def _compared(found: Ranked, rescoring: Rescoring, begin: int) -> tuple[Vector, float]:
    """Distances of the first of these, as many as are left open by the nearest among them; and up to which estimate that is."""
    compared, doubt, allowed, limit, metric = rescoring
    away = compared(found.positions[:begin])
    if len(away) < limit:
        return away, np.inf
    best = np.argpartition(away, limit - 1)[:limit]
    doubted = best[:: 1 + limit // _DOUBTED] if metric == "dot" else best[-1:]
    unsure = doubt(found.positions[doubted])
    error, crowd = allowed.error, allowed.crowd * max(1, limit // 10)
    last = float(away[best[-1]])
    while True:
        bound = raw(last, metric) + error * unsure
        left = int(np.searchsorted(found.estimates, bound, side="right"))
        if left > crowd and error < allowed.crowded_error:
            error = allowed.crowded_error
            continue
        if left <= len(away):
            return away, bound
        end = min(left, _WIDER * len(away))
        away = np.concatenate([away, compared(found.positions[len(away) : end])])
        last = float(np.partition(away, limit - 1)[limit - 1])
