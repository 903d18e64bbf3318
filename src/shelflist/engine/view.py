"""One generation as it was at one moment: the vectors of a snapshot, those that came after it, and which of them live.

Positions number them from 0, in the order of the rows. A view is never changed: a write makes a new one, which shares the
arrays with the old one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shelflist.core.types import Metric, Vector
from shelflist.engine.calibration import Calibration
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes, Mask, PackedCodes, Selection
from shelflist.engine.exact import Positions, distances
from shelflist.engine.graph import Graph
from shelflist.engine.products import ProductCodes

_MOST_GONE = 0.1
"""Share of a packed filter's rows that may have died before the copy is made anew."""
_GATHER_COST = 4
"""How much dearer it is to copy a vector out of the matrix than to multiply it in place."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a snapshot holds: prepared vectors (n, d), and the indexes over all of them."""

    vectors: Vector
    codes: Codes | None
    graph: Graph | None
    cells: Cells | None
    calibration: Calibration
    products: ProductCodes | None = None

    def packed(self, positions: Positions) -> PackedCodes | None:
        """The codes of these positions for a fast scan, of the kind that is scanned faster; None without codes."""
        codes = self.products or self.codes
        return None if codes is None else codes.packed(positions)


@dataclass(frozen=True, slots=True)
class View:
    """`newer`: prepared vectors after the base's, shape (m, d). `alive`: which positions may answer; None: all."""

    metric: Metric
    base: Base | None
    newer: Vector
    alive: Mask | None = None

    @property
    def base_count(self) -> int:
        return 0 if self.base is None else len(self.base.vectors)

    @property
    def count(self) -> int:
        return self.base_count + len(self.newer)

    def distances(self, positions: Positions, query: Vector) -> Vector:
        """Distances of these positions, ascending, to a prepared query, shape (len(positions),)."""
        split = int(np.searchsorted(positions, self.base_count))
        if not split:
            return self.newer_distances(positions, query)
        older = self.base_distances(positions[:split], query)
        if split == len(positions):
            return older
        return np.concatenate([older, self.newer_distances(positions[split:], query)])

    def base_distances(self, positions: Positions, query: Vector) -> Vector:
        """The same of positions, in any order, that the base has."""
        assert self.base is not None
        return _distances(self.base.vectors, positions, query, self.metric)

    def newer_distances(self, positions: Positions, query: Vector) -> Vector:
        """The same of positions, in any order, after the base's."""
        return _distances(self.newer, positions - self.base_count, query, self.metric)


@dataclass(slots=True)
class Learned:
    """How many codes most (`usual`) and nearly all (`depth`) of a filter's queries leave open, as these have told; 0: none has
    asked."""

    usual: float = 0.0
    depth: float = 0.0


class Prepared:
    """What is made aside for a filter that is asked again: kept while rows come and go, so whoever asks next has it.

    `packed`: its codes, of the mask `of`; rows that have died since are taken out of what it finds. None when it is ready: only
    newer rows match. `cold`, `warm`: what was learned of its queries by all codes and by packed ones. `in_vain`: how many of the
    last walks through the graph found too little.
    """

    def __init__(self, cold: Learned | None = None, warm: Learned | None = None) -> None:
        self.is_under_way = False
        self.is_ready = False
        self.packed: PackedCodes | None = None
        self.of: Mask | None = None
        self.cold, self.warm = cold or Learned(), warm or Learned()
        self.in_vain = 0.0


class Matches:
    """The positions of a view that a search may return, and what has been prepared for searching them again.

    `mask` is over all positions; `is_all`: every living one is meant. `asked`: how often.
    """

    def __init__(self, mask: Mask, *, is_all: bool = False) -> None:
        self.mask = mask
        self.is_all = is_all
        self.count = int(np.count_nonzero(mask))
        self.asked = 0
        self.prepared = Prepared()
        self._positions: Positions | None = None
        self._newer: Positions | None = None
        self._selection: Selection | None = None

    def take_over(self, older: Matches) -> None:
        """Go on with what was prepared, or is being prepared, for the same filter before rows came and died."""
        self.asked = older.asked
        packed = older.prepared.packed
        if packed is None or np.count_nonzero(self.mask[: packed.end]) >= packed.count * (1 - _MOST_GONE):
            self.prepared = older.prepared
        else:  # the dead stand in the way of the living: it is to be made anew
            self.prepared = Prepared(older.prepared.cold, older.prepared.warm)
            self.prepared.in_vain = older.prepared.in_vain

    @property
    def positions(self) -> Positions:
        if self._positions is None:
            self._positions = np.flatnonzero(self.mask)
        return self._positions

    def newer(self, count: int) -> Positions:
        """The positions after the first `count`, which are those of the snapshot."""
        if self._newer is None:
            self._newer = np.flatnonzero(self.mask[count:]) + count
        return self._newer

    def selection(self, count: int) -> Selection:
        """The first `count` positions of the mask, as the engine reads them."""
        if self._selection is None:
            self._selection = Selection(self.mask[:count])
        return self._selection

    @property
    def nbytes(self) -> int:
        held = sum(0 if one is None else one.nbytes for one in (self._positions, self._newer))
        packed = self.prepared.packed
        return self.mask.nbytes + held + (0 if packed is None else packed.nbytes)


def _distances(matrix: Vector, positions: Positions, query: Vector, metric: Metric) -> Vector:
    if len(positions) * _GATHER_COST > len(matrix):  # one pass over everything beats copying most of it
        return np.asarray(distances(matrix, query, metric)[positions], dtype=np.float32)
    return distances(matrix[positions], query, metric)
