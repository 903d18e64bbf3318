"""Filters on fields whose values all differ: exactly the rows that `Filter.matches` says, found by the index of the field."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shelflist.core.fields import Fields
from shelflist.core.filters import Comparison, F, Filter, Not, Operator, prepare
from shelflist.core.types import Flat, Point, SearchParams
from shelflist.stores._sql import compile_sql, field_column
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import GenerationSpec, Scope

FIELDS = Fields({"code": str, "number": int, "price": float, "at": "datetime", "tags": list[str]})
SPEC = GenerationSpec("sl_many_1", 8, index=Flat(), fields=FIELDS)
ROWS = int(os.environ.get("SHELFLIST_VALUES", "20000"))
"""In .ci/run, in a stage of its own, a hundred thousand."""
ASKED = max(100_000, 2 * ROWS)
"""Values of one `in`: more than the rows have."""
BEGINNING = datetime(2024, 1, 1, tzinfo=UTC)


def value(field: str, number: int) -> Any:
    """All different by number, also for numbers that no row has; codes are in another order than the numbers."""
    match field:
        case "code":
            return f"k{number * 7_919 % 1_000_003}"
        case "number":
            return 3 * number - 30_000
        case "price":
            return number / 7
        case "at":
            return BEGINNING + timedelta(seconds=number)
    return f"t{number}"


def metadata(number: int) -> dict[str, Any]:
    """One row in a hundred has none."""
    if number % 100 == 99:
        return {}
    return {
        name: [value(name, number), f"u{number // 2}"] if name == "tags" else value(name, number) for name in FIELDS
    }


class Table:
    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.rows = [FIELDS.stored(metadata(number)) for number in range(ROWS)]
        store.create(SPEC)
        vectors = np.random.default_rng(1).normal(size=(ROWS, 8)).astype(np.float32)
        points = []
        for number, row in enumerate(self.rows):
            one = number.to_bytes(16, "big")
            points.append(Point(one, one, f"d{number}", None, "", row, vectors[number]))
        store.upsert(SPEC, points)

    def found(self, where: Filter) -> set[int]:
        """By a search for all of them."""
        scope = Scope(filter=prepare(where, FIELDS))
        query = np.ones(8, np.float32)
        found = self.store.search(SPEC, query, limit=ROWS, scope=scope, params=SearchParams(exact=True))
        assert len(found.items) == self.store.count(SPEC, scope)
        return {int.from_bytes(item.point_id, "big") for item in found.items}

    def wanted(self, where: Filter) -> set[int]:
        prepared = prepare(where, FIELDS)
        return {number for number, row in enumerate(self.rows) if prepared.matches(row)}

    def plan(self, where: Filter) -> list[str]:
        condition, parameters = compile_sql(prepare(where, FIELDS), FIELDS, f"{SPEC.name}_lists")
        sql = f"EXPLAIN QUERY PLAN SELECT p.row FROM {SPEC.name} p WHERE {condition}"
        with self.store.database.read() as tx:
            return [step[3] for step in tx.execute(sql, parameters)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Table]:
    store = EmbeddedStore(tmp_path_factory.mktemp("many") / "index")
    yield Table(store)
    store.close()


def numbers(count: int) -> Sequence[int]:
    """Of `count` values, most of which no row has."""
    return range(-count // 2, count - count // 2)


@pytest.mark.parametrize("name", ["code", "number", "at", "tags"])
def test_in_with_more_values_than_there_are_rows(table: Table, name: str) -> None:
    values = [value(name, number) for number in numbers(ASKED) if number % 3]
    wanted = {number for number, row in enumerate(table.rows) if name in row and number % 3}
    assert 0 < len(wanted) < ROWS
    assert table.found(F(name).is_in(values)) == wanted
    assert table.found(F(name).not_in(values)) == set(range(ROWS)) - wanted


@pytest.mark.parametrize("count", [1, 100, 101])
@pytest.mark.parametrize("name", FIELDS)
def test_in_with_few_and_with_many_values(table: Table, name: str, count: int) -> None:
    """On both sides of the number from which they are sent as one parameter."""
    values = [value(name, 10 * number) for number in range(count)]
    for where in (F(name).is_in(values), F(name).not_in(values)):
        wanted = table.wanted(where)
        assert table.found(where) == wanted and 0 < len(wanted) < ROWS


FIELD = st.sampled_from([name for name in FIELDS if name != "tags"])
NUMBER = st.integers(-2, ROWS + 2)


@st.composite
def comparison(draw: st.DrawFn) -> Filter:
    name, number = draw(FIELD), draw(NUMBER)
    one = value(name, number)
    operator = draw(st.sampled_from([*OPERATORS, "between", "starts_with", "tag"]))
    match operator:
        case "starts_with":
            text = value("code", number)
            return Comparison("code", Operator.STARTS_WITH, text[: draw(st.integers(1, len(text)))])
        case "tag":
            return Comparison("tags", Operator.CONTAINS, draw(st.sampled_from([f"t{number}", f"u{number}"])))
        case "between":
            return Comparison(name, Operator.BETWEEN, tuple(sorted((one, value(name, draw(NUMBER))))))
    return Comparison(name, OPERATORS[operator], one)


OPERATORS = {
    "=": Operator.EQ,
    "!=": Operator.NE,
    "<": Operator.LT,
    "<=": Operator.LE,
    ">": Operator.GT,
    ">=": Operator.GE,
}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=comparison(), other=comparison(), negated=st.booleans())
def test_comparisons_and_their_combinations(table: Table, where: Filter, other: Filter, negated: bool) -> None:
    wanted, others = table.wanted(where), table.wanted(other)
    assert table.found(where) == wanted
    assert table.found(where & Not(other) if negated else where & other) == (
        wanted - others if negated else wanted & others
    )
    assert table.found(Not(where) | other) == set(range(ROWS)) - wanted | others


@pytest.mark.parametrize("name", ["code", "number", "price", "at"])
def test_the_index_of_the_field_answers(table: Table, name: str) -> None:
    index = f"{SPEC.name}_{field_column(name)}"
    one, end = value(name, 5), value(name, 50)
    asked = [
        F(name) == one,
        F(name).is_in([one, end]),
        F(name).is_in([value(name, i) for i in range(500)]),
        F(name) > one,
    ]
    if name == "code":
        asked.append(F(name).starts_with("k79"))
    for where in asked:
        (step, *_) = table.plan(where)
        assert step.startswith("SEARCH p USING") and f"INDEX {index} (" in step, (where, step)


def test_the_index_of_a_list_answers(table: Table) -> None:
    for where in (F("tags").contains("t5"), F("tags").is_in([f"t{number}" for number in range(500)])):
        assert table.plan(where)[0] == "SEARCH p USING INTEGER PRIMARY KEY (rowid=?)"
        assert not [step for step in table.plan(where) if step.startswith("SCAN") and "json_each" not in step]
