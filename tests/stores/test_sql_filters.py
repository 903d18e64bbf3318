"""Filters compiled to SQL, on a real SQLite table: exactly the rows that `Filter.matches` says, by the index."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shelflist.core.errors import FilterTooBroad, UnknownField, UnsupportedFilter
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters import And, Comparison, F, Filter, Not, Operator, Or, check, prepare
from shelflist.core.filters.check import MAX_DEPTH, OPERATORS_OF
from shelflist.stores._sql import compile_sql, field_column, successor
from shelflist.stores.memory import MemoryStore
from shelflist.testing.strategies import filters, metadata

FIELDS = Fields({"title": str, "year": int, "price": float, "public": bool, "updated": "datetime", "tags": list[str]})
COLUMNS = {"str": "TEXT", "float": "REAL"}

LAST = "\U0010ffff"
TEXTS = [
    "", " ", "a", "A", "ab", "abc", "b", "a\0", "a\0b", "\0", "1", "1.0", "01", "True", "true", "null", "0", "-1",
    "it's", 'say "hi"', "\\", "a\\b", "%", "a%", "a_", "axb", "_", "[a]", "*", "a*", "'; DROP TABLE t; --", "?", ":x",
    "é", "e\u0301", "É", "日本", "日", "\ud7ff", "\ue000", "\uffff", "a\ud7ff", "a\ue000", "😀", "😀😁", LAST, f"a{LAST}", f"a{LAST}b",
    LAST * 2, "\n", "a\nb", "\u2028", "x" * 2_000,
]  # fmt: skip
INTS = [0, 1, -1, 2, 2020, 2**31, -(2**31), 2**53, 2**53 - 1, -(2**53)]
FLOATS = [
    0.0,
    -0.0,
    1,
    1.0,
    1.5,
    -1.5,
    0.1,
    0.3,
    0.1 + 0.2,
    1e300,
    -1e300,
    5e-324,
    2.0**53,
    2**53 - 1,
    1 / 3,
    123456.789,
]
TIMES = [
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))),
    datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, tzinfo=UTC),
]
LISTS = [
    [],
    [""],
    ["a"],
    ["a", "b"],
    ["b", "a", "a"],
    ["A"],
    ["a,b"],
    ["1"],
    ["it's"],
    ["%"],
    ["a\0b"],
    ["a\0"],
    ["😀"],
    ["\0"],
]
POOLS: Mapping[str, Sequence[Any]] = {
    "title": TEXTS,
    "year": INTS,
    "price": FLOATS,
    "public": [True, False],
    "updated": TIMES,
    "tags": ["", "a", "b", "A", "a,b", "1", "it's", "%", "a\0b", "a\0", "a\0c", "😀", "\0", "nowhere"],
}
ROWS: list[dict[str, Any]] = [
    {},
    dict.fromkeys(FIELDS),
    {"title": "1", "year": 1, "price": 1.0, "public": True, "tags": ["1"]},
    *({name: value} for name in FIELDS for value in (LISTS if name == "tags" else POOLS[name])),
]


class Table:
    """Rows with the columns that the compiler expects, each with an index, as a store lays them out."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], fields: Fields = FIELDS) -> None:
        self.fields = fields
        self.rows = [fields.stored(row) for row in rows]
        self.connection = sqlite3.connect(":memory:")
        columns = "".join(f", {field_column(name)} {COLUMNS.get(kind, 'INTEGER')}" for name, kind in fields.items())
        self.connection.execute(f"CREATE TABLE t (row INTEGER PRIMARY KEY{columns})")
        self.connection.execute(
            "CREATE TABLE t_lists (field TEXT, value TEXT, row INTEGER, PRIMARY KEY (field, value, row)) WITHOUT ROWID"
        )
        for name in fields:
            self.connection.execute(f"CREATE INDEX t_{field_column(name)} ON t ({field_column(name)})")
        for i, stored in enumerate(self.rows):
            values = []
            for name, kind in fields.items():
                value = stored.get(name)
                if kind is FieldType.LIST and value is not None:
                    members = [(name, member, i) for member in dict.fromkeys(value)]
                    self.connection.executemany("INSERT INTO t_lists VALUES (?, ?, ?)", members)
                    value = 1
                values.append(value)
            self.connection.execute(f"INSERT INTO t VALUES ({', '.join('?' * (len(values) + 1))})", (i, *values))

    def found(self, where: Filter) -> set[int]:
        condition, parameters = compile_sql(where, self.fields, "t_lists")
        return {row for (row,) in self.connection.execute(f"SELECT p.row FROM t p WHERE {condition}", parameters)}

    def wanted(self, where: Filter) -> set[int]:
        return {i for i, stored in enumerate(self.rows) if where.matches(stored)}

    def plan(self, where: Filter) -> str:
        condition, parameters = compile_sql(where, self.fields, "t_lists")
        steps = self.connection.execute(f"EXPLAIN QUERY PLAN SELECT p.row FROM t p WHERE {condition}", parameters)
        return "\n".join(step[3] for step in steps)

    def close(self) -> None:
        self.connection.close()


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table(ROWS)
    yield table
    table.close()


def comparisons_of(name: str, operator: Operator) -> Iterator[Comparison]:
    pool = POOLS[name]
    match operator:
        case Operator.EXISTS:
            yield Comparison(name, operator)
        case Operator.BETWEEN:
            yield from (Comparison(name, operator, pair) for pair in itertools.product(pool[::3], pool[1::2]))
        case Operator.IN | Operator.NOT_IN:
            yield from (Comparison(name, operator, tuple(pool[i : i + n])) for i in range(len(pool)) for n in (1, 2, 4))
            yield Comparison(name, operator, tuple(pool))
        case _:
            yield from (Comparison(name, operator, value) for value in pool)


@pytest.mark.parametrize(
    ("name", "operator"), [(n, o) for n, kind in FIELDS.items() for o in Operator if o in OPERATORS_OF[kind]]
)
def test_every_value_against_every_value(table: Table, name: str, operator: Operator) -> None:
    """Each comparison and its negation, over values that differ in one character, one bit or only in type."""
    some = 0
    for where in comparisons_of(name, operator):
        for asked in (where, Not(where), Not(Not(where))):
            for tree in (check(asked, FIELDS), prepare(asked, FIELDS)):
                wanted = table.wanted(tree)
                assert table.found(tree) == wanted, tree
                some += 0 < len(wanted) < len(ROWS)
    assert some


MANY_WORDS = [f"word {i}" for i in range(9_990)]
LARGE: list[tuple[str, list[Any], list[Any]]] = [
    ("title", [*MANY_WORDS, "a", "it's", "😀", "a\0b", "", "%", "1", "\u2028", "\\", LAST], TEXTS),
    ("year", [*range(10_000, 20_000), 2**53, -(2**53), 1, 0], INTS),
    ("price", [*(i / 7 for i in range(10_000, 20_000)), 0.1 + 0.2, 5e-324, 1e300, 1, -0.0], FLOATS),
    ("updated", [*(TIMES[0] + timedelta(hours=i) for i in range(1, 10_000)), TIMES[2], TIMES[4]], TIMES),
    ("tags", [*MANY_WORDS, "a", "a\0b", "", "1", "😀"], LISTS),
]


@pytest.mark.parametrize(("name", "values", "_pool"), LARGE, ids=[case[0] for case in LARGE])
def test_ten_thousand_values(table: Table, name: str, values: list[Any], _pool: list[Any]) -> None:
    for where in (F(name).is_in(values), F(name).not_in(values), F(name).is_in(values) & F("year").exists()):
        tree = prepare(where, FIELDS)
        wanted = table.wanted(tree)
        assert table.found(tree) == wanted
        assert len(wanted) < len(ROWS)
    assert table.wanted(prepare(F(name).is_in(values), FIELDS))


def test_many_bools(table: Table) -> None:
    tree = check(F("public").is_in([True, True] * 300), FIELDS)
    assert table.found(tree) == table.wanted(tree) != set()


def test_more_values_than_a_statement_takes() -> None:
    with pytest.raises(FilterTooBroad, match=r"40,000 values.*between"):
        compile_sql(prepare(F("price").is_in(i / 7 for i in range(1, 40_001)), FIELDS), FIELDS, "t_lists")


@pytest.mark.parametrize("kind", [And, Or])
def test_thousands_of_parts(table: Table, kind: type[And] | type[Or]) -> None:
    """SQLite takes no expression that is a thousand deep, and a long chain is as deep as it is long."""
    parts = [F("year") != i if kind is And else F("year") == i for i in range(-3, 2_500)]
    for tree in (kind(tuple(parts)), Not(kind(tuple(parts))), prepare(kind(tuple(parts)), FIELDS)):
        assert table.found(prepare(tree, FIELDS)) == table.wanted(tree)
    assert 0 < len(table.wanted(kind(tuple(parts)))) < len(ROWS)


@pytest.mark.parametrize(
    "leaf", [F("tags").is_in(["a", "b"]), ~F("tags").contains("a"), F("title").is_in(MANY_WORDS[:200])]
)
def test_the_deepest_tree_that_is_accepted(table: Table, leaf: Filter) -> None:
    """SQLite's parser has a stack of its own, which sees the condition inside the store's parentheses."""
    where: Filter = leaf
    for i in range(MAX_DEPTH - 1):
        beside = F("title").starts_with("a") | F("year").between(i, 2 * i) if i % 2 else leaf & (F("year") > i)
        where = where & beside if i % 2 else where | beside
    tree = prepare(where, FIELDS)
    condition, parameters = compile_sql(tree, FIELDS, "t_lists")
    asked = f"SELECT p.row FROM t p WHERE p.row >= 0 AND p.row <> -1 AND ({condition})"
    assert {row for (row,) in table.connection.execute(asked, parameters)} == table.wanted(tree)


def test_a_tree_that_is_deep_and_long(table: Table) -> None:
    """A long level takes more parentheses, and the parser's stack holds what stands before each of them."""
    where: Filter = F("tags").is_in(["a", "b"])
    for level in range(MAX_DEPTH):
        beside = [F("year") != level * 100 + i if level % 2 else F("year") == level * 100 + i for i in range(60)]
        where = (And if level % 2 else Or)((*beside, where))
    tree = prepare(where, FIELDS)
    assert table.found(tree) == table.wanted(tree) != set()


def test_everything_and_nothing(table: Table) -> None:
    assert table.found(And(())) == set(range(len(ROWS)))
    assert table.found(Or(())) == set()
    assert table.found(And((Or(()), F("year").exists()))) == set()
    assert table.found(Or((And(()), F("year").exists()))) == set(range(len(ROWS)))


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("a", "b"),
        ("az", "a{"),
        ("", None),
        (LAST, None),
        (LAST * 3, None),
        (f"a{LAST}", "b"),
        (f"a{LAST}{LAST}", "b"),
        ("\ud7ff", "\ue000"),
        ("x\ud7ff", "x\ue000"),
        ("\uffff", "\U00010000"),
        ("a\0", "a\x01"),
    ],
)
def test_the_end_of_a_prefix(prefix: str, end: str | None) -> None:
    assert successor(prefix) == end
    if end is not None:
        end.encode()
        assert prefix < prefix + LAST < end


INDEXED: list[Filter] = [
    F("title") == "a",
    F("title") < "b",
    F("title") >= "b",
    F("title").between("a", "b"),
    F("title").starts_with("ab"),
    F("title").starts_with(LAST),
    F("title").is_in(["a", "b"]),
    F("title").is_in(MANY_WORDS),
    F("title").is_in([*MANY_WORDS, "a\0b"]),
    F("year") == 1,
    F("year") <= 1,
    F("year").between(1, 2),
    F("year").is_in([1, 2]),
    F("year").is_in(range(10_000)),
    F("price") > 1,
    F("price").is_in([0.1, 0.2]),
    F("price").is_in(i / 7 for i in range(5_000)),
    F("public") == True,  # noqa: E712
    F("updated") >= TIMES[0],
    F("updated").is_in([TIMES[0] + timedelta(hours=i) for i in range(500)]),
    F("tags").contains("a"),
    F("tags") == "a",
    F("tags").is_in(["a", "b"]),
    F("tags").is_in(MANY_WORDS),
    (F("year") == 1) | F("title").starts_with("a"),
    Or(tuple(F("title") == f"t{i}" for i in range(40))),
    (F("year") == 1) & ~F("tags").contains("a"),
]


@pytest.mark.parametrize("where", INDEXED, ids=[f"{i}" for i in range(len(INDEXED))])
def test_an_index_answers(table: Table, where: Filter) -> None:
    plan = table.plan(prepare(where, FIELDS))
    assert "SCAN p" not in plan and "SCAN t" not in plan, plan
    assert "SEARCH" in plan


def test_the_index_check_can_fail(table: Table) -> None:
    assert "SCAN p" in table.plan(prepare(~(F("year") < 1), FIELDS))


def test_values_are_never_written_into_the_sql() -> None:
    for where in (F("title") == "NEEDLE", F("title").is_in(["NEEDLE", "b"]), F("tags").contains("NEEDLE"),
                  F("title").starts_with("NEEDLE"), F("title").is_in([*MANY_WORDS, "NEEDLE"])):  # fmt: skip
        condition, parameters = compile_sql(prepare(where, FIELDS), FIELDS, "t_lists")
        assert "NEEDLE" not in condition
        assert condition.count("?") == len(parameters)


def test_parameters_have_the_stored_type() -> None:
    _, parameters = compile_sql(prepare(F("public").is_in([True, False]), FIELDS), FIELDS, "t_lists")
    assert [type(value) for value in parameters] == [int, int]


def test_a_field_that_is_not_declared_never_reaches_the_sql() -> None:
    for name in ("nowhere", "x = 1; --", "row"):
        with pytest.raises(UnknownField):
            compile_sql(F(name) == 1, FIELDS, "t_lists")


def test_an_operator_that_is_not_claimed() -> None:
    claims = MemoryStore.capabilities
    less = replace(claims, store="small", filter_operators=claims.filter_operators - {Operator.STARTS_WITH})
    where = prepare((F("year") == 1) | ~F("title").starts_with("a"), FIELDS)
    assert compile_sql(where, FIELDS, "t_lists", claims)
    with pytest.raises(UnsupportedFilter, match="'starts with'"):
        compile_sql(where, FIELDS, "t_lists", less)


def test_names_that_sql_knows_or_never_saw() -> None:
    names = ["select", "row", "value", "field", "été", "日本", "p", "order"]
    names += ["name", "Name", "NAME", "_uname", "n_ame", "n__ame", "Été", "K", "\u212a", "\u0130", "I\u0307"]
    fields = Fields({**dict.fromkeys(names, str), "table": list[str]})
    table = Table([{name: "x"} for name in names] + [{"table": ["x"]}], fields)
    for i, name in enumerate(names):
        assert table.found(prepare(F(name) == "x", fields)) == {i}
        assert table.found(prepare(F(name).exists(), fields)) == {i}
    assert table.found(prepare(F("table").contains("x"), fields)) == {len(names)}
    table.close()


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.lists(metadata(FIELDS), min_size=1, max_size=12), st.lists(filters(FIELDS), min_size=4, max_size=4))
def test_random_filters(rows: list[dict[str, Any]], wheres: list[Filter]) -> None:
    table = Table(rows)
    for where in wheres:
        oracle = table.wanted(check(where, FIELDS))
        assert table.found(prepare(where, FIELDS)) == oracle
        assert table.found(check(where, FIELDS)) == oracle
    table.close()
