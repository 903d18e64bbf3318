"""Every vector as four bits for two components, after a random rotation (product quantization): what filters that are asked
again are scanned by.

Half as wrong as one bit a component, and scanned several times as fast: sixteen points for a pair fit a register, so that many
rows are looked up at once, and nothing is worked out for a row but a sum. It takes no selection, so it is for packed copies. Sources:
Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (PAMI 2011); André, Kermarrec and Le Scouarnec, "Cache
locality is not enough: High-Performance Nearest Neighbor Search with Product Quantization Fast Scan" (VLDB 2015), in the
implementation of FAISS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shelflist.core.types import Metric, Vector
from shelflist.engine.codes import PackedCodes
from shelflist.engine.exact import Positions

_PAIRED, _MOST_CODES = 1_024, 768
"""Dimensions up to which four bits are for two components; above it for four, since errors even out over more of them, or for
as many as it takes: more codes a vector, and their sum leaves the 16 bits that FAISS keeps it in."""
_BITS = 4
_LEAST_TURNED, _MOST_TURNED = 16, 64
"""Components that are turned among themselves. A matrix of all would be most of what a small filter's search has to read."""
_LEAST_ROWS, _TRAINING_ROWS = 1_000, 10_000
_ROUNDS = 10
_BATCH = 16_384
_SEED = 20_261
_LONG = 3
"""Times as far from the middle as the usual vector, from where on none tells where points should be: they would be so few, for
so much, that they tell the others no more apart."""
_DUST = 1e-10
"""Share of its length that a vector is away from all others by rounding alone."""
_FAR = 1.5
"""Times as wrong, for its distance from the middle, as the usual vector: such a stray is compared whole by every search."""
_MOST_STRAYS = 0.001
"""Share of all beyond which these codes are of no use."""


class Rotation:
    """Random rotations of parts that each take components from everywhere: `blocks`, shape (parts, size, size)."""

    def __init__(self, blocks: Vector) -> None:
        self.blocks = blocks
        self.dimensions = blocks.shape[0] * blocks.shape[1]

    @classmethod
    def of(cls, dimensions: int) -> Rotation | None:
        """None where `size_for` is."""
        size = cls.size_for(dimensions)
        if size is None:
            return None
        parts = dimensions // size
        drawn = np.random.default_rng(_SEED).standard_normal((parts, size, size))
        return cls(np.linalg.qr(drawn).Q.astype(np.float32))

    @staticmethod
    def size_for(dimensions: int) -> int | None:
        """None where components come in no pairs, or cannot be shared out to parts of a good size."""
        sizes = [one for one in range(_LEAST_TURNED, _MOST_TURNED + 1, 2) if dimensions % one == 0]
        return sizes[-1] if sizes else None

    def apply(self, vectors: Vector) -> Vector:
        """Shape (n, d)."""
        parts, size, _ = self.blocks.shape
        with np.errstate(over="ignore", invalid="ignore"):
            turned = np.matmul(vectors.reshape(-1, size, parts).transpose(2, 0, 1), self.blocks)
        return np.ascontiguousarray(turned.transpose(1, 0, 2)).reshape(len(vectors), self.dimensions)


class ProductCodes:
    """The codes of the positions 0 … count - 1. Never changed once built.

    A sum of points is nearer to the middle than what it stands for, by the same share for nearly every vector; the points are
    moved outwards by as much, so that products with them are right in the mean.
    """

    def __init__(self, index: Any, rotation: Rotation, strays: Positions) -> None:
        self._index = index
        self._rotation = rotation
        self._strays = strays
        self.count: int = index.ntotal

    @staticmethod
    def fit(metric: Metric, count: int, dimensions: int) -> bool:
        """Not for l2, where the error of a vector grows with its length, for dimensions that no rotation fits, and for fewer than
        a thousand vectors."""
        is_whole = Rotation.size_for(dimensions) is not None and dimensions % _components(dimensions) == 0
        return metric != "l2" and count >= _LEAST_ROWS and is_whole

    @classmethod
    @np.errstate(all="ignore")
    def build(
        cls, vectors: Vector, metric: Metric, advance: Callable[[int], None] = lambda vectors: None
    ) -> ProductCodes | None:
        """Codes of prepared vectors (n, d), which may be a mapped file; `advance` hears how many were added, and may raise. None
        where they do not fit, and where too many are strays."""
        import faiss

        rotation = Rotation.of(vectors.shape[1])
        if rotation is None or not cls.fit(metric, *vectors.shape):
            return None
        dimensions = rotation.dimensions
        codes = faiss.IndexPQ(dimensions, dimensions // _components(dimensions), _BITS)
        codes.metric_type = faiss.METRIC_INNER_PRODUCT
        codes.pq.cp.niter, codes.pq.cp.min_points_per_centroid = _ROUNDS, 1
        sample = rotation.apply(vectors[:: max(1, len(vectors) // _TRAINING_ROWS)])
        length = np.linalg.norm(sample - np.median(sample, axis=0), axis=1)
        sample = sample[np.isfinite(length) & (length <= _LONG * np.median(length))]
        if len(sample) < 2**_BITS:  # numbers near the end of float32
            return None
        middle = sample.mean(axis=0)
        codes.train(sample)
        away, coded = sample - middle, codes.sa_decode(codes.sa_encode(sample)) - middle
        whole = float(np.einsum("ij,ij->", away, away))
        if not np.inf > whole > _DUST * float(np.einsum("ij,ij->", sample, sample)):  # all vectors are the same
            return None
        share = float(np.einsum("ij,ij->", away, coded)) / whole
        most = _FAR * float(np.median(_wrong(away, coded, share)))
        found = []
        for start in range(0, len(vectors), _BATCH):
            part = rotation.apply(vectors[start : start + _BATCH])
            is_finite = np.isfinite(np.einsum("ij,ij->i", part, part))
            codes.add(np.where(is_finite[:, None], part, np.float32(0)))  # FAISS ends the process over any other
            wrong = _wrong(part - middle, codes.reconstruct_n(start, len(part)) - middle, share)
            found.append(np.flatnonzero(~(wrong <= most)) + start)
            advance(len(part))
        strays = np.concatenate(found)
        if len(strays) > _MOST_STRAYS * len(vectors):
            return None
        from_middle = middle.reshape(codes.pq.M, 1, codes.pq.dsub)
        points = faiss.vector_to_array(codes.pq.centroids).reshape(codes.pq.M, -1, codes.pq.dsub)
        moved = from_middle + (points - from_middle) / share
        faiss.copy_array_to_vector(np.ascontiguousarray(moved, np.float32).ravel(), codes.pq.centroids)
        return cls(codes, rotation, strays)

    def packed(self, positions: Positions) -> PackedCodes:
        """A copy of the codes of these positions, ascending, for a fast scan."""
        import faiss

        size = self._index.code_size
        is_stray = np.isin(positions, self._strays)
        coded, strays = (positions[~is_stray], positions[is_stray]) if is_stray.any() else (positions, positions[:0])
        every = faiss.rev_swig_ptr(self._index.codes.data(), self.count * size).reshape(self.count, size)
        some = faiss.IndexPQ(self._index.d, self._index.pq.M, _BITS, self._index.metric_type)
        some.pq, some.is_trained, some.ntotal = self._index.pq, True, len(coded)
        faiss.copy_array_to_vector(every[coded].ravel(), some.codes)
        packed = faiss.IndexPQFastScan(some)
        points = some.pq.centroids.size() * 4  # every copy has its own
        return PackedCodes(packed, self._rotation.apply, coded, packed.codes.size() + points, strays)

    def save(self, path: Path, rotation: Path, strays: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(path))
        rotation.write_bytes(self._rotation.blocks.tobytes())
        strays.write_bytes(np.asarray(self._strays, np.int64).tobytes())

    @classmethod
    def load(cls, path: Path, rotation: Path, strays: Path) -> ProductCodes:
        """The codes in a file, mapped: what no filter has been packed of is not read."""
        import faiss

        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        blocks = np.fromfile(rotation, np.float32)
        size = len(blocks) // index.d
        return cls(index, Rotation(blocks.reshape(-1, size, size)), np.fromfile(strays, np.int64))


def _components(dimensions: int) -> int:
    """How many are coded together."""
    found = 2 if dimensions <= _PAIRED else 4
    while dimensions > found * _MOST_CODES:
        found *= 2
    return found


def _wrong(away: Vector, coded: Vector, share: float) -> Vector:
    """How wrong the code of each vector is, in its distances from the middle; both as they are away from it. Shape (n,)."""
    error = away - coded / share
    length = np.einsum("ij,ij->i", away, away)
    found = np.sqrt(np.einsum("ij,ij->i", error, error) / length)
    return np.where(length > 0, found, 0)
