"""The graph (HNSW): the quickest way to the nearest of all vectors, or of nearly all.

FAISS can neither delete from a graph nor add to one that is mapped from its file (that ends the process), so a graph is
never changed once built: what is deleted is passed over, what is newer is looked at apart.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shelflist.core.types import Metric, Vector
from shelflist.engine.codes import add_in_parts
from shelflist.engine.exact import Positions

_BATCH = 4_096
_TRAINING_ROWS = 65_536
"""Among which the least and greatest value of each component is looked for; what lies beyond is cut off."""
_RANGED_ROWS = 4_096
"""Of those, by which it is seen where nearly all are."""


class Graph:
    """Over the positions 0 … count - 1, with vectors of 8 bits a component: whole vectors decide in the end."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self._params: dict[int, Any] = {}
        self.count: int = index.ntotal

    @classmethod
    def build(
        cls,
        vectors: Vector,
        metric: Metric,
        advance: Callable[[int], None] = lambda vectors: None,
        *,
        m: int,
        ef_construction: int,
    ) -> Graph:
        """A graph of prepared vectors (n, d); `vectors` may be a mapped file; `advance` hears how many were added, and may raise."""
        import faiss

        count, dimensions = vectors.shape
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWSQ(dimensions, faiss.ScalarQuantizer.QT_8bit, m, kind)
        index.hnsw.efConstruction = ef_construction
        index.train(_without_outliers(vectors[:: max(1, count // _TRAINING_ROWS)]))
        add_in_parts(index, vectors, _BATCH, advance)
        return cls(index)

    def nearest(self, query: Vector, count: int, ef_search: int) -> Positions:
        """Positions of about the `count` nearest, nearest first."""
        ef_search = max(ef_search, count)
        params = self._params.get(ef_search)
        if params is None:
            import faiss

            params = self._params[ef_search] = faiss.SearchParametersHNSW(efSearch=ef_search)
        _, found = self._index.search(query[None], min(count, self.count), params=params)
        return np.asarray(found[0][found[0] >= 0], dtype=np.int64)

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(path))

    @classmethod
    def load(cls, path: Path) -> Graph:
        """The graph in a file, mapped: what searches do not touch is not read."""
        import faiss

        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))


def _without_outliers(sample: Vector) -> Vector:
    """Each component cut off far beyond where nearly all of it is: 8 bits that reach as far as one vector a thousand times as
    long as the others tell these no more apart."""
    some = sample[:: max(1, len(sample) // _RANGED_ROWS)]
    low, high = np.quantile(some, (0.01, 0.99), axis=0).astype(np.float32)
    width = np.where(high > low, high - low, np.float32(np.inf))  # of what is nearly always the same nothing is cut off
    return np.ascontiguousarray(np.clip(sample, low - width, high + width), dtype=np.float32)
