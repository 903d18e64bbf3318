"""Cells (IVF): vectors by the nearest of `nlist` centres, each as a code; a search looks into the cells around the query.

Its work is a share of the rows where a scan of codes takes all, and unlike a graph it is quick to build and as small as
its codes. The codes are of what a vector differs from its centre; whole vectors decide. FAISS's implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shelflist.core.types import Metric, Vector
from shelflist.engine.codes import QUERY_BITS, Ranked, add_in_parts, ranked, rotation_of

_BATCH = 16_384
_TRAINING_ROWS_A_CELL = 64
LEAST_ROWS_A_CELL = 39
"""Fewer training rows than this a centre, and FAISS warns that they are too few to tell where it should be."""


def usual_cells(count: int) -> int:
    """How many cells `count` rows get if nobody says: 4 √n, the rule of FAISS's guidelines for choosing an index."""
    return max(1, round(4 * math.sqrt(count)))


class Cells:
    """Over the positions 0 … count - 1. Never changed once built."""

    def __init__(self, index: Any) -> None:
        import faiss

        self._index = index
        self.count: int = index.ntotal
        self.cells: int = faiss.downcast_index(index.index).nlist

    @classmethod
    def build(
        cls,
        vectors: Vector,
        metric: Metric,
        advance: Callable[[int], None] = lambda vectors: None,
        *,
        nlist: int | None,
        bits: int,
    ) -> Cells:
        """Cells of prepared vectors (n, d), `nlist` or fewer of them; `vectors` may be a mapped file; `advance` hears how
        many were added, and may raise."""
        import faiss

        count, dimensions = vectors.shape
        cells = max(1, min(nlist or usual_cells(count), count // LEAST_ROWS_A_CELL))
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        rotation = rotation_of(dimensions)
        centres = faiss.IndexFlat(rotation.d_out, kind)
        inner = faiss.IndexIVFRaBitQ(centres, rotation.d_out, cells, kind, True, bits)
        inner.qb = QUERY_BITS
        inner.cp.max_points_per_centroid = _TRAINING_ROWS_A_CELL
        index = faiss.IndexPreTransform(rotation, inner)
        index.train(np.ascontiguousarray(vectors[:: max(1, count // (_TRAINING_ROWS_A_CELL * cells))]))
        add_in_parts(index, vectors, _BATCH, advance)
        return cls(index)

    def nearest(self, query: Vector, count: int, nprobe: int) -> Ranked:
        """Up to `count` nearest by code in the `nprobe` cells around the query."""
        import faiss

        inner = faiss.IVFRaBitQSearchParameters(nprobe=min(nprobe, self.cells), qb=QUERY_BITS)
        return ranked(self._index, query, count, faiss.SearchParametersPreTransform(index_params=inner))

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path) -> Cells:
        import faiss

        return cls(faiss.read_index(str(path)))
