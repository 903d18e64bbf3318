"""The nearest by code, compared whole as far as their codes leave it open.

How wrong a code can be follows from where the query and the vector are (`Codes.doubt`) and from chance, whichever rows may answer.
So one number, measured once on a collection, tells of every query under every filter who may still be among the nearest: whoever
seems no further than that beyond the last of the best so far. After RaBitQ's authors, who rank again by such a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shelflist.core.types import Metric, Vector
from shelflist.engine.codes import Ranked
from shelflist.engine.exact import Positions, raw

_FIRST = 3
"""So many times the hits wanted are compared to begin with: the best of them say how far the others need to be looked for."""
_FURTHER = 4
"""Where those that came do not reach so far, so many times as many are asked for."""


def rescored(
    scan: Callable[[int], Ranked],
    compared: Callable[[Positions], Vector],
    error: Callable[[int], float],
    limit: int,
    metric: Metric,
    *,
    depth: int,
    most: int,
) -> tuple[Positions, Vector] | None:
    """Positions of the candidates and their distances, in no order; None if more than `most` would have to be looked at.

    `scan(count)`: the nearest by code. `compared`: whole. `error(position)`: how much further than it is a vector such as that
    one may seem, as `exact.raw` tells distances. `depth`: how many candidates are usual.
    """
    few = _FIRST * limit
    count = max(depth, few)
    if count > most:
        return None
    while True:
        found = scan(count)
        first = compared(found.positions[:few])
        bound = np.inf
        if len(first) >= limit:
            last = int(np.argpartition(first, limit - 1)[limit - 1])
            bound = raw(float(first[last]), metric) + error(int(found.positions[last]))
        if found.reach > bound or found.reach == np.inf:
            rest = found.positions[few : np.searchsorted(found.estimates, bound, side="right")]
            return np.concatenate([found.positions[:few], rest]), np.concatenate([first, compared(rest)])
        if count == most:
            return None
        count = min(_FURTHER * count, most)
