"""Vectors that chunks bring with them: whether a collection can take them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shelflist.core.errors import DimensionMismatch, EmbedderMismatch, InvalidVector, ShelflistError
from shelflist.core.types import Chunk, Vector
from shelflist.core.vectors import float32
from shelflist.ledger.catalog import CollectionRecord

_ROWS_PER_CHECK = 1_000


def given_vectors(collection: CollectionRecord, chunks: Sequence[Chunk]) -> list[Vector | ShelflistError | None]:
    """What each chunk brings as float32 (dimensions,), or why it cannot be used; None where the embedder is to make one."""
    # What is no chunk brings nothing: it is refused for what it is.
    brought = [chunk.embedding if isinstance(chunk, Chunk) else None for chunk in chunks]
    if collection.embedder is not None:
        return [None if one is None else _not_ours(collection) for one in brought]
    found: list[Vector | ShelflistError | None] = []
    for start in range(0, len(brought), _ROWS_PER_CHECK):
        found += _checked(collection, brought[start : start + _ROWS_PER_CHECK])
    return found


def usable_vector(
    embedding: object, dimensions: int, fingerprint: str, *, cosine: bool, what: str = "An embedding"
) -> Vector:
    """float32 (dimensions,), or DimensionMismatch / InvalidVector saying what is wrong. `what`: what it is to its giver."""
    try:
        vector = float32(embedding)
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error).rstrip(".")
        raise InvalidVector(
            f"{what} is not a row of numbers that float32 holds: {reason}. Check the embedder that made it."
        ) from None
    if vector.ndim != 1 or len(vector) != dimensions:
        raise DimensionMismatch(
            f"{what} has shape {vector.shape}; the collection's space {fingerprint!r} has {dimensions} dimensions. Make "
            "it with that model, or open a collection of the model that made it."
        )
    if 0 < np.vdot(vector, vector) < np.inf:  # one pass that warns of nothing, and true of all that is well
        return vector
    if not np.isfinite(vector).all():
        raise InvalidVector(f"{what} holds NaN or infinity. Check the embedder that made it.")
    if cosine and not vector.any():
        raise InvalidVector(f"{what} is all zeros, which has no direction. Check the embedder that made it.")
    return vector


def _checked(collection: CollectionRecord, brought: Sequence[object]) -> Sequence[Vector | ShelflistError | None]:
    """All in one step, outside the interpreter's lock; one by one only if there is something to name."""
    try:
        rows = float32(brought)
    except (TypeError, ValueError, OverflowError):
        rows = np.empty((0, 0), np.float32)
    sound = rows.shape == (len(brought), collection.dimensions) and np.isfinite(rows).all()
    if sound and (collection.metric != "cosine" or rows.any(axis=1).all()):
        return list(rows)
    return [_one(collection, embedding) for embedding in brought]


def _one(collection: CollectionRecord, embedding: object) -> Vector | ShelflistError:
    if embedding is None:
        return InvalidVector(
            f"The collection {collection.name!r} has no embedder, so every chunk needs an embedding of "
            f"{collection.dimensions} dimensions ({collection.fingerprint})."
        )
    try:
        return usable_vector(
            embedding, collection.dimensions, collection.fingerprint, cosine=collection.metric == "cosine"
        )
    except ShelflistError as error:
        return error


def _not_ours(collection: CollectionRecord) -> EmbedderMismatch:
    return EmbedderMismatch(
        f"The collection {collection.name!r} embeds its texts itself ({collection.fingerprint}); a chunk brings a "
        "vector of unknown origin. Leave its embedding out (--column embedding=), or make a collection of given vectors: "
        "embedder=None, fingerprint=, dimensions= (shelflist init --embedder none --fingerprint NAME --dimensions N)."
    )
