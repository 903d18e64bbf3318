"""An embedded index of a few hundred points that has codes and a graph all the same: thresholds are low."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from shelflist.core.fields import Fields
from shelflist.core.filters import F, prepare
from shelflist.core.types import Hnsw, Point, SearchParams, Vector
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import point_id

DIMENSIONS = 96
FIELDS = Fields({"group": int, "tags": list[str]})
INDEX = Hnsw(indexing_threshold=100, full_scan_threshold=0)
SPEC = GenerationSpec("sl_test_1", DIMENSIONS, index=INDEX, fields=FIELDS, target_recall=0.9)
TRUTH = SearchParams(exact=True)


def vector_of(number: int, dimensions: int = DIMENSIONS) -> Vector:
    # In clusters: among vectors of no structure at all nothing is near, and no index finds it.
    centre = np.random.default_rng(number % 20).normal(size=dimensions)
    return (centre + 0.5 * np.random.default_rng(1_000 + number).normal(size=dimensions)).astype(np.float32)


def point(number: int, *, vector: Vector | None = None) -> Point:
    one = vector_of(number) if vector is None else vector
    return Point(
        point_id(str(number)),
        point_id(f"chunk {number}"),
        f"d{number}",
        None,
        f"text {number}",
        {"group": number % 3, "tags": [f"t{number % 7}"]},
        one,
    )


def written(store: EmbeddedStore, numbers: range, spec: GenerationSpec = SPEC) -> None:
    store.upsert(spec, [point(number) for number in numbers])


def ids(
    store: EmbeddedStore, query: Vector, *, exact: bool = False, group: int | None = None, limit: int = 10
) -> list[bytes]:
    scope = Scope() if group is None else Scope(filter=prepare(F("group") == group, FIELDS))
    params = TRUTH if exact else SearchParams()
    found = store.search(SPEC, query, limit=limit, scope=scope, params=params)
    assert found.exact or not exact
    return [item.point_id for item in found.items]


def plan(store: EmbeddedStore, group: int | None = None) -> str:
    scope = Scope() if group is None else Scope(filter=prepare(F("group") == group, FIELDS))
    return store.search(SPEC, vector_of(1), limit=10, scope=scope, params=SearchParams()).plan


def wait_for_plan(store: EmbeddedStore, start: str) -> None:
    deadline = time.monotonic() + 20
    while not plan(store, group=1).startswith(start):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_recall(store: EmbeddedStore, least: float = 0.9) -> None:
    for group in (None, 1):
        found = []
        for number in range(0, 400, 10):
            query = vector_of(number) + np.float32(0.2)
            truth = ids(store, query, exact=True, group=group)
            found.append(len(set(ids(store, query, group=group)) & set(truth)) / len(truth))
        assert np.mean(found) >= least, group


def snapshot_of(place: Path) -> Path:
    (found,) = [path for path in (place / "vectors").iterdir() if path.is_dir()]
    return found
