"""What it takes to meet a recall target, measured against exact search on the collection's own vectors.

Questions do not lie where the texts do: a query that is a stored vector is found by a graph at any effort (recall .999
where real questions have .91), so the samples are stored vectors moved by the difference of two others. How far, and how much
more than they need is allowed for, is set so that real questions meet the target too; `bench/calibration.py` compares both on
three sets. What is measured of codes is their error, which is much the same for queries of every kind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shelflist.core.types import Metric, Vector
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes, Ranked, Selection
from shelflist.engine.exact import Positions, distances, nearest, prepared, raw
from shelflist.engine.graph import Graph
from shelflist.engine.products import ProductCodes
from shelflist.engine.rescoring import Allowed, Rescoring, doubt_of, rescored

NEIGHBOURS = 10
SAMPLES = 400
_SHIFTS = (0.5, 0.8)
_EASY = 0.1
"""Share that may be missed up to which samples and real questions agree. Beyond it the hardest decide, and with the graph real
questions have less hard ones than the samples."""
_COMPARED = 0.99
"""The highest target at which the two have been compared: beyond it the samples are taken at their word."""
_CODES_MARGIN, _CROWD_MARGIN, _CELLS_MARGIN = 0.5, 0.4, 0.3
"""Of what is allowed to be missed: samples differ, and so do questions."""
_GRAPH_SLACK, _WIDER = 0.7, 5
_LEAST_EFFORT, _MOST_EFFORT = 16, 2_048
_DEEPEST = 2_000
_LEAST_DOUBT = 1e-6
_FURTHER = 4
_USUAL = 0.9
"""Share of the samples that leave no more open than what is taken for a crowd."""
_FEW = (100, 200, 300, 500, 700, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000)
_TIMED = 15
_BATCH = 4_096
_SEED = 20_260


_Scan = Callable[[Vector, int], Ranked]
Scans = Callable[[Positions], _Scan]
"""Of the rows at some positions, ascending, and no others."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """For the recall@10 that is wanted: how much further than it is a neighbour may seem by its code (`allowed`; by the product
    code of a packed copy: `allowed_packed`, None where copies are of the same codes), how far the graph must look (`effort`:
    ef_search), and into how many cells (`probes`: nprobe). `few`: up to so many matching rows, comparing them all was quicker
    than the codes on the machine that built the snapshot, for a filter that is new and (`few_packed`) for one that has its packed
    copy. None: not measured, or not within reach.
    """

    allowed: Allowed | None = None
    effort: int | None = None
    probes: int | None = None
    few: int | None = None
    few_packed: int | None = None
    allowed_packed: Allowed | None = None


class Sample(NamedTuple):
    """Queries, shape (n, d), the positions of their true neighbours, nearest first, shape (n, at most NEIGHBOURS), and how far each
    of those is (see `exact.raw`)."""

    queries: Vector
    truth: Positions
    away: Vector


def moved_queries(vectors: Vector, metric: Metric, count: int = SAMPLES) -> Vector:
    """Prepared vectors moved by the difference of two others, shape (count, d); the same for the same vectors."""
    start, ahead, behind = np.random.default_rng(_SEED).integers(0, len(vectors), (3, count))
    shift = np.linspace(*_SHIFTS, count, dtype=np.float32)[:, None]
    moved = vectors[start] + shift * (vectors[ahead] - vectors[behind])
    lost = ~moved.any(axis=1)  # no direction is left where they cancel out
    moved[lost] = vectors[start[lost]]
    return prepared(moved, metric)


def samples_of(vectors: Vector, metric: Metric, count: int = SAMPLES) -> Sample:
    """So many moved queries, each with its neighbours."""
    moved = moved_queries(vectors, metric, count)
    return Sample(moved, *true_neighbours(vectors, moved, metric))


def true_neighbours(vectors: Vector, queries: Vector, metric: Metric) -> tuple[Positions, Vector]:
    """Positions of the NEIGHBOURS exactly nearest of each query, shape (queries, at most NEIGHBOURS), and how far each is (see
    `exact.raw`)."""
    kept = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(vectors), _BATCH):
        part = vectors[start : start + _BATCH]
        away = -(queries @ part.T)
        if metric == "l2":
            away = 2 * away + np.einsum("ij,ij->i", part, part)
        best = np.stack([nearest(one, NEIGHBOURS) for one in away])
        kept = np.concatenate([kept, np.take_along_axis(away, best, axis=1)], axis=1)
        places = np.concatenate([places, start + best], axis=1)
        best = np.argsort(kept, axis=1, kind="stable")[:, :NEIGHBOURS]
        kept, places = np.take_along_axis(kept, best, axis=1), np.take_along_axis(places, best, axis=1)
    # Not out of products, where squares of l2 have lost what far away vectors differ in.
    exact = [
        [raw(one, metric) for one in distances(vectors[near], query, metric).tolist()]
        for query, near in zip(queries, places, strict=True)
    ]
    return places, np.asarray(exact, np.float32)


def allowed_for(
    codes: Codes, vectors: Vector, sample: Sample, target: float, scans: Scans | None = None
) -> Allowed | None:
    """The error of codes scanned in this way (that of a new filter) with which the target's share of true neighbours is found, and
    more than that; the one with which it is found where all that may answer are equally far; and how many are mostly left open by
    the former. None if half of the samples leave more open than 2,000, or than half of all."""
    scans = scans or by_selection(codes)
    most = min(_DEEPEST, codes.count // 2)
    pairs = zip(sample.queries, sample.truth, strict=True)
    doubts = np.stack([codes.doubts(query, vectors[near]) for query, near in pairs])
    doubts = np.maximum(doubts, max(_LEAST_DOUBT * float(np.median(doubts)), float(np.finfo(np.float32).tiny)))
    estimates = np.full(sample.truth.shape, np.inf, np.float32)
    for i, (query, truth) in enumerate(zip(sample.queries, sample.truth, strict=True)):
        found = scans(np.sort(truth))(query, len(truth))
        if len(found.positions) == len(truth):
            estimates[i] = found.estimates[(truth[:, None] == found.positions[None, :]).argmax(axis=1)]
    crowded_error = _quantile((estimates - sample.away) / doubts, _aimed(target, _CROWD_MARGIN))
    last, doubt = sample.away[:, -1:], doubts.max(axis=1, keepdims=True)
    error = min(crowded_error, _quantile((estimates - last) / doubt, _aimed(target, _CODES_MARGIN)))
    if not math.isfinite(error):
        return None
    every = scans(np.arange(codes.count))
    open_ones = [
        int(np.searchsorted(every(query, most).estimates, bound, side="right"))
        for query, bound in zip(sample.queries, (last + error * doubt)[:, 0], strict=True)
    ]
    if np.median(open_ones) >= most:
        return None
    return Allowed(error, crowded_error, max(NEIGHBOURS, int(np.quantile(open_ones, _USUAL, method="higher"))))


def _quantile(found: npt.NDArray[np.floating[Any]], share: float) -> float:
    """At least 0; what is not known counts as beyond all bounds."""
    quantile = float(np.quantile(np.where(np.isnan(found), np.inf, found), share, method="higher"))
    return max(0.0, quantile)


def effort_for(graph: Graph, sample: Sample, target: float) -> int | None:
    """The least ef_search, within a twelfth, by which the graph meets the target; None if none of up to 2,048 does."""
    slack = _GRAPH_SLACK * (1 - _hardness(target)) if target <= _COMPARED else 0.0
    return _least(
        lambda i, effort: graph.nearest(sample.queries[i], graph_candidates(NEIGHBOURS), effort),
        sample,
        _aimed(target, -slack),
        between=(_LEAST_EFFORT, _MOST_EFFORT),
    )


def probes_for(
    cells: Cells, codes: Codes, vectors: Vector, allowed: Allowed, sample: Sample, target: float
) -> int | None:
    """Five times the least nprobe with which what is left open holds the target's share of the true neighbours; None if not even
    all cells do."""
    pairs = zip(sample.queries, sample.truth, strict=True)
    doubts = np.asarray([doubt_of(codes, vectors, query)(near) for query, near in pairs])
    bounds = sample.away[:, -1] + allowed.crowded_error * doubts

    def open_ones(i: int, nprobe: int) -> Positions:
        found = cells.nearest(sample.queries[i], _FURTHER * allowed.crowd, nprobe)
        return found.positions[: np.searchsorted(found.estimates, bounds[i], side="right")]

    needed = _least(open_ones, sample, _aimed(target, _CELLS_MARGIN), between=(1, cells.cells))
    return None if needed is None else min(_WIDER * needed, cells.cells)


def _least(
    nearest: Callable[[int, int], Positions],
    sample: Sample,
    share: float,
    *,
    between: tuple[int, int],
) -> int | None:
    """The least setting, within a twelfth, by which `nearest` finds this share of the true neighbours of its samples."""

    def meets(setting: int) -> bool:
        found = sum(len(np.intersect1d(nearest(i, setting), near)) for i, near in enumerate(sample.truth))
        return bool(found >= share * sample.truth.size)

    least, most = between
    low = high = least
    while not meets(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 12):
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def few_for(
    codes: Codes, vectors: Vector, queries: Vector, metric: Metric, allowed: Allowed, scans: Scans
) -> int | None:
    """Up to how many matching rows it is quicker to compare them all than to scan their codes and compare what those leave open,
    by the clock; None on too few rows to tell."""
    if len(vectors) < 2 * _FEW[-1]:
        return None
    random = np.random.default_rng(_SEED)
    few = 0
    for count in _FEW:
        positions = np.sort(random.choice(len(vectors), count, replace=False))
        scan = scans(positions)

        def compared(query: Vector, among: Positions = positions) -> None:
            nearest(distances(vectors[among], query, metric), NEIGHBOURS)

        def scanned(query: Vector, scan: _Scan = scan) -> None:
            rescored(
                partial(scan, query),
                Rescoring(
                    lambda some: distances(vectors[some], query, metric),
                    doubt_of(codes, vectors, query),
                    allowed,
                    NEIGHBOURS,
                    metric,
                ),
                usual=allowed.crowd // 2,
                depth=allowed.crowd,
                most=len(vectors),
            )

        if _seconds(scanned, queries) < _seconds(compared, queries):
            break
        few = count
    return few


def by_selection(codes: Codes) -> Scans:
    """As a new filter is searched: among all codes."""

    def scan(positions: Positions) -> _Scan:
        mask = np.zeros(codes.count, np.bool_)
        mask[positions] = True
        selection = Selection(mask)
        return lambda query, count: codes.nearest(query, count, selection)

    return scan


def by_packing(codes: Codes | ProductCodes) -> Scans:
    """As a filter is searched that is asked again: by a copy of its codes."""
    return lambda positions: codes.packed(positions).nearest


def _seconds(ask: Callable[[Vector], None], queries: Vector) -> float:
    """The least of several, since what disturbs only ever adds."""
    taken = []
    for query in queries[:_TIMED]:
        started = time.perf_counter()
        ask(query)
        taken.append(time.perf_counter() - started)
    return min(taken)


def graph_candidates(limit: int) -> int:
    """How many of the graph's candidates are compared whole for `limit` hits: it ranks by shortened vectors."""
    return max(limit + limit // 2, 15)


def _hardness(target: float) -> float:
    """1 up to a target of .9, .71 at .95, .45 at .98, .32 at .99, .1 from .999 on."""
    return float(np.clip(np.sqrt((1 - target) / _EASY), 0.1, 1))


def _aimed(target: float, margin: float) -> float:
    return target + (1 - target) * margin
