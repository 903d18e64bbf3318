"""Exact nearest neighbours of one query: what `exact=True` answers.

Never by BLAS: it has a matrix times a vector done by several threads, which on a busy machine wait for each other ten times
as long as the work takes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shelflist.core.types import Metric, Vector

Positions = npt.NDArray[np.int64]
_SORTED = 200
"""Distances up to which it is quicker to sort them all."""
_BY_NUMPY = 2_000
"""Rows up to which NumPy is quick enough, so that a small collection does not load FAISS."""


def prepared(vectors: Vector, metric: Metric) -> Vector:
    """Vectors as `distances` wants them: unit length for cosine, unchanged otherwise. Shape (n, d) or (d,)."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if metric != "cosine":
        return vectors
    if vectors.ndim == 1:
        square = float(np.vdot(vectors, vectors))  # which does not warn where it overflows
        if 1e-20 < square < 1e20:
            return np.asarray(vectors / np.float32(square**0.5), dtype=np.float32)
    squares = np.einsum("...i,...i->...", vectors, vectors)
    if np.all((squares > 1e-20) & (squares < 1e20)):
        return np.asarray(vectors / np.sqrt(squares)[..., None], dtype=np.float32)
    # Scaled by the largest component first: the squares of very small or large numbers leave float32.
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = vectors / np.where(largest == 0, 1, largest)
    length = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return np.asarray(scaled / np.where(length == 0, 1, length), dtype=np.float32)


def distances(matrix: Vector, query: Vector, metric: Metric) -> Vector:
    """Distances of prepared rows (n, d) to a prepared query (d,): cosine 1 - cos, dot -dot, l2 Euclidean. Shape (n,)."""
    if metric == "l2":
        return np.asarray(
            np.sqrt(_by_faiss(matrix, query, "fvec_L2sqr_ny") if _is_large(matrix) else _squares(matrix, query))
        )
    products = _by_faiss(matrix, query, "fvec_inner_products_ny") if _is_large(matrix) else _products(matrix, query)
    return np.asarray(1 - products if metric == "cosine" else -products, dtype=np.float32)


def raw(distance: float, metric: Metric) -> float:
    """A distance as an estimate by code is told: the negative product, for l2 the square."""
    if metric == "l2":
        return distance * distance
    return distance - 1 if metric == "cosine" else distance


def _is_large(matrix: Vector) -> bool:
    return len(matrix) > _BY_NUMPY


def _products(matrix: Vector, query: Vector) -> Vector:
    return np.asarray(np.einsum("ij,j->i", matrix, query), dtype=np.float32)


def _squares(matrix: Vector, query: Vector) -> Vector:
    with np.errstate(over="ignore"):  # numbers near the end of float32: as far as can be
        apart = matrix - query
    return np.asarray(np.einsum("ij,ij->i", apart, apart), dtype=np.float32)


def _by_faiss(matrix: Vector, query: Vector, function: str) -> Vector:
    import faiss

    matrix, query = np.ascontiguousarray(matrix, np.float32), np.ascontiguousarray(query, np.float32)
    found = np.empty(len(matrix), np.float32)
    pointers = [faiss.swig_ptr(one) for one in (found, query, matrix)]
    getattr(faiss, function)(*pointers, matrix.shape[1], len(matrix))
    return found


def nearest(found: Vector, limit: int) -> Positions:
    """Positions of the `limit` smallest distances, nearest first, ties by position."""
    if len(found) <= _SORTED:
        return np.asarray(np.argsort(found, kind="stable")[:limit], dtype=np.int64)  # NaN stands last
    if np.isnan(found).any():  # products of numbers near the end of float32: as far as can be
        found = np.where(np.isnan(found), np.float32(np.inf), found)
    if limit < len(found):
        bound = np.partition(found, limit - 1)[limit - 1]
        chosen = np.flatnonzero(found <= bound)
    else:
        chosen = np.arange(len(found))
    order = np.argsort(found[chosen], kind="stable")[:limit]
    return np.asarray(chosen[order], dtype=np.int64)


def score(distance: float, metric: Metric) -> float:
    """A distance as a score, higher is better: cosine cos, dot the product, l2 1 / (1 + distance)."""
    if metric == "cosine":
        return 1 - distance
    return -distance if metric == "dot" else 1 / (1 + distance)
