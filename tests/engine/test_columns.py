"""The columns of a snapshot against `Filter.matches`, on random rows and filters, and when they cannot be read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters import F, prepare
from shelflist.core.filters.nodes import Filter
from shelflist.engine.columns import TENANT, Columns, ColumnsWriter
from shelflist.testing.strategies import filters, metadata

FIELDS = Fields({"s": str, "i": int, "f": float, "b": bool, "d": "datetime", "l": list[str]})


def written(directory: Path, rows: list[dict[str, Any]], tenants: list[str | None] | None = None) -> Columns:
    writer = ColumnsWriter({TENANT: FieldType.STR, **FIELDS})
    for start in range(0, len(rows), 7):  # in several parts
        part = range(start, min(start + 7, len(rows)))
        writer.add(
            [None if tenants is None else tenants[row], *(rows[row].get(field) for field in FIELDS)] for row in part
        )
    for position, row in enumerate(rows):
        for member in dict.fromkeys(row.get("l") or ()):
            writer.add_member("l", member, position)
    writer.save(directory)
    return Columns(directory, len(rows))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(metadata(FIELDS), max_size=40), st.lists(filters(FIELDS), min_size=1, max_size=6))
def test_exactly_the_rows_that_a_filter_matches(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[dict[str, Any]], asked: list[Filter]
) -> None:
    rows = [FIELDS.stored(row) for row in given_rows]
    columns = written(tmp_path_factory.mktemp("columns"), rows)
    for one in asked:
        filter = prepare(one, FIELDS)
        assert filter is not None
        mask = columns.matching(filter, FIELDS)
        assert mask is not None and mask.tolist() == [filter.matches(row) for row in rows], filter


def test_a_hundred_thousand_values(tmp_path: Path) -> None:
    count = 100_000
    order = np.random.default_rng(5).permutation(count).tolist()
    rows: list[dict[str, Any]] = [
        {"s": f"k{n}", "i": n, "l": [f"t{n}", f"u{n // 2}"]} if n % 100 else {} for n in order
    ]
    columns = written(tmp_path, [FIELDS.stored(row) for row in rows])
    for where, wanted in (
        (F("s") == "k77", lambda n: n == 77),
        (F("i") >= 99_000, lambda n: n >= 99_000 and n % 100 > 0),
        (F("i").is_in([7 * n for n in range(count)]), lambda n: n % 7 == 0 and n % 100 > 0),
        (F("s").not_in([f"k{n}" for n in range(1, count)]), lambda n: n % 100 == 0),
        (F("l").contains("u11"), lambda n: n in (22, 23)),
    ):
        filter = prepare(where, FIELDS)
        assert filter is not None
        mask = columns.matching(filter, FIELDS)
        assert mask is not None and sorted(np.asarray(order)[mask].tolist()) == [n for n in range(count) if wanted(n)]


NASTY = [
    "",
    "a",
    "A",
    "ab",
    "a%",
    "a_",
    "a'b",
    'a"b',
    "é",
    "ab\x00c",
    "\U0010ffff",
    "a\U0010ffff",
    "\ud7ff",
    "\ue000",
    "1",
]


@pytest.mark.parametrize("prefix", [*NASTY, "a\U0010ffff\U0010ffff", "zzz"])
def test_beginnings_and_order_of_nasty_texts(tmp_path: Path, prefix: str) -> None:
    rows: list[dict[str, Any]] = [*({"s": text} for text in NASTY), {}]
    columns = written(tmp_path, rows)
    for filter in (F("s").starts_with(prefix), F("s") < prefix, F("s") >= prefix, ~(F("s") == prefix)):
        checked = prepare(filter, FIELDS)
        assert checked is not None
        mask = columns.matching(checked, FIELDS)
        assert mask is not None and mask.tolist() == [checked.matches(row) for row in rows]


def test_a_tenant_sees_its_own(tmp_path: Path) -> None:
    rows = [{"i": number} for number in range(6)]
    columns = written(tmp_path, rows, ["a", "b", "a", None, "b", "a"])
    assert np.flatnonzero(columns.matching(None, FIELDS, "a")).tolist() == [0, 2, 5]  # type: ignore[arg-type]
    low = prepare(F("i") < 3, FIELDS)
    assert np.flatnonzero(columns.matching(low, FIELDS, "b")).tolist() == [1]  # type: ignore[arg-type]
    assert np.flatnonzero(columns.matching(low, FIELDS, "c")).tolist() == []  # type: ignore[arg-type]
    assert np.flatnonzero(columns.matching(None, FIELDS)).tolist() == list(range(6))  # type: ignore[arg-type]


def test_what_no_column_holds_is_for_somebody_else_to_say(tmp_path: Path) -> None:
    columns = written(tmp_path, [{"i": 1, "s": "x"}])
    later = Fields({**FIELDS, "added": int})
    assert columns.matching(prepare(F("added") == 1, later), later) is None
    assert columns.matching(prepare(F("i") == 1, later), later) is not None
    assert Columns().matching(prepare(F("i") == 1, FIELDS), FIELDS) is None
    shutil.rmtree(tmp_path)  # as when a newer snapshot has taken its place
    assert columns.matching(prepare(F("i") == 1, FIELDS), FIELDS) is not None  # mapped before
    assert columns.matching(prepare(F("s") == "x", FIELDS), FIELDS) is None


def test_columns_of_another_length_are_not_used(tmp_path: Path) -> None:
    written(tmp_path, [{"i": 1}, {"i": 2}])
    assert Columns(tmp_path, 3).matching(prepare(F("i") == 1, FIELDS), FIELDS) is None
