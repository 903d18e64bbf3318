"""A batch with one bad item: who is named, and what of the others is stored.

Two kinds, each with one meaning on every store. A vector that is none is the caller's mistake: it raises, and nothing of
the batch is written. What the store itself cannot hold is that item's alone: it stands in `failed`, the others are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from shelflist.core.errors import DimensionMismatch, InvalidVector
from shelflist.core.fields import Fields
from shelflist.core.types import Vector
from shelflist.stores.protocol import Store
from shelflist.testing.points import exact_form, make_point, make_points, point_id, random_vectors
from shelflist.testing.store_base import NewGeneration, StoreBase

FIELDS = Fields({"title": str, "tags": "list[str]", "year": int})


def _with(value: float) -> Callable[[Vector], Vector]:
    def changed(vector: Vector) -> Vector:
        vector = vector.copy()
        vector[3] = value
        return vector

    return changed


BAD_VECTORS: Mapping[str, tuple[Callable[[Vector], Vector], type[InvalidVector]]] = {
    "a dimension too few": (lambda vector: vector[:-1], DimensionMismatch),
    "a dimension too many": (lambda vector: np.append(vector, vector[:1]), DimensionMismatch),
    "two rows": (lambda vector: np.stack([vector, vector]), DimensionMismatch),
    "NaN": (_with(np.nan), InvalidVector),
    "infinity": (_with(np.inf), InvalidVector),
    "all zeros": (lambda vector: vector * 0, InvalidVector),
}
LARGE_ITEMS: Mapping[str, Mapping[str, Any]] = {
    "text": {"content": "shelf " + "word " * 400_000},
    "field": {"metadata": {"title": "é" * 100_000, "year": 1}},
    "list": {"metadata": {"tags": [str(number) for number in range(5_000)], "year": 1}},
    "member": {"metadata": {"tags": ["short", "é" * 100_000], "year": 1}},
    "document_id": {"document_id": "ä/" * 50_000},
}
"""Far beyond the limit of each store that has one."""


class BatchTests(StoreBase):
    @pytest.mark.parametrize("kind", BAD_VECTORS)
    def test_a_bad_vector_is_named_and_nothing_of_its_batch_is_written(
        self, store: Store, generation: NewGeneration, kind: str
    ) -> None:
        metrics = store.capabilities.metrics
        if kind == "all zeros" and "cosine" not in metrics:
            return  # on the other metrics a vector like any other
        spec = generation(metric="cosine") if "cosine" in metrics else generation()
        self.write(store, spec, make_points("before", 2, seed=1))
        vectors = random_vectors(5, seed=2)
        spoil, error = BAD_VECTORS[kind]
        batch = [make_point(f"p{i}", spoil(row) if i == 3 else row) for i, row in enumerate(vectors)]
        with pytest.raises(error, match=r"p3\.md"):
            store.upsert(spec, batch)
        store.flush(spec)
        self.answers(store, spec, ["before0", "before1"])
        assert store.get(spec, [point.point_id for point in batch]) == []
        batch[3] = make_point("p3", vectors[3])
        self.write(store, spec, batch)
        self.answers(store, spec, ["before0", "before1", *(f"p{i}" for i in range(5))])

    @pytest.mark.parametrize("large", LARGE_ITEMS)
    def test_an_item_too_large_for_the_store_is_named_and_the_others_are_stored(
        self, store: Store, generation: NewGeneration, large: str
    ) -> None:
        """A store without a limit holds it whole. No store may say that it has what it has not, nor cut it in silence."""
        spec = generation(fields=FIELDS)
        vectors = random_vectors(6, seed=3)
        others = [make_point(f"p{i}", row, metadata={"year": i}, fields=FIELDS) for i, row in enumerate(vectors[:5])]
        big = make_point("big", vectors[5], fields=FIELDS, **LARGE_ITEMS[large])
        for _ in range(2):  # what is sent again after a failure is answered the same
            result = store.upsert(spec, [*others[:3], big, *others[3:]])
            assert sorted([*result.stored, *result.failed]) == sorted(p.point_id for p in [*others, big])
            assert set(result.failed) <= {big.point_id}, f"others failed with it: {dict(result.failed)}"
            assert all(reason.strip() for reason in result.failed.values()), "it failed without a reason"
            store.flush(spec)
            held = [] if result.failed else ["big"]
            self.answers(store, spec, [*(f"p{i}" for i in range(5)), *held])
            found = store.get(spec, [big.point_id])
            assert [exact_form(point, store, spec) for point in found] == [exact_form(big, store, spec) for _ in held]
        assert dict(store.scan(spec)) == {point_id(f"p{i}"): "indexed" for i in range(5)} | dict.fromkeys(
            map(point_id, held), "indexed"
        )
