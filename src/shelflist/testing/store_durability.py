"""What is acknowledged survives closing, and another handle on the same place sees it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import Comparison, Operator
from shelflist.stores.protocol import GenerationSpec, Store
from shelflist.testing.points import distances, exact_form, make_point, make_points, point_id, random_vectors
from shelflist.testing.store_base import Reopen, StoreBase, ids


class DurabilityTests(StoreBase):
    def test_the_claim_and_the_fixture_agree(self, store: Store, reopen: Reopen | None) -> None:
        assert store.capabilities.durable == (reopen is not None), (
            "a store that claims durable=True must override the fixture `reopen`, and no other may"
        )

    def lived_in(self, store: Store) -> GenerationSpec:
        """Ten points, of which p0 is deleted and p1 stale, and a marker."""
        spec = self.new_spec(store, fields=Fields({"year": int, "tags": "list[str]"}))
        store.create(spec)
        vectors = random_vectors(10, seed=1)
        self.write(
            store,
            spec,
            [
                make_point(
                    f"p{i}",
                    row,
                    metadata={"year": i, "tags": ["api"] * (i % 2), "x": [None, {"y": i}]},
                    fields=spec.fields,
                )
                for i, row in enumerate(vectors)
            ],
        )
        store.delete(spec, [point_id("p0")])
        store.set_stale(spec, [point_id("p1")])
        store.flush(spec)
        store.write_marker(spec.name, "the marker of this test")
        return spec

    def test_everything_survives_closing(self, store: Store, reopen: Reopen | None) -> None:
        if reopen is None:
            return
        spec = self.lived_in(store)
        everything = [point_id(f"p{i}") for i in range(10)]
        before = sorted(exact_form(p, store, spec) for p in store.get(spec, everything))
        nearest = ids(self.dense(store, spec, 5))
        store.close()
        store.close()
        again = reopen()
        try:
            assert again.read_marker(spec.name) == "the marker of this test"
            again.create(spec)
            assert (
                sorted(exact_form(p, again, spec) for p in again.get(spec, everything)) == before and len(before) == 9
            )
            assert dict(again.scan(spec)) == {point_id("p1"): "stale"} | {
                point_id(f"p{i}"): "indexed" for i in range(2, 10)
            }
            self.answers(again, spec, [f"p{i}" for i in range(2, 10)])
            self.answers(again, spec, ["p8", "p9"], self.scope(spec, Comparison("year", Operator.GE, 8)))
            self.answers(
                again, spec, ["p3", "p5", "p7", "p9"], self.scope(spec, Comparison("tags", Operator.CONTAINS, "api"))
            )
            assert ids(self.dense(again, spec, 5)) == nearest
            self.write(again, spec, make_points("after", 2, seed=2))
            again.delete(spec, [point_id("p2")])
            again.flush(spec)
            self.answers(again, spec, [*(f"p{i}" for i in range(3, 10)), "after0", "after1"])
            again.drop(spec.name)
        finally:
            again.close()

    def test_a_second_handle_sees_what_the_first_writes(self, store: Store, reopen: Reopen | None) -> None:
        if reopen is None:
            return
        spec = self.lived_in(store)
        other = reopen()
        try:
            self.answers(other, spec, [f"p{i}" for i in range(2, 10)])
            self.write(store, spec, make_points("by first", 2, seed=2))
            store.set_stale(spec, [point_id("p2")])
            store.delete(spec, [point_id("p3")])
            store.flush(spec)
            expected = [*(f"p{i}" for i in range(4, 10)), "by first0", "by first1"]
            self.answers(other, spec, expected)
            self.write(other, spec, make_points("by second", 1, seed=3))
            other.delete(spec, [point_id("p4")])
            other.flush(spec)
            expected = [*expected[1:], "by second0"]
            self.answers(store, spec, expected)
            self.answers(other, spec, expected)
            store.repair(spec)
            self.answers(other, spec, expected)
        finally:
            other.close()
        self.answers(store, spec, expected)
        store.drop(spec.name)

    def test_two_handles_write_in_turn_and_at_once(self, store: Store, reopen: Reopen | None) -> None:
        """Two processes on one place, as two handles: nothing that either acknowledged is lost."""
        if reopen is None or not store.capabilities.concurrent_writers:
            return
        spec = self.lived_in(store)
        other = reopen()

        def write(handle: Store, prefix: str, seed: int) -> None:
            for turn in range(5):
                self.write(handle, spec, make_points(f"{prefix}{turn}.", 4, seed=seed + turn))
                handle.delete(spec, [point_id(f"{prefix}{turn}.0")])
                handle.flush(spec)

        try:
            with ThreadPoolExecutor(2) as threads:
                for work in [threads.submit(write, store, "x", 100), threads.submit(write, other, "y", 200)]:
                    work.result()
            names = [f"{prefix}{turn}.{i}" for prefix in "xy" for turn in range(5) for i in (1, 2, 3)]
            expected = [*(f"p{i}" for i in range(2, 10)), *names]
            self.answers(store, spec, expected)
            self.answers(other, spec, expected)
        finally:
            other.close()
        store.drop(spec.name)

    def test_a_transaction_that_fails_leaves_nothing(self, store: Store) -> None:
        """Where a ledger may share the database, points come with its transaction or not at all.

        The same steps are then taken with other points: nothing remembered from inside the failed transaction
        (matching rows, vectors, words) may be taken for theirs.
        """
        if store.database is None:
            return
        spec = self.lived_in(store)
        old = [f"p{i}" for i in range(2, 10)]

        def steps(prefix: str, seed: int, hidden: str, gone: str) -> list[str]:
            points = make_points(prefix, 3, seed=seed, metadata={"year": seed}, fields=spec.fields)
            names = [*old, *(f"{prefix}{i}" for i in range(3))]
            self.write(store, spec, points)
            self.answers(store, spec, names)
            store.set_stale(spec, [point_id(hidden)])
            names.remove(hidden)
            self.answers(store, spec, names)
            store.delete(spec, [point_id(gone)])
            names.remove(gone)
            self.answers(store, spec, names)
            for point in points:
                found = self.dense(store, spec, 99, vector=point.vector)
                own = distances(spec.metric, point.vector, point.vector[None])[0]
                assert dict((c.point_id, c.value) for c in found.items)[point.point_id] == pytest.approx(own, abs=1e-4)
            by_word = self.keyword(store, spec, f"{prefix}1", 9) if store.capabilities.keyword else None
            assert by_word is None or ids(by_word)[0] == point_id(f"{prefix}1")
            return names

        try:
            with store.database.write():
                steps("lost", 300, "p2", "p3")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        self.answers(store, spec, old)
        assert len(list(store.scan(spec))) == 9
        with store.database.write():
            kept = steps("kept", 400, "p4", "p5")
        self.answers(store, spec, kept)
        if store.capabilities.keyword:
            assert not self.keyword(store, spec, "lost1", 9).items
        self.write(store, spec, make_points("lost", 3, seed=300))
        self.answers(store, spec, [*kept, "lost0", "lost1", "lost2"])
        store.drop(spec.name)
