"""What every part of the store suite stands on: the fixtures to override, and the questions put to a store."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from shelflist.core.fields import Fields
from shelflist.core.filters import prepare
from shelflist.core.filters.nodes import Filter
from shelflist.core.types import Candidates, IndexSpec, Metric, Point, SearchParams, Vector
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing.points import COMMON_WORD, DIMENSIONS, point_id, random_vectors

Reopen = Callable[[], Store]
NewGeneration = Callable[..., GenerationSpec]

QUERY: Vector = random_vectors(1, seed=2024)[0]


class StoreBase:
    """Override `store`, and `reopen` if the store is durable."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        """A fresh, empty store. Close it at the end; closing twice must do no harm."""
        raise NotImplementedError(
            f"{type(self).__name__} must override the fixture `store` to yield an empty store of its kind."
        )

    @pytest.fixture
    def reopen(self) -> Reopen | None:
        """A callable that opens the place of `store` once more, or None for a store that is not durable."""
        return None

    @pytest.fixture
    def generation(self, store: Store) -> Iterator[NewGeneration]:
        """Makes generations (the arguments are those of `new_spec`) and drops them at the end."""
        made: list[str] = []

        def make(**options: Any) -> GenerationSpec:
            spec = self.new_spec(store, **options)
            store.create(spec)
            made.append(spec.name)
            return spec

        yield make
        for name in made:
            store.drop(name)

    def new_spec(
        self,
        store: Store,
        *,
        fields: Fields | None = None,
        metric: Metric | None = None,
        index: IndexSpec | None = None,
        dimensions: int = DIMENSIONS,
        tenanted: bool = False,
    ) -> GenerationSpec:
        """A spec under a name that no run has used. The metric defaults to one that the store claims."""
        return GenerationSpec(
            name=f"sl_{uuid.uuid4().hex[:12]}_1",
            dimensions=dimensions,
            metric=metric or any_metric(store),
            index=index,
            fields=fields if fields is not None else Fields(),
            tenanted=tenanted,
        )

    def write(self, store: Store, spec: GenerationSpec, points: Sequence[Point]) -> None:
        """Upsert in batches that the store takes; every id must be acknowledged; searchable on return."""
        for start in range(0, len(points), store.capabilities.max_batch):
            batch = points[start : start + store.capabilities.max_batch]
            result = store.upsert(spec, batch)
            assert not result.failed, f"upsert failed for {dict(result.failed)}"
            assert sorted(result.stored) == sorted(point.point_id for point in batch)
        store.flush(spec)

    def scope(self, spec: GenerationSpec, where: Filter | None = None, tenant: str | None = None) -> Scope:
        return Scope(filter=None if where is None else prepare(where, spec.fields), tenant=tenant)

    def dense(
        self,
        store: Store,
        spec: GenerationSpec,
        limit: int,
        scope: Scope | None = None,
        vector: Vector = QUERY,
        params: SearchParams | None = None,
    ) -> Candidates:
        """The dense leg; whatever comes back must be well formed."""
        found = store.search(spec, vector, limit=limit, scope=scope or Scope(), params=params or SearchParams())
        well_formed(found, limit)
        values = [item.value for item in found.items]
        assert values == sorted(values), f"distances are not in order, nearest first: {values}"
        return found

    def keyword(
        self, store: Store, spec: GenerationSpec, text: str, limit: int, scope: Scope | None = None
    ) -> Candidates:
        """The keyword leg; whatever comes back must be well formed."""
        found = store.keyword_search(spec, text, limit=limit, scope=scope or Scope())
        well_formed(found, limit)
        values = [item.value for item in found.items]
        assert values == sorted(values, reverse=True), f"scores are not in order, best first: {values}"
        return found

    def differences(self, store: Store, spec: GenerationSpec, scope: Scope, expected: Collection[bytes]) -> list[str]:
        """How the answers of both legs and `count` differ from the set `expected`; [] if not at all."""
        wanted, wrong = set(expected), []
        limit = len(wanted) + 3
        legs = {"search": self.dense(store, spec, limit, scope)}
        if store.capabilities.keyword:
            legs["keyword_search"] = self.keyword(store, spec, COMMON_WORD, limit, scope)
        for leg, found in legs.items():
            got = set(ids(found))
            if got != wanted:
                wrong.append(f"{leg}: {len(wanted - got)} missing, {len(got - wanted)} too many of {len(wanted)}")
            elif not found.exhausted:
                wrong.append(f"{leg}: all {len(wanted)} came for limit {limit}, but exhausted is false")
        counted = store.count(spec, scope)
        if counted != len(wanted):
            wrong.append(f"count: {counted}, not {len(wanted)}")
        return wrong

    def answers(self, store: Store, spec: GenerationSpec, names: Iterable[str], scope: Scope | None = None) -> None:
        """Both legs and `count` must answer exactly the points of these names."""
        wrong = self.differences(store, spec, scope or Scope(), {point_id(name) for name in names})
        assert not wrong, "; ".join(wrong)


def any_metric(store: Store) -> Metric:
    """One metric that the store claims."""
    known: tuple[Metric, ...] = ("cosine", "l2", "dot")
    return next(metric for metric in known if metric in store.capabilities.metrics)


def ids(found: Candidates) -> list[bytes]:
    return [item.point_id for item in found.items]


def well_formed(found: Candidates, limit: int) -> None:
    """What holds for every answer, whatever was asked."""
    answer = ids(found)
    assert len(answer) <= limit, f"{len(answer)} candidates for limit {limit}"
    assert len(set(answer)) == len(answer), "one point came twice"
    assert all(type(one) is bytes and len(one) == 16 for one in answer)
    assert all(np.isfinite(item.value) for item in found.items)
    assert found.plan.strip(), "the plan is empty"
