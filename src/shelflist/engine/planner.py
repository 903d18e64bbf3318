"""Which way a search goes, and the search itself.

    exact   every matching vector is compared; for few of them, or where it is asked for
    codes   the codes of all matching rows are scanned and the nearest by code compared whole, the more of them the less
            well the codes tell those apart
    graph   for no filter, or one that most rows match: the quickest, where a graph has been built
    cells   in its place for an index of cells (IVF)

What came after the snapshot is compared exactly beside each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf, SearchParams, Vector
from shelflist.engine.calibration import NEIGHBOURS, graph_candidates
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes, PackedCodes
from shelflist.engine.exact import Positions, nearest
from shelflist.engine.graph import Graph
from shelflist.engine.view import MOST_GONE, Base, Matches, View

FEW_MATCHES = 3_000
"""Up to so many are compared exactly, where the snapshot has not measured how many it should be."""
_MOST = 0.6
"""Share of all rows that must live and match for the graph to be asked first: among the dead it loses its way."""
_UNKNOWN_FILTER = 2.0
"""A filter that nothing was measured for may be correlated against the query, and is looked at so much deeper."""
_FEW_A_HIT = 4
"""Matches for each hit wanted, up to which no index is worth its while."""
_TRUSTED = 0.5
"""Of the candidates by code, the part in which the nearest must stand. Where they reach beyond, as where the nearest of all
are dead or do not match, codes tell those that are left less well apart, and twice as many are compared."""
_EFFORT_COST = 25
"""An effort of so much less than the graph's rows takes as long as comparing them all."""


@dataclass(frozen=True, slots=True)
class Found:
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

    def thinned(self, count: int) -> float:
        """How many of an index's `count` rows there are, at least, to one that matches; newer rows beside it thin nothing out."""
        return max(1.0, count / max(1, self.matches.count))


def search(
    view: View, matches: Matches, query: Vector, limit: int, params: SearchParams, index: IndexSpec | None
) -> Found:
    """The `min(limit, matches)` nearest of the matches to a prepared query."""
    asked = _Question(view, matches, query, limit, params, index)
    base = view.base
    reason = _reason_for_exact(base, asked)
    if base is None or reason is not None:
        return _exactly(asked, reason or "")
    found: Positions | None = None
    plan = ""
    if base.graph is not None and asked.most_match:
        found, plan = _by_graph(base, base.graph, asked)
    if base.cells is not None and (matches.is_all or asked.most_match):
        found, plan = _by_cells(base, base.cells, asked)
    if found is None and base.codes is not None:
        found, plan = _by_codes(base, base.codes, asked)
    if found is None:
        return _exactly(asked, "the quicker ways do not reach the target here")
    split = view.base_count
    if view.count > split:
        newer = np.flatnonzero(matches.mask[split:]) + split
        found = np.concatenate([found, newer])
        plan += f", and {len(newer)} newer ones exactly"
    at, distances = _compared(asked, found)
    return Found(found[at], distances, exact=False, plan=plan)


def _reason_for_exact(base: Base | None, asked: _Question) -> str | None:
    """Why every match is to be compared; None if it is not."""
    if asked.params.exact:
        return "asked for"
    if isinstance(asked.kind, Flat) and asked.kind.quantization is None:
        return "the index is flat"
    if base is None:
        return "no index is in use"
    few = _few(base, asked.kind, packed=asked.matches.prepared.is_measured)
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


def is_worth_packing(view: View, matches: Matches, params: SearchParams, index: IndexSpec | None) -> bool:
    """Whether a filter that is asked again would be answered quicker by a packed copy of its codes."""
    base = view.base
    if base is None or base.codes is None or matches.is_all or params.exact:
        return False
    if isinstance(index, Flat) and index.quantization is None:
        return False
    if (base.graph is not None or base.cells is not None) and matches.count >= _MOST * view.count:
        return False
    return matches.count > _few(base, index, packed=True)


def _exactly(asked: _Question, reason: str) -> Found:
    matches = asked.matches
    plan = f"exact over {matches.count} rows ({reason})"
    at, distances = _compared(asked, matches.positions)
    return Found(matches.positions[at], distances, exact=True, plan=plan)


def _by_graph(base: Base, graph: Graph, asked: _Question) -> tuple[Positions | None, str]:
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
        return found, f"graph of {graph.count} rows, ef_search {effort} (no filter)"
    # Asked for twice as many more as filter and deletions take away. Where they take away more, as all that is near the
    # query, too few are left to be sure of the best.
    found = graph.nearest(asked.query, math.ceil(2 * graph_candidates(limit) * thinned), effort)
    found = found[matches.mask[found]]
    if len(found) < graph_candidates(limit):
        return None, ""
    why = "no filter" if matches.is_all else f"a filter that most match: {matches.count}"
    return found, f"graph of {graph.count} rows, ef_search {effort} ({why})"


def _by_cells(base: Base, cells: Cells, asked: _Question) -> tuple[Positions | None, str]:
    matches, index, limit = asked.matches, asked.kind, asked.limit
    probes = asked.params.nprobe or (index.nprobe if isinstance(index, Ivf) else None) or base.calibration.probes
    depth = base.calibration.depth
    if probes is None or depth is None:
        return None, ""
    more = max(1.0, limit / NEIGHBOURS)
    depth = math.ceil(depth * more)
    # The further down the ranks, the further out their cells; and a filter leaves each cell with fewer.
    probes = min(math.ceil(probes * more * asked.thinned(cells.count)), cells.cells)
    came = cells.nearest(asked.query, 2 * depth, probes)
    found = came[matches.mask[came]][:depth]
    if len(found) < limit or 2 * len(found) < min(len(came), 2 * depth):  # what is near the query may not answer
        return None, ""
    why = "no filter" if matches.is_all else f"a filter that most match: {matches.count}"
    return found, f"cells of {cells.count} rows, nprobe {probes} of {cells.cells}, {depth} compared whole ({why})"


def _by_codes(base: Base, codes: Codes, asked: _Question) -> tuple[Positions | None, str]:
    matches, limit = asked.matches, asked.limit
    prepared = matches.prepared
    known = prepared.depth if prepared.is_measured else base.calibration.depth
    if known is None:
        return None, ""
    if not prepared.is_measured and not matches.is_all:
        known = math.ceil(known * _UNKNOWN_FILTER)
    depth = math.ceil(known * max(1.0, limit / NEIGHBOURS))
    packed = prepared.packed if prepared.is_measured else None
    scan = _scan(codes, asked) if packed is None else _packed_scan(packed, codes, asked)
    found: Positions = np.empty(0, np.int64)
    while 2 * depth <= matches.count:
        if len(found) < depth:
            found = scan(2 * depth)  # what may be wanted next costs little to have at once
        at, _ = _compared(asked, found[:depth])
        if at.max(initial=0) < _TRUSTED * depth:
            kind, why = ("codes", "no filter" if matches.is_all else "a filter")
            if packed is not None:
                kind, why = "packed codes", "a filter asked again"
            return found[at], f"{kind} of {matches.count} rows, {depth} compared whole ({why})"
        depth *= 2
    return None, ""


def _scan(codes: Codes, asked: _Question) -> Callable[[int], Positions]:
    selection = asked.matches.selection(codes.count)
    return lambda count: codes.nearest(asked.query, count, selection)


def _packed_scan(packed: PackedCodes, codes: Codes, asked: _Question) -> Callable[[int], Positions]:
    matches = asked.matches
    if matches.prepared.of is matches.mask:
        return lambda count: packed.nearest(asked.query, count)

    def living(count: int) -> Positions:
        found = packed.nearest(asked.query, math.ceil(count / (1 - MOST_GONE)))
        found = found[matches.mask[found]]
        # The dead may all be those near the query.
        return found if len(found) >= min(count, matches.count) else _scan(codes, asked)(count)

    return living


def _compared(asked: _Question, positions: Positions) -> tuple[Positions, Vector]:
    """Where the nearest of these stand among them, nearest first, and their distances. Equal ones by position, as in an
    exact search."""
    order = np.argsort(positions, kind="stable")
    found = asked.view.distances(positions[order], asked.query)
    best = nearest(found, asked.limit)
    return order[best], found[best]
