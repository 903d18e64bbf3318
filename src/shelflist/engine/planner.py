"""Which way a search goes, and the search itself.

    exact   every matching vector is compared; for few of them, or where it is asked for
    codes   the codes of all matching rows are scanned, and those whose code leaves it open are compared whole
    graph   for no filter, or one that most rows match: the quickest, where a graph has been built
    cells   in its place for an index of cells (IVF)

What came after the snapshot is compared exactly beside each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf, SearchParams, Vector
from shelflist.engine.calibration import NEIGHBOURS, graph_candidates
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes, PackedCodes, Ranked
from shelflist.engine.exact import Positions, nearest
from shelflist.engine.graph import Graph
from shelflist.engine.rescoring import Allowed, Rescoring, doubt_of, rescored
from shelflist.engine.view import Base, Matches, View

FEW_MATCHES = 3_000
"""Up to so many are compared exactly, where the snapshot has not measured how many it should be."""
_MOST = 0.6
"""Share of all rows that must live and match for the graph to be asked first: among the dead it loses its way."""
_FEW_A_HIT = 4
"""Matches for each hit wanted, up to which no index is worth its while."""
_OPEN_SHARE = 4
"""Where the codes of more than every fourth match would have to be asked for, to compare them all is quicker."""
_MORE, _USUAL_MORE, _FORGETS = 1.8, 1.1, 32
"""By so much what is learned of a filter grows where it was too little, and shrinks (by a 32nd) where it was not: so that one
query in twenty has to scan twice, and one in four to compare some more. Fewer would cost every query more."""
_REMEMBERED, _IN_VAIN = 0.9, 3.0
"""Of walks through the graph that came back with too little, a tenth is forgotten with each further one: three in ten, and a filter
is searched by codes."""
_LEAST_LENGTH, _AS_LONG = 1e-15, 16
"""Of a query, so that its square is none of the least numbers that there are; and times as long as the vectors."""
_SORTED = 200
"""Candidates up to which it is quicker to sort them all."""
_EFFORT_COST = 25
"""An effort of so much less than the graph's rows takes as long as comparing them all."""


_Compared = tuple[Positions, Vector]
"""Candidates and their distances, in no order."""


class Found(NamedTuple):
    """Positions, nearest first, and their distances. `plan` says in words which way the search went."""

    positions: Positions
    distances: Vector
    exact: bool
    plan: str


class _Question(NamedTuple):
    view: View
    matches: Matches
    query: Vector
    limit: int
    params: SearchParams
    kind: IndexSpec | None

    @property
    def most_match(self) -> bool:
        return self.matches.count >= _MOST * self.view.count

    @property
    def has_dead(self) -> bool:
        return self.view.alive is not None

    @property
    def newer(self) -> int:
        """How many of the matches came after the snapshot."""
        split = self.view.base_count
        return len(self.matches.newer(split)) if self.view.count > split else 0

    @property
    def packed(self) -> PackedCodes | None:
        return self.matches.prepared.packed if self.matches.prepared.is_ready else None

    def thinned(self, count: int) -> float:
        """How many of an index's `count` rows there are, at least, to one that matches; newer rows beside it thin nothing out."""
        return max(1.0, count / max(1, self.matches.count))

    def compared(self, positions: Positions) -> Vector:
        """The distances of candidates, which are of the snapshot."""
        return self.view.base_distances(positions, self.query)


def search(
    view: View, matches: Matches, query: Vector, limit: int, params: SearchParams, index: IndexSpec | None
) -> Found:
    """The `min(limit, matches)` nearest of the matches to a prepared query."""
    asked = _Question(view, matches, query, limit, params, index)
    base = view.base
    reason = _reason_for_exact(base, asked)
    if base is None or reason is not None:
        return _exactly(asked, reason or "")
    found: _Compared | None = None
    plan = ""
    if base.graph is not None and asked.most_match and not walks_in_vain(matches):
        found, plan = _by_graph(base, base.graph, asked)
    if base.cells is not None and base.codes is not None and asked.most_match:
        found, plan = _by_cells(base, base.cells, base.codes, asked)
    if found is None and base.codes is not None:
        found, plan = _by_codes(base, base.codes, asked)
    if found is None:
        return _exactly(asked, "too much would be left open by less")
    positions, distances = found
    split = view.base_count
    if view.count > split:
        newer = matches.newer(split)
        positions = np.concatenate([positions, newer])
        distances = np.concatenate([distances, view.newer_distances(newer, query)])
        if len(newer):
            plan += f", and {len(newer)} newer ones exactly"
    best = _best(positions, distances, limit)
    return Found(positions[best], distances[best], exact=False, plan=plan)


def _best(positions: Positions, distances: Vector, limit: int) -> Positions:
    """Which are the nearest, nearest first. Equal ones stand by their positions, as in an exact search."""
    if len(positions) <= _SORTED:
        return np.lexsort((positions, distances))[:limit]
    order = np.argsort(positions, kind="stable")
    return np.asarray(order[nearest(distances[order], limit)], dtype=np.int64)


def _reason_for_exact(base: Base | None, asked: _Question) -> str | None:
    """Why every match is to be compared; None if it is not."""
    if asked.params.exact:
        return "asked for"
    if isinstance(asked.kind, Flat) and asked.kind.quantization is None:
        return "the index is flat"
    if base is None:
        return "no index is in use"
    few = _few(base, asked.kind, packed=asked.matches.prepared.is_ready)
    if asked.matches.count <= few:
        return "they are few"
    # What an index takes grows with the hits that are wanted; what was measured, or is usual, is for ten.
    many = few * asked.limit / NEIGHBOURS if _own_threshold(asked.kind) is None else 0
    return "many hits are wanted" if asked.matches.count <= max(many, _FEW_A_HIT * asked.limit) else None


def _own_threshold(kind: IndexSpec | None) -> int | None:
    return kind.full_scan_threshold if isinstance(kind, Hnsw) else None


def _few(base: Base, index: IndexSpec | None, *, packed: bool) -> int:
    own = _own_threshold(index)
    if own is not None:
        return own
    measured = base.calibration.few_packed if packed else base.calibration.few
    return FEW_MATCHES if measured is None else measured


def walks_in_vain(matches: Matches) -> bool:
    """Whether a filter leaves out what is near to those who ask by it, so that the graph has mostly found nothing of it."""
    return not matches.is_all and matches.prepared.in_vain > _IN_VAIN


def is_worth_packing(view: View, matches: Matches, params: SearchParams, index: IndexSpec | None) -> bool:
    """Whether a filter that is asked again would be answered quicker by a packed copy of its codes."""
    base = view.base
    if base is None or base.codes is None or base.calibration.allowed is None or matches.is_all or params.exact:
        return False
    if isinstance(index, Flat) and index.quantization is None:
        return False
    has_quicker = base.graph is not None or base.cells is not None
    if has_quicker and matches.count >= _MOST * view.count and not walks_in_vain(matches):
        return False
    return matches.count > _few(base, index, packed=True)


def _exactly(asked: _Question, reason: str) -> Found:
    matches = asked.matches
    distances = asked.view.distances(matches.positions, asked.query)
    best = nearest(distances, asked.limit)
    plan = f"exact over {matches.count} rows ({reason})"
    return Found(matches.positions[best], distances[best], exact=True, plan=plan)


def _by_graph(base: Base, graph: Graph, asked: _Question) -> tuple[_Compared | None, str]:
    matches, index, limit = asked.matches, asked.kind, asked.limit
    own = index.ef_search if isinstance(index, Hnsw) else None
    effort = asked.params.ef_search or own or base.calibration.effort
    if effort is None:
        return None, ""
    thinned = asked.thinned(graph.count)
    effort = math.ceil(effort * max(1.0, limit / NEIGHBOURS) * thinned)
    if limit > NEIGHBOURS and effort * _EFFORT_COST > graph.count:
        return None, ""
    if matches.is_all and not asked.has_dead:
        found = graph.nearest(asked.query, graph_candidates(limit), effort)
        return (found, asked.compared(found)), f"graph of {graph.count} rows, ef_search {effort} (no filter)"
    # Asked for twice as many more as filter and deletions take away. Where they take away more, as all that is near the
    # query, too few are left to be sure of the best.
    found = graph.nearest(asked.query, math.ceil(2 * graph_candidates(limit) * thinned), effort)
    found = found[matches.mask[found]]
    is_in_vain = len(found) < graph_candidates(limit)
    matches.prepared.in_vain = _REMEMBERED * matches.prepared.in_vain + is_in_vain
    if is_in_vain:
        return None, ""
    why = "no filter" if matches.is_all else f"a filter that most match: {matches.count}"
    return (found, asked.compared(found)), f"graph of {graph.count} rows, ef_search {effort} ({why})"


def _by_cells(base: Base, cells: Cells, codes: Codes, asked: _Question) -> tuple[_Compared | None, str]:
    matches, index = asked.matches, asked.kind
    probes = asked.params.nprobe or (index.nprobe if isinstance(index, Ivf) else None) or base.calibration.probes
    if probes is None:
        return None, ""
    # The further down the ranks, the further out their cells; and a filter leaves each cell with fewer.
    probes = math.ceil(probes * max(1.0, asked.limit / NEIGHBOURS) * asked.thinned(cells.count))
    probes = min(probes, cells.cells)

    def scan(query: Vector, count: int) -> Ranked:
        came = cells.nearest(query, count, probes)
        found = came.among(matches.mask)
        # Where most of what is near the query may not answer, those that may are in other cells.
        return found if 2 * len(found.positions) >= len(came.positions) else found.nothing()

    found = _rescored(base, codes, asked, scan, base.calibration.allowed)
    if found is None or len(found[0]) < asked.limit:
        return None, ""
    why = "no filter" if matches.is_all else f"a filter that most match: {matches.count}"
    compared = f"{len(found[0])} compared whole ({why})"
    return found, f"cells of {cells.count} rows, nprobe {probes} of {cells.cells}, {compared}"


def _by_codes(base: Base, codes: Codes, asked: _Question) -> tuple[_Compared | None, str]:
    matches, packed = asked.matches, asked.packed

    def scan(query: Vector, count: int) -> Ranked:
        if packed is None:
            return codes.nearest(query, count, matches.selection(codes.count))
        found = packed.nearest(query, count)
        return found if matches.prepared.of is matches.mask else found.among(matches.mask)

    allowed = base.calibration.allowed
    if packed is not None:
        allowed = base.calibration.allowed_packed or allowed
    found = _rescored(base, codes, asked, scan, allowed)
    if found is None:
        return None, ""
    kind, why = ("codes", "no filter" if matches.is_all else "a filter")
    if packed is not None:
        kind, why = "packed codes", "a filter asked again"
    return found, f"{kind} of {matches.count - asked.newer} rows, {len(found[0])} compared whole ({why})"


def _rescored(
    base: Base, codes: Codes, asked: _Question, scan: Callable[[Vector, int], Ranked], allowed: Allowed | None
) -> _Compared | None:
    """Candidates by code, compared. How many to begin with, and to ask the codes for, is learned from what came before."""
    asks = _of_usual_length(base, codes, asked)
    if allowed is None or asks is None:
        return None
    query, factor = asks
    scanned: Callable[[int], Ranked] = partial(scan, query)
    doubt = doubt_of(codes, base.vectors, query)
    if factor != 1:
        scanned, doubt = _times(factor, scanned, doubt)
    prepared = asked.matches.prepared
    learned = prepared.cold if asked.packed is None else prepared.warm
    more = max(1.0, asked.limit / NEIGHBOURS)
    usual, depth = learned.usual or allowed.crowd / 2, learned.depth or float(allowed.crowd)
    found = rescored(
        scanned,
        Rescoring(asked.compared, doubt, allowed, asked.limit, asked.view.metric),
        usual=math.ceil(usual * more),
        depth=math.ceil(depth * more),
        most=asked.matches.count // _OPEN_SHARE,
    )
    # What could not be found in time is asked for further at once the next time, or not at all.
    was_enough = depth * more > asked.matches.count // _OPEN_SHARE if found is None else found.scans == 1
    learned.depth = depth * (1 - 1 / _FORGETS if was_enough else _MORE)
    if found is None:
        return None
    learned.usual = usual * (1 - 1 / _FORGETS if found.open <= usual * more else _USUAL_MORE)
    is_whole = len(found.positions) >= min(asked.limit, asked.matches.count - asked.newer)
    return (found.positions, found.distances) if is_whole else None


def _of_usual_length(base: Base, codes: Codes, asked: _Question) -> tuple[Vector, float] | None:
    """The query that is scanned for, and by how much products with it are to be multiplied. One that is much longer or shorter than
    the vectors leaves the few numbers that codes are scanned in. None if it has no length, or one beyond float32."""
    if asked.view.metric != "dot":
        return asked.query, 1.0
    usual, length = codes.usual_length(base.vectors), math.sqrt(float(np.vdot(asked.query, asked.query)))
    if not (_LEAST_LENGTH < length < math.inf and _LEAST_LENGTH < usual < math.inf):
        return None
    if usual / _AS_LONG <= length <= usual * _AS_LONG:
        return asked.query, 1.0
    return asked.query * np.float32(usual / length), length / usual


def _times(
    factor: float, scan: Callable[[int], Ranked], doubt: Callable[[Positions], float]
) -> tuple[Callable[[int], Ranked], Callable[[Positions], float]]:
    def scanned(count: int) -> Ranked:
        found = scan(count)
        return Ranked(found.positions, found.estimates * np.float32(factor), found.reach * factor)

    return scanned, lambda positions: factor * doubt(positions)
