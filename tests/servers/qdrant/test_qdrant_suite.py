"""The store suite on Qdrant: on a real server if one is named, else on the client's re-implementation."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from qdrant_engine import NewStore, new_stores

from shelflist.core.fields import Fields
from shelflist.core.filters import prepare
from shelflist.core.filters.nodes import Comparison, Operator
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing import StoreSuite
from shelflist.testing.points import DIMENSIONS, make_point, random_vectors
from shelflist.testing.store_base import Reopen

# What the re-implementation says of itself: search parameters and payload indexes change nothing there.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]


@pytest.fixture(scope="module")
def new_store() -> NewStore:
    return new_stores()


class TestQdrant(StoreSuite):
    @pytest.fixture
    def store(self, new_store: NewStore) -> Iterator[Store]:
        store = new_store()
        yield store
        store.close()

    @pytest.fixture
    def reopen(self, new_store: NewStore) -> Reopen | None:
        return new_store


_TAILS = ["", "a", "b", "\x00", "z", "é", "\uffee", "😀"]
_WORDS = [head + middle + tail for head in ("", "a" * 4, "a" * 5, "a" * 9, "a" * 10, "ab" * 40)
          for middle in ("", "\x00", "\uffee") for tail in _TAILS]  # fmt: skip
_STEPS = [
    0.1 + 0.2,
    0.3,
    5e-324,
    0.0,
    -5e-324,
    -0.1,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    1.5777777777770001,
]
_FLOATS = [one for value in _STEPS for one in (value, np.nextafter(value, 0.0), np.nextafter(value, 1.0))]
_TIMES = [datetime(1, 1, 2, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
          datetime(9999, 12, 30, tzinfo=UTC)]  # fmt: skip
_INTS = [sign * near for near in (*range(3), *range(2**49 - 2, 2**49 + 3), *range(2**51 + 2**50, 2**51 + 2**50 + 18),
         *range(2**53 - 20, 2**53 + 1)) for sign in (1, -1)]  # fmt: skip
_MOMENTS = [time + timedelta(microseconds=step) for time in _TIMES for step in (-1, 0, 1, 2**32, -(2**32))]


@pytest.mark.parametrize(
    ("kind", "values"),
    [("str", _WORDS), ("float", [float(x) for x in _FLOATS]), ("datetime", _MOMENTS), ("int", _INTS)],
)
def test_order_is_exact_where_parts_of_a_value_meet(new_store: NewStore, kind: str, values: list[Any]) -> None:
    """Texts that are equal for some whole parts, floats and ints beside each other, moments that no float64 can count."""
    fields = Fields({"größe": kind})
    spec = GenerationSpec(f"sl_{uuid.uuid4().hex[:12]}_1", DIMENSIONS, fields=fields)
    store = new_store()
    store.create(spec)
    vectors = random_vectors(len(values), seed=5)
    points = [
        make_point(f"p{i}", vectors[i], metadata={"größe": value}, fields=fields) for i, value in enumerate(values)
    ]
    store.upsert(spec, [*points, make_point("without", vectors[0])])
    store.flush(spec)
    operators = [Operator.LT, Operator.LE, Operator.GT, Operator.GE, Operator.EQ]
    operators += [Operator.STARTS_WITH] if kind == "str" else []
    few, ordered = values[:: 1 if kind != "str" else 3], sorted(values)
    asked = [Comparison("größe", operator, value) for operator in operators for value in few]
    asked += [Comparison("größe", Operator.BETWEEN, pair) for pair in zip(ordered[::3], ordered[5::3], strict=False)]
    wrong = []
    for one in asked:
        where = prepare(one, fields)
        expected = sum(where.matches(point.metadata) for point in points)
        if store.count(spec, Scope(filter=where)) != expected:
            wrong.append(repr(one))
    assert {point.metadata["größe"] for point in store.get(spec, [p.point_id for p in points])} == {
        point.metadata["größe"] for point in points
    }
    store.drop(spec.name)
    store.close()
    assert not wrong, wrong
