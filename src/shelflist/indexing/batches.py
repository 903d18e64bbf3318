"""Points into a store, as many at a time as it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from shelflist.core.types import Point, UpsertResult
from shelflist.stores.protocol import GenerationSpec, Store


def upsert_all(store: Store, spec: GenerationSpec, points: Iterable[Point]) -> Iterator[UpsertResult]:
    """One result a batch, so that the caller can acknowledge what is stored before the next batch goes."""
    waiting = iter(points)
    while batch := list(islice(waiting, store.capabilities.max_batch)):
        yield store.upsert(spec, batch)
