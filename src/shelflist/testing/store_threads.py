"""Threads: readers beside writers see no error and no half batch."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import Comparison, Operator
from shelflist.core.types import Point
from shelflist.stores.protocol import GenerationSpec, Scope, Store
from shelflist.testing.points import make_point, point_id, random_vectors
from shelflist.testing.store_base import NewGeneration, Reopen, StoreBase

BATCH = 20
BATCHES = 6


class ThreadTests(StoreBase):
    def batch(self, spec: GenerationSpec, writer: int, number: int) -> list[Point]:
        vectors = random_vectors(BATCH, seed=100 * writer + number)
        key = 1000 * writer + number
        return [
            make_point(f"w{key}.{i}", row, metadata={"batch": key}, fields=spec.fields) for i, row in enumerate(vectors)
        ]

    def test_readers_beside_writers(self, store: Store, generation: NewGeneration) -> None:
        """What is visible at once comes as a whole batch; a store that needs a flush may show part of one before it."""
        spec = generation(fields=Fields({"batch": int}))
        writers = 2 if store.capabilities.concurrent_writers else 1
        keys = [1000 * writer + number for writer in range(writers) for number in range(BATCHES)]
        halves: list[str] = []
        done = threading.Event()
        started = threading.Barrier(writers + 2, timeout=60)

        def write(writer: int) -> None:
            started.wait()
            for number in range(BATCHES):
                batch = self.batch(spec, writer, number)
                self.write(store, spec, batch)
                self.write(store, spec, batch[:3])

        def read() -> None:
            started.wait()
            while True:
                last = done.is_set()
                for key in keys:
                    scope = self.scope(spec, Comparison("batch", Operator.EQ, key))
                    seen = {"count": store.count(spec, scope), "search": len(self.dense(store, spec, 99, scope).items)}
                    if store.capabilities.keyword:
                        seen["keyword_search"] = len(self.keyword(store, spec, "shelf", 99, scope).items)
                    halves.extend(f"batch {key}: {leg} {n}" for leg, n in seen.items() if n not in (0, BATCH))
                    store.get(spec, [point_id(f"w{key}.0"), point_id(f"w{key}.{BATCH - 1}")])
                if last:
                    return

        with ThreadPoolExecutor(writers + 2) as threads:
            reading = [threads.submit(read) for _ in range(2)]
            writing = [threads.submit(write, writer) for writer in range(writers)]
            try:
                for work in writing:
                    work.result()
            finally:
                done.set()
            for work in reading:
                work.result()
        if store.capabilities.concurrent_writers and store.capabilities.visibility == "immediate":
            assert not halves, "half a batch was seen: " + ", ".join(halves[:10])
        for key in keys:
            names = [f"w{key}.{i}" for i in range(BATCH)]
            self.answers(store, spec, names, self.scope(spec, Comparison("batch", Operator.EQ, key)))
        assert store.count(spec, Scope()) == len(keys) * BATCH

    def test_readers_beside_deletes_and_repairs(
        self, store: Store, reopen: Reopen | None, generation: NewGeneration
    ) -> None:
        """Whatever goes on around them, points that nobody touches are found by every query, on every handle."""
        spec = generation(fields=Fields({"batch": int}))
        still = self.batch(spec, 0, 0)
        self.write(store, spec, still)
        names = [f"w0.{i}" for i in range(BATCH)]
        done = threading.Event()
        started = threading.Barrier(3, timeout=60)

        def churn() -> None:
            started.wait()
            for number in range(1, BATCHES):
                batch = self.batch(spec, 1, number)
                self.write(store, spec, batch)
                store.set_stale(spec, [point.point_id for point in batch[::2]])
                store.delete(spec, [point.point_id for point in batch[1::2]])
                store.repair(spec)
                store.flush(spec)

        def read(handle: Store) -> None:
            started.wait()
            scope = self.scope(spec, Comparison("batch", Operator.EQ, 0))
            while not done.is_set():
                self.answers(handle, spec, names, scope)

        other = reopen() if reopen is not None else store
        try:
            with ThreadPoolExecutor(3) as threads:
                reading = [threads.submit(read, handle) for handle in (store, other)]
                try:
                    threads.submit(churn).result()
                finally:
                    done.set()
                for work in reading:
                    work.result()
        finally:
            if other is not store:
                other.close()
        self.answers(store, spec, names)

    def test_the_same_points_from_several_threads(self, store: Store, generation: NewGeneration) -> None:
        """A task delivered twice: both writers are acknowledged, the points are there once."""
        spec = generation(fields=Fields({"batch": int}))
        if not store.capabilities.concurrent_writers:
            return
        points = self.batch(spec, 1, 1)
        with ThreadPoolExecutor(3) as threads:
            for work in [threads.submit(self.write, store, spec, points) for _ in range(3)]:
                work.result()
        assert sorted(one for one, _ in store.scan(spec)) == sorted(p.point_id for p in points)
        self.answers(store, spec, [f"w1001.{i}" for i in range(BATCH)])
