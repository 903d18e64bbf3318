"""What it takes to meet a recall target, measured against exact search on the collection's own vectors.

Questions do not lie where the texts do: a query that is a stored vector is found by a graph at any effort (recall .999
where real questions have .91), so the samples are stored vectors moved by the difference of two others. How far, and how much
deeper than they need the codes are looked through, is set so that real questions meet the target too; `bench/calibration.py`
compares both on three sets. For codes stored vectors can be the harder ones, as where a filter leaves a few of each of many
clusters: they are asked too, and the harder of both kinds decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shelflist.core.types import Metric, Vector
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes, PackedCodes, Selection
from shelflist.engine.exact import Positions, distances, nearest, prepared
from shelflist.engine.graph import Graph

NEIGHBOURS = 10
SAMPLES = 400
_STORED = 0.25
"""Stored vectors, to one moved query."""
_SHIFTS = (0.5, 0.8)
_EASY = 0.1
"""Share that may be missed up to which samples and real questions agree. Beyond it the hardest decide, and with codes real
questions have harder ones than the samples, with the graph less hard ones."""
_COMPARED = 0.99
"""The highest target at which the two have been compared: beyond it the samples are taken at their word."""
_CODES_MARGIN, _CELLS_MARGIN = 0.5, 0.3
"""Of what is allowed to be missed: samples differ, and so do questions."""
_GRAPH_SLACK, _DEEPER, _WIDER = 0.7, 1.25, 5
_LEAST_EFFORT, _MOST_EFFORT = 16, 2_048
_DEEPEST = 2_000
_FEW = (500, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000)
_TIMED = 15
_BATCH = 4_096
_SEED = 20_260


@dataclass(frozen=True, slots=True)
class Calibration:
    """For `target`, the recall@10 that is wanted: how many of the nearest by code must be compared whole (`depth`), how
    far the graph must look (`effort`: ef_search), and into how many cells (`probes`: nprobe). `few`: up to so many matching
    rows, comparing them all was quicker than the codes on the machine that built the snapshot, for a filter that is new and
    (`few_packed`) for one that has its packed copy. None: not measured, or not within reach.
    """

    target: float
    depth: int | None = None
    effort: int | None = None
    probes: int | None = None
    few: int | None = None
    few_packed: int | None = None


class Sample(NamedTuple):
    """Queries, shape (n, d), and the positions of their true neighbours, shape (n, at most NEIGHBOURS)."""

    queries: Vector
    truth: Positions


def moved_queries(vectors: Vector, metric: Metric, count: int = SAMPLES) -> Vector:
    """Prepared vectors moved by the difference of two others, shape (count, d); the same for the same vectors."""
    start, ahead, behind = np.random.default_rng(_SEED).integers(0, len(vectors), (3, count))
    shift = np.linspace(*_SHIFTS, count, dtype=np.float32)[:, None]
    moved = vectors[start] + shift * (vectors[ahead] - vectors[behind])
    lost = ~moved.any(axis=1)  # no direction is left where they cancel out
    moved[lost] = vectors[start[lost]]
    return prepared(moved, metric)


def samples_of(
    vectors: Vector, metric: Metric, count: int = SAMPLES, among: Positions | None = None
) -> tuple[Sample, Sample]:
    """So many moved queries, and some stored vectors, each with its neighbours (among these)."""
    moved = moved_queries(vectors, metric, count)
    stored = vectors[np.random.default_rng(_SEED).integers(0, len(vectors), math.ceil(_STORED * count))]
    truth = true_neighbours(vectors, np.concatenate([moved, stored]), metric, among)
    return Sample(moved, truth[:count]), Sample(stored, truth[count:])


def true_neighbours(vectors: Vector, queries: Vector, metric: Metric, among: Positions | None = None) -> Positions:
    """Positions of the NEIGHBOURS exactly nearest of each query (among these), shape (queries, at most NEIGHBOURS)."""
    total = len(vectors) if among is None else len(among)
    kept = np.empty((len(queries), 0), np.float32)
    places = np.empty((len(queries), 0), np.int64)
    for start in range(0, total, _BATCH):  # a part at a time: all of a large filter need not fit into memory
        rows = np.arange(start, min(start + _BATCH, total)) if among is None else among[start : start + _BATCH]
        part = vectors[rows] if among is not None else vectors[start : start + _BATCH]
        near = queries @ part.T
        if metric == "l2":
            near = 2 * near - np.einsum("ij,ij->i", part, part)
        best = np.stack([nearest(-one, NEIGHBOURS) for one in near])
        kept = np.concatenate([kept, np.take_along_axis(near, best, axis=1)], axis=1)
        places = np.concatenate([places, rows[best]], axis=1)
        best = np.argsort(-kept, axis=1, kind="stable")[:, :NEIGHBOURS]
        kept, places = np.take_along_axis(kept, best, axis=1), np.take_along_axis(places, best, axis=1)
    return places


def depth_for(codes: Codes | PackedCodes, samples: Iterable[Sample], target: float, count: int) -> int | None:
    """How many of the nearest by code hold the target's share of the true neighbours, of every sample; None beyond 2,000 or
    half of all."""
    most = min(_DEEPEST, count // 2)
    deeper = _DEEPER / _hardness(target)
    hardest = max(
        np.quantile(_ranks(codes, one, most), _aimed(target, _CODES_MARGIN), method="higher") for one in samples
    )
    needed = int(deeper * (hardest + 1))
    return needed if needed <= most else None


def _ranks(codes: Codes | PackedCodes, sample: Sample, most: int) -> Positions:
    """The rank by code of each true neighbour, or `most`; the shape of the truth."""
    ranks = np.full(sample.truth.shape, most, np.int64)
    for i, query in enumerate(sample.queries):
        hits = sample.truth[i][:, None] == codes.nearest(query, most)[None, :]
        ranks[i] = np.where(hits.any(axis=1), hits.argmax(axis=1), most)
    return ranks


def effort_for(graph: Graph, sample: Sample, target: float) -> int | None:
    """The least ef_search, within a twelfth, by which the graph meets the target; None if none of up to 2,048 does."""
    slack = _GRAPH_SLACK * (1 - _hardness(target)) if target <= _COMPARED else 0.0
    return _least(
        lambda query, effort: graph.nearest(query, graph_candidates(NEIGHBOURS), effort),
        sample,
        _aimed(target, -slack),
        between=(_LEAST_EFFORT, _MOST_EFFORT),
    )


def probes_for(cells: Cells, depth: int, sample: Sample, target: float) -> int | None:
    """Five times the least nprobe whose `depth` nearest by code hold the target's share of the true neighbours; None if not
    even all cells do."""
    needed = _least(
        lambda query, nprobe: cells.nearest(query, depth, nprobe),
        sample,
        _aimed(target, _CELLS_MARGIN),
        between=(1, cells.cells),
    )
    return None if needed is None else min(_WIDER * needed, cells.cells)


def _least(
    nearest: Callable[[Vector, int], Positions],
    sample: Sample,
    share: float,
    *,
    between: tuple[int, int],
) -> int | None:
    """The least setting, within a twelfth, by which `nearest` finds this share of the true neighbours."""

    def meets(setting: int) -> bool:
        found = 0
        for query, near in zip(*sample, strict=True):
            found += len(np.intersect1d(nearest(query, setting), near))
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


def few_for(codes: Codes, vectors: Vector, queries: Vector, metric: Metric, depth: int, *, packed: bool) -> int | None:
    """Up to how many matching rows it is quicker to compare them all than to scan their codes and compare `depth` of them, by
    the clock; None on too few rows to tell."""
    if len(vectors) < 2 * _FEW[-1]:
        return None
    random = np.random.default_rng(_SEED)
    few = 0
    for count in _FEW:
        positions = np.sort(random.choice(len(vectors), count, replace=False))
        scan = _packed_scan(codes, positions, depth) if packed else _scan(codes, positions, depth)

        def compared(query: Vector, among: Positions = positions) -> None:
            nearest(distances(vectors[among], query, metric), NEIGHBOURS)

        def scanned(query: Vector, scan: Callable[[Vector], Positions] = scan) -> None:
            compared(query, scan(query))

        if _seconds(scanned, queries) < _seconds(compared, queries):
            break
        few = count
    return few


def _packed_scan(codes: Codes, positions: Positions, depth: int) -> Callable[[Vector], Positions]:
    packed = codes.packed(positions)
    return lambda query: packed.nearest(query, depth)


def _scan(codes: Codes, positions: Positions, depth: int) -> Callable[[Vector], Positions]:
    mask = np.zeros(codes.count, np.bool_)
    mask[positions] = True
    selection = Selection(mask)
    return lambda query: codes.nearest(query, depth, selection)


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
