"""Every vector as one bit a dimension, or two, after a random rotation (RaBitQ): a scan that heeds any filter as it goes.

Its work grows with the matching rows in a straight line, and the ranks come from all of them. A code says about how far its
vector is; whole vectors decide (see `rescoring`). Source: Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical
Error Bound for Approximate Nearest Neighbor Search" (SIGMOD 2024), in the implementation of FAISS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shelflist.core.types import Metric, Vector
from shelflist.engine.exact import Positions

Mask = npt.NDArray[np.bool_]
LEAST_DIMENSIONS = 32
"""Below it a bit a dimension tells too little apart."""
_MOST_ROTATED = 1_024
"""Dimensions up to which the rotation is a whole random matrix; above it, a Hadamard matrix with random signs."""
_TRAINING_ROWS = 20_000
_BATCH = 16_384
_MEASURED = 1_000
_ROUNDING = 0.02
"""Of what is all but the same as the query hardly anything would be in doubt, but for the 8 bits of the query itself."""
QUERY_BITS = 8
"""Of each component of a rotated query. With 4 the scan is a sixth faster and ten neighbours stand a tenth deeper."""


class Ranked(NamedTuple):
    """Positions, nearest by code first, and about how far each is (see `exact.raw`). `reach`: up to there nobody is left out."""

    positions: Positions
    estimates: Vector
    reach: float

    def among(self, mask: Mask) -> Ranked:
        chosen = mask[self.positions]
        return Ranked(self.positions[chosen], self.estimates[chosen], self.reach)

    def nothing(self) -> Ranked:
        """As if none were there."""
        return Ranked(self.positions[:0], self.estimates[:0], math.inf)


def ranked(index: Any, query: Vector, count: int, params: Any = None) -> Ranked:
    """What a FAISS index finds for one query."""
    import faiss

    with alone():
        estimates, positions = index.search(query[None], min(count, index.ntotal), params=params)
    found, near = positions[0], estimates[0]
    is_all = count >= index.ntotal
    if len(found) and found[-1] < 0:
        found, near, is_all = found[found >= 0], near[found >= 0], True
    if index.metric_type != faiss.METRIC_L2:
        near = -near
    return Ranked(found, near, math.inf if is_all else float(near[-1]))


class Selection:
    """A choice of positions, as FAISS reads it. It keeps the bits alive that FAISS only points to."""

    __slots__ = ("_bits", "selector")

    def __init__(self, mask: Mask) -> None:
        import faiss

        self._bits = np.packbits(mask, bitorder="little")
        self.selector = faiss.IDSelectorBitmap(self._bits)


class PackedCodes:
    """The codes of some positions in the layout of FAISS's fast scan, for a filter that is asked again and again.

    `strays`: positions whose codes tell nothing of them. They are among the nearest of every search.
    """

    __slots__ = ("_index", "_positions", "_rotate", "_strays", "count", "end", "nbytes")

    def __init__(
        self, index: Any, rotate: Callable[[Vector], Vector], positions: Positions, nbytes: int, strays: Positions
    ) -> None:
        self._index = index
        self._rotate = rotate
        self._positions = positions
        self._strays = strays
        self.count = len(positions) + len(strays)
        self.end = max((int(some[-1]) + 1 for some in (positions, strays) if len(some)), default=0)
        self.nbytes = nbytes + positions.nbytes + strays.nbytes

    def nearest(self, query: Vector, count: int) -> Ranked:
        """The `count` nearest by code, and the strays before them."""
        first = Ranked(self._strays, np.full(len(self._strays), -np.inf, np.float32), math.inf)
        if not len(self._positions):
            return first
        found = ranked(self._index, self._rotate(query[None])[0], count)
        positions = self._positions[found.positions]
        if not len(self._strays):
            return Ranked(positions, found.estimates, found.reach)
        estimates = np.concatenate([first.estimates, found.estimates])
        return Ranked(np.concatenate([self._strays, positions]), estimates, found.reach)


class Codes:
    """The codes of the positions 0 … count - 1. Never changed once built."""

    def __init__(self, index: Any) -> None:
        import faiss

        self._index = index
        self._codes = faiss.downcast_index(index.index)
        self._rotate = index.chain.at(0)
        self._middle = _turned_back(self._rotate, faiss.vector_to_array(self._codes.center))
        self.count: int = index.ntotal
        self._usual_length: float | None = None

    @classmethod
    def build(
        cls,
        vectors: Vector,
        metric: Metric,
        advance: Callable[[int], None] = lambda vectors: None,
        *,
        bits: int = 1,
    ) -> Codes:
        """Codes of prepared vectors (n, d), 1 or 2 bits a dimension; `vectors` may be a mapped file; `advance` hears how many
        were added, and may raise."""
        import faiss

        count, dimensions = vectors.shape
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        rotation = rotation_of(dimensions)
        codes = faiss.IndexRaBitQ(rotation.d_out, kind, bits)
        codes.qb = QUERY_BITS
        index = faiss.IndexPreTransform(rotation, codes)
        step = max(1, count // _TRAINING_ROWS)
        index.train(np.ascontiguousarray(vectors[::step]))
        add_in_parts(index, vectors, _BATCH, advance)
        return cls(index)

    def nearest(self, query: Vector, count: int, selection: Selection | None = None) -> Ranked:
        """The `count` nearest by code among the selected ones (all)."""
        import faiss

        selector = None if selection is None else selection.selector
        inner = faiss.RaBitQSearchParameters(sel=selector, qb=QUERY_BITS)
        return ranked(self._index, query, count, faiss.SearchParametersPreTransform(index_params=inner))

    def usual_length(self, vectors: Vector) -> float:
        """Of the vectors that these codes are of, shape (n, d), told by a few."""
        if self._usual_length is None:
            some = vectors[:: max(1, len(vectors) // _MEASURED)].astype(np.float64)
            self._usual_length = float(np.median(np.linalg.norm(some, axis=1)))
        return self._usual_length

    def doubts(self, query: Vector, vectors: Vector) -> Vector:
        """What the error of each vector's estimate grows with, by theorem 3.2 of the paper: how far the query is from the middle of
        all, times how far the vector is from the line through both; and a little of the lengths, as the query is rounded too.
        The rest is chance, and much the same for any vectors and every metric. Shape (n,)."""
        with np.errstate(over="ignore", invalid="ignore"):
            ahead, away = query - self._middle, vectors - self._middle
            whole = np.vdot(ahead, ahead) * np.einsum("ij,ij->i", away, away)
            along = np.einsum("ij,j->i", away, ahead)
            found = np.sqrt(np.maximum(0, whole - along * along) + _ROUNDING**2 * whole)
        return np.where(np.isnan(found), np.float32(np.inf), found)

    def doubt(self, query: Vector, vector: Vector) -> float:
        """The same of one vector, for which so many steps over rows would take several times as long."""
        with np.errstate(over="ignore", invalid="ignore"):
            ahead, away = query - self._middle, vector - self._middle
        whole, along = float(np.vdot(ahead, ahead)) * float(np.vdot(away, away)), float(np.vdot(ahead, away))
        found = max(0.0, whole - along * along) + _ROUNDING**2 * whole
        return math.sqrt(found) if found < math.inf else math.inf

    def _turned(self, vectors: Vector) -> Vector:
        with alone():
            turned: Vector = self._rotate.apply(vectors)
        return turned

    def packed(self, positions: Positions) -> PackedCodes:
        """A copy of the codes of these positions, for a faster scan."""
        import faiss

        size = self._codes.code_size
        every = faiss.rev_swig_ptr(self._codes.codes.data(), self.count * size).reshape(self.count, size)
        some = faiss.IndexRaBitQ(self._codes.d, self._codes.metric_type, self._codes.rabitq.nb_bits)
        some.center, some.is_trained, some.ntotal = self._codes.center, True, len(positions)
        faiss.copy_array_to_vector(every[positions].ravel(), some.codes)
        packed = faiss.IndexRaBitQFastScan(some)
        packed.qb = QUERY_BITS
        return PackedCodes(packed, self._turned, positions, len(positions) * size, positions[:0])

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path) -> Codes:
        import faiss

        return cls(faiss.read_index(str(path)))


def add_in_parts(index: Any, vectors: Vector, rows: int, advance: Callable[[int], None]) -> None:
    """Add vectors, perhaps of a mapped file, so many rows at a time; `advance` hears how many, and may raise to stop it."""
    for start in range(0, len(vectors), rows):
        part = np.ascontiguousarray(vectors[start : start + rows])
        index.add(part)
        advance(len(part))


def rotation_of(dimensions: int) -> Any:
    """A random rotation, the same for the same dimensions: after it no component tells more than another."""
    import faiss

    if dimensions > _MOST_ROTATED:
        return faiss.HadamardRotation(dimensions)
    rotation = faiss.RandomRotationMatrix(dimensions, dimensions)
    rotation.init(1)
    return rotation


def _turned_back(rotation: Any, vector: Vector) -> Vector:
    """What `rotation_of` has turned into this."""
    import faiss

    if (
        rotation.d_in != rotation.d_out
    ):  # such a one has no inverse in FAISS, but the same one of as many dimensions has
        rotation = faiss.HadamardRotation(rotation.d_out, faiss.downcast_VectorTransform(rotation).seed)
    turned: Vector = rotation.reverse_transform(vector[None])[0]
    return turned


class alone:
    """One query is for one thread: with several, each waits until the last of them has been given a core."""

    __slots__ = ("_threads",)

    def __enter__(self) -> None:
        import faiss

        self._threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)

    def __exit__(self, *error: object) -> None:
        import faiss

        faiss.omp_set_num_threads(self._threads)
