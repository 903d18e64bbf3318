"""Points to write and the plain NumPy oracle of distances."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from shelflist.core.fields import Fields
from shelflist.core.types import IndexStatus, Metric, Point, Vector
from shelflist.stores.protocol import GenerationSpec, Store

DIMENSIONS = 16
COMMON_WORD = "shelf"
"""Stands in the text of every point, so that the keyword leg can be asked for all of them."""

_NAMESPACE = uuid.UUID("4b5e2f0c-6a53-4f0e-9b7e-0d5d6c0f7a11")


def point_id(name: str) -> bytes:
    """The 16 bytes that stand for a name in these tests."""
    return uuid.uuid5(_NAMESPACE, name).bytes


def names_of(ids: Iterable[bytes], names: Iterable[str]) -> list[str]:
    """The names behind ids, sorted; an id that belongs to none of `names` is shown as hex."""
    known = {point_id(name): name for name in names}
    return sorted(known.get(one, one.hex()) for one in ids)


def random_vectors(count: int, seed: int, dimensions: int = DIMENSIONS) -> Vector:
    """Float32 (count, dimensions), not normalised: lengths differ, so that the three metrics order differently."""
    generator = np.random.default_rng(seed)
    directions = generator.normal(size=(count, dimensions))
    lengths = generator.uniform(0.2, 4.0, size=(count, 1))
    return (directions * lengths).astype(np.float32)


def make_point(
    name: str,
    vector: Vector,
    *,
    content: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    fields: Fields | None = None,
    tenant: str | None = None,
    document_id: str | None = None,
) -> Point:
    """A point as the indexing layer would write it: metadata in stored form."""
    return Point(
        point_id=point_id(name),
        chunk_id=point_id(f"chunk of {name}"),
        document_id=document_id if document_id is not None else f"{name}.md",
        tenant_id=tenant,
        content=content if content is not None else f"{COMMON_WORD} {name}",
        metadata=(fields or Fields()).stored(metadata or {}),
        vector=np.asarray(vector, dtype=np.float32),
    )


def make_points(
    prefix: str, count: int, seed: int, *, metadata: Mapping[str, Any] | None = None, **same: Any
) -> list[Point]:
    """Points `<prefix>0`, `<prefix>1`, … with random vectors."""
    vectors = random_vectors(count, seed)
    return [make_point(f"{prefix}{i}", vectors[i], metadata=metadata, **same) for i in range(count)]


def distances(metric: Metric, query: Vector, vectors: Vector) -> npt.NDArray[np.float64]:
    """Distance of each row to the query in float64: cosine 1 - cos, dot -dot, l2 Euclidean. Lower is nearer."""
    q, v = query.astype(np.float64), vectors.astype(np.float64)
    if metric == "cosine":
        return np.asarray(1.0 - (v @ q) / (np.linalg.norm(v, axis=1) * np.linalg.norm(q)))
    if metric == "dot":
        return np.asarray(-(v @ q))
    return np.asarray(np.linalg.norm(v - q, axis=1))


def exact_form(point: Point, store: Store, spec: GenerationSpec) -> tuple[Any, ...]:
    """Everything of a point that the store claims to hold, such that equal means equal.

    JSON text tells 1, 1.0 and true apart. A store that holds the declared fields only may return more, or less null.
    """
    claims = store.capabilities
    whole = claims.holds == "everything"
    metadata = (
        point.metadata if whole else {k: v for k, v in point.metadata.items() if k in spec.fields and v is not None}
    )
    return (
        point.point_id,
        point.chunk_id,
        point.document_id,
        point.tenant_id,
        point.content if whole else None,
        json.dumps(dict(metadata), sort_keys=True, ensure_ascii=False),
        point.vector.dtype.str,
        point.vector.shape,
        IndexStatus(point.index_status).value,
    )


def same_vector(found: Vector, written: Vector, store: Store, spec: GenerationSpec) -> bool:
    """Bit by bit, or, of a store that normalises under cosine, the same direction with length 1."""
    if store.capabilities.vectors == "exact" or spec.metric != "cosine":
        return found.tobytes() == written.tobytes()
    unit = written.astype(np.float64) / np.linalg.norm(written.astype(np.float64))
    return bool(np.abs(found - unit).max() < 1e-6)
