"""The row sets of filters that an embedded store keeps: as many as fit, and no more bytes than allowed."""

from __future__ import annotations

import gc
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shelflist.core.fields import Fields
from shelflist.core.filters import F, Filter, prepare
from shelflist.core.types import Point, SearchParams
from shelflist.database import SqliteTransaction
from shelflist.stores import _compaction, _vector_cache
from shelflist.stores._sql import compile_sql
from shelflist.stores._vector_cache import VectorCache
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import point_id

FIELDS = Fields({"group": int})
SPEC = GenerationSpec("sl_sets_1", 4, fields=FIELDS)
ROWS = 1_000


def point(number: int) -> Point:
    vector = np.random.default_rng(number).normal(size=4).astype(np.float32)
    chunk = point_id(f"chunk {number}")
    return Point(point_id(str(number)), chunk, f"d{number}", None, f"text {number}", {"group": number % 10}, vector)


@pytest.fixture
def store(folder: Path) -> Iterator[EmbeddedStore]:
    opened = EmbeddedStore(folder / "index")
    opened.create(SPEC)
    opened.upsert(SPEC, [point(number) for number in range(ROWS)])
    yield opened
    opened.close()


def search(store: EmbeddedStore, group: int) -> list[bytes]:
    scope = Scope(filter=prepare(F("group") == group, FIELDS))
    found = store.search(SPEC, np.ones(4, np.float32), limit=200, scope=scope, params=SearchParams())
    return [item.point_id for item in found.items]


def sets(store: EmbeddedStore) -> Any:
    return store._vectors._caches[SPEC.name]._sets


def test_a_hundred_tenants_asked_in_turn_stay_known(store: EmbeddedStore) -> None:
    for _ in range(2):
        for group in range(100):
            assert len(search(store, group)) == (ROWS // 10 if group < 10 else 0)
    assert len(sets(store)) == 100
    assert all(matches.asked == 2 for _, matches in sets(store).values())


def test_they_are_bounded_in_bytes(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 20 * ROWS
    monkeypatch.setattr(_vector_cache, "_MAX_SET_BYTES", most)
    for group in range(100):
        search(store, group)
    held = [matches.nbytes for _, matches in sets(store).values()]
    assert most / 2 < sum(held) <= most
    # Those that are known are the last ones, and one that is not any more is found anew.
    search(store, 99)
    assert [matches.asked for _, matches in sets(store).values()][-1] == 2
    assert set(search(store, 3)) == {point_id(str(number)) for number in range(3, ROWS, 10)}


def test_a_write_does_not_make_them_more(store: EmbeddedStore) -> None:
    for group in range(5):
        search(store, group)
    store.upsert(SPEC, [point(ROWS + 3)])
    for group in range(5):
        assert len(search(store, group)) == ROWS // 10 + (group == 3)
    assert len(sets(store)) == 5


def test_an_exact_search_adds_the_positions_to_the_bytes(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    search(store, 0)
    ((_, one),) = sets(store).values()
    assert one.nbytes > one.mask.nbytes
    assert sum(store._vectors._caches[SPEC.name]._weights.values()) == one.nbytes
    monkeypatch.setattr(_vector_cache, "_MAX_SET_BYTES", 4 * one.nbytes - 1)
    for group in range(1, 5):
        search(store, group)
        assert len(sets(store)) == min(group + 1, 3)


def test_sets_of_another_snapshot_are_let_go(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    store.repair(SPEC)
    for group in range(5):
        search(store, group)
    known = store._vectors._caches[SPEC.name]._known
    assert known is not None and known.state.view.base is not None
    before = weakref.ref(known.state.view.base.vectors)
    del known
    store.repair(SPEC)
    search(store, 1)
    gc.collect()
    assert len(sets(store)) == 1
    assert before() is None


def test_sets_do_not_hold_the_states_that_they_were_found_in(store: EmbeddedStore) -> None:
    held = []
    for group in range(4):
        search(store, group)
        store.delete(SPEC, [point(group).point_id])
        assert store.count(SPEC, Scope()) == ROWS - group - 1
        known = store._vectors._caches[SPEC.name]._known
        assert known is not None and known.state.view.alive is not None
        held.append(weakref.ref(known.state.view.alive))
    del known
    gc.collect()
    assert len(sets(store)) == 5
    assert [one() is None for one in held] == [True, True, True, False]


def test_a_search_of_an_older_moment_leaves_no_set_for_a_later_one(store: EmbeddedStore) -> None:
    """Their positions differ: rows that died since they were known are still counted by one who knew them alive."""
    assert store.count(SPEC, Scope()) == ROWS
    store.delete(SPEC, [point(3).point_id])
    assert store.count(SPEC, Scope()) == ROWS - 1
    expected = {point_id(str(number)) for number in range(13, ROWS, 10)}
    with store.database.read() as tx:
        tx.execute("SELECT count(*) FROM store_generations").fetchone()
        writer = threading.Thread(target=lambda: store.upsert(SPEC, [point(ROWS), point(ROWS + 3)]))
        writer.start()
        writer.join()
        counter = threading.Thread(target=lambda: store.count(SPEC, Scope()))
        counter.start()
        counter.join()
        assert set(search(store, 3)) == expected
    assert set(search(store, 3)) == expected | {point_id(str(ROWS + 3))}
    assert set(search(store, 3)) == expected | {point_id(str(ROWS + 3))}


def test_a_search_inside_a_write_begins_with_no_set_of_another_line(store: EmbeddedStore) -> None:
    assert store.count(SPEC, Scope()) == ROWS
    store.delete(SPEC, [point(3).point_id])
    expected = {point_id(str(number)) for number in range(13, ROWS, 10)}
    assert set(search(store, 3)) == expected
    with store.database.write():
        store.upsert(SPEC, [point(ROWS + 3)])
        assert set(search(store, 3)) == expected | {point_id(str(ROWS + 3))}
    assert set(search(store, 3)) == expected | {point_id(str(ROWS + 3))}


class Explained:
    """A transaction that keeps what SQLite says of the statements on the points."""

    def __init__(self, tx: SqliteTransaction) -> None:
        self._tx = tx
        self.writable = tx.writable
        self.steps: list[str] = []

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        if "SELECT p.row FROM" in sql:
            self.steps += [step for *_, step in self._tx.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
        return self._tx.execute(sql, parameters)


@pytest.mark.parametrize(
    ("filter", "tenant", "matching"),
    [
        (F("group") == 3, None, 4),
        (F("group") >= 3, None, 28),
        (F("tags").contains("even"), None, 20),
        (F("tags").is_in(["even", "odd"]), None, 40),
        (F("tags").not_in(["even"]), None, 20),
        ((F("group") == 3) & F("tags").contains("odd"), None, 4),
        (None, "b", 20),
        (F("group") == 4, "a", 4),
    ],
    ids=str,
)
def test_after_a_write_a_condition_looks_at_the_new_rows_only(
    folder: Path, filter: Filter | None, tenant: str | None, matching: int
) -> None:
    fields = Fields({"group": int, "tags": list[str]})
    spec = GenerationSpec("sl_sets_2", 4, fields=fields, tenanted=True)

    def tenants(number: int) -> Point:
        one = point(number)
        metadata = {**one.metadata, "tags": ["odd" if number % 2 else "even"]}
        return replace(one, tenant_id="b" if number % 2 else "a", metadata=metadata)

    opened = EmbeddedStore(folder / "index")
    opened.create(spec)
    cache = VectorCache(spec, folder / "index")
    condition, values = "p.tenant_id = ?", [tenant]
    if filter is not None:
        text, some = compile_sql(prepare(filter, fields), fields, f"{spec.name}_lists")
        condition, values = (f"{condition} AND ({text})", [tenant, *some]) if tenant else (text, some)
    scope = Scope(tenant=tenant)
    for start in (0, 20):
        opened.upsert(spec, [tenants(number) for number in range(start, start + 20)])
        with opened.database.read() as tx:
            explained: Any = Explained(tx)
            found = cache.matches(explained, cache.at(tx), condition, tuple(values), scope)
    assert found.count == matching
    of_points = [step for step in explained.steps if " p " in f"{step} "]
    assert of_points == ["SEARCH p USING INTEGER PRIMARY KEY (rowid>?)"]
    of_lists = [step for step in explained.steps if "_lists" in step]
    assert all("row>?" in step for step in of_lists) and bool(of_lists) == ("tags" in str(filter))
    opened.close()
