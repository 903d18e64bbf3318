"""Which way a search goes, and the search itself.

    exact   every matching vector is compared; for few of them, or where it is asked for
    codes   the codes of all matching rows are scanned and the nearest by code compared whole: no filter is hard for it
    graph   for no filter, or one that most rows match: the quickest, where a graph has been built
    cells   in its place for an index of cells (IVF)

What came after the snapshot is compared exactly beside each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf, SearchParams, Vector
from shelflist.engine.calibration import NEIGHBOURS, graph_candidates
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes
from shelflist.engine.exact import Positions, nearest
from shelflist.engine.graph import Graph
from shelflist.engine.view import MOST_GONE, Base, Matches, View

FEW_MATCHES = 3_000
"""Up to so many are compared exactly, where the snapshot has not measured how many it should be."""
_MOST = 0.6
"""Share of all rows that must live and match for the graph to be asked first: among the dead it loses its way."""
_UNKNOWN_FILTER = 2.0
"""A filter that nothing was measured for may be correlated against the query, and is looked at so much deeper."""


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
        return _exactly(asked, "no quicker way is known to reach the target")
    split = view.base_count
    if view.count > split:
        newer = np.flatnonzero(matches.mask[split:]) + split
        found = np.concatenate([found, newer])
        plan += f", and {len(newer)} newer ones exactly"
    return _ranked(view, found, query, limit, exact=False, plan=plan)


def _reason_for_exact(base: Base | None, asked: _Question) -> str | None:
    """Why every match is to be compared; None if it is not."""
    if asked.params.exact:
        return "asked for"
    if isinstance(asked.kind, Flat) and asked.kind.quantization is None:
        return "the index is flat"
    if base is None:
        return "nothing is built yet"
    few = _few(base, asked.kind, packed=asked.matches.prepared.is_measured)
    return "they are few" if asked.matches.count <= max(few, 4 * asked.limit) else None


def _few(base: Base, index: IndexSpec | None, *, packed: bool) -> int:
    if isinstance(index, Hnsw) and index.full_scan_threshold is not None:
        return index.full_scan_threshold
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
    return _ranked(asked.view, matches.positions, asked.query, asked.limit, exact=True, plan=plan)


def _by_graph(base: Base, graph: Graph, asked: _Question) -> tuple[Positions | None, str]:
    matches, index, limit = asked.matches, asked.kind, asked.limit
    own = index.ef_search if isinstance(index, Hnsw) else None
    effort = asked.params.ef_search or own or base.calibration.effort
    if effort is None:
        return None, ""
    if matches.is_all:
        effort = max(effort, math.ceil(effort * limit / NEIGHBOURS))
        selection = matches.selection(graph.count) if asked.has_dead else None
        found = graph.nearest(asked.query, graph_candidates(limit), effort, selection)
        if len(found) < limit:  # too many of its nodes are dead: it starves
            return None, ""
        return found, f"graph of {graph.count} rows, ef_search {effort} (no filter)"
    # Asked for so many more as the filter takes away. One that is correlated against the query takes away more than that,
    # and then too few are left to be sure of the best.
    wanted = math.ceil(2 * graph_candidates(limit) * graph.count / matches.count)
    effort = math.ceil(effort * max(1.0, limit / NEIGHBOURS) * graph.count / matches.count)
    found = graph.nearest(asked.query, wanted, effort)
    found = found[matches.mask[found]]
    if len(found) < graph_candidates(limit):
        return None, ""
    return found, f"graph of {graph.count} rows, ef_search {effort} (a filter that most match: {matches.count})"


def _by_cells(base: Base, cells: Cells, asked: _Question) -> tuple[Positions | None, str]:
    matches, index, limit = asked.matches, asked.kind, asked.limit
    probes = asked.params.nprobe or (index.nprobe if isinstance(index, Ivf) else None) or base.calibration.probes
    depth = base.calibration.depth
    if probes is None or depth is None:
        return None, ""
    more = max(1.0, limit / NEIGHBOURS)
    depth = math.ceil(depth * more)
    # The further down the ranks, the further out their cells; and a filter leaves each cell with fewer.
    probes = min(math.ceil(probes * more * cells.count / max(1, matches.count)), cells.cells)
    selection = None if matches.is_all and not asked.has_dead else matches.selection(cells.count)
    found = cells.nearest(asked.query, depth, probes, selection)
    if len(found) < limit:
        return None, ""
    why = "no filter" if matches.is_all else f"a filter that most match: {matches.count}"
    return found, f"cells of {cells.count} rows, nprobe {probes} of {cells.cells}, {depth} compared whole ({why})"


def _by_codes(base: Base, codes: Codes, asked: _Question) -> tuple[Positions | None, str]:
    matches, query, limit = asked.matches, asked.query, asked.limit
    prepared = matches.prepared
    if prepared.is_measured:
        known = prepared.depth
    else:
        known = base.calibration.depth
        if known is not None and not matches.is_all:
            known = math.ceil(known * _UNKNOWN_FILTER)
    if known is None:
        return None, ""
    depth = math.ceil(known * max(1.0, limit / NEIGHBOURS))
    if 2 * depth > matches.count:
        return None, ""
    packed = prepared.packed if prepared.is_measured else None
    if packed is None:
        found = codes.nearest(query, depth, matches.selection(codes.count))
        why = "no graph" if matches.is_all else "a filter"
        return found, f"codes of {matches.count} rows, {depth} compared whole ({why})"
    if prepared.of is matches.mask:
        found = packed.nearest(query, depth)
    else:
        found = packed.nearest(query, math.ceil(depth / (1 - MOST_GONE)))
        found = found[matches.mask[found]]
        if len(found) < limit:
            return None, ""
    return found, f"packed codes of {matches.count} rows, {depth} compared whole (a filter asked again)"


def _ranked(view: View, positions: Positions, query: Vector, limit: int, *, exact: bool, plan: str) -> Found:
    found = view.distances(positions, query)
    if not exact:
        # Equal distances are told apart by position, as in an exact search.
        order = np.argsort(positions, kind="stable")
        positions, found = positions[order], found[order]
    best = nearest(found, limit)
    return Found(positions[best], found[best], exact, plan)
