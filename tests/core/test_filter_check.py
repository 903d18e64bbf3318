"""What is refused, in whichever form it is written, and what the refusal says; and that depth is no way to crash."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pytest

from shelflist.core.errors import InvalidFilter, UnknownField
from shelflist.core.fields import Fields
from shelflist.core.filters import (
    And,
    Comparison,
    F,
    Filter,
    Not,
    Operator,
    Or,
    parse_filter,
    prepare,
    to_json,
    to_text,
)

FIELDS = Fields({"title": str, "year": int, "price": float, "public": bool, "updated": datetime, "tags": list[str]})
NAIVE = datetime(2024, 1, 1)

Form = Filter | Mapping[str, Any] | str
WRONG: list[tuple[list[Form], str]] = [
    # 1, "1" and True are three things
    ([F("year") == "1", {"year": "1"}, 'year == "1"'], "Field 'year' is int, got str '1'"),
    ([F("year") == True, {"year": True}, "year == true"], "Field 'year' is int, got bool True"),  # noqa: E712
    ([F("year") == 1.0, {"year": {"$eq": 1.0}}, "year == 1.0"], "Field 'year' is int, got float 1.0"),
    ([F("title") == 1, {"title": 1}, "title == 1"], "Field 'title' is str, got int 1"),
    ([F("title") != True, {"title": {"$ne": True}}, "title != true"], "Field 'title' is str, got bool True"),  # noqa: E712
    ([F("public") == 1, {"public": 1}, "public == 1"], "Field 'public' is bool, got int 1"),
    ([F("public") == "true", {"public": "true"}, 'public == "true"'], "Field 'public' is bool, got str 'true'"),
    ([F("price") == "1", {"price": "1"}, 'price == "1"'], "Field 'price' is float, got str '1'"),
    ([F("price") < True, {"price": {"$lt": True}}, "price < true"], "Field 'price' is float, got bool True"),
    ([F("updated") > 0, {"updated": {"$gt": 0}}, "updated > 0"], "Field 'updated' is datetime, got int 0"),
    ([F("tags").contains(1), {"tags": {"$contains": 1}}, "1 in tags"], "Field 'tags' is list[str], got int 1"),
    ([F("tags") == True, {"tags": True}, "tags == true"], "Field 'tags' is list[str], got bool True"),  # noqa: E712
    # one wrong value among good ones, deep in a tree
    ([F("year").is_in([1, "2"]), {"year": {"$in": [1, "2"]}}, 'year in (1, "2")'], "Field 'year' is int, got str '2'"),
    ([F("year").not_in([True]), {"year": {"$nin": [True]}}, "year not in (true)"], "'year' is int, got bool True"),
    ([F("year").between(1, "2"), {"year": {"$between": [1, "2"]}}, 'year between 1 and "2"'], "got str '2'"),
    (
        [(F("year") == 1) | ~(F("title") < 5), {"$or": [{"year": 1}, {"$nor": [{"title": {"$lt": 5}}]}]},
         "year == 1 or not (title < 5)"],
        "Field 'title' is str, got int 5",
    ),
    # times without a zone, numbers out of range
    ([F("updated") >= NAIVE, {"updated": {"$gte": NAIVE}}, 'updated >= "2024-01-01"'], "without a time zone"),
    ([F("updated") == "soon", {"updated": "soon"}, 'updated == "soon"'], "ISO 8601"),
    ([F("year") == 2**53 + 1, {"year": 2**53 + 1}, "year == 9007199254740993"], "beyond 2^53"),
    ([F("year") > -(2**53) - 1, {"year": {"$gt": -(2**53) - 1}}, "year > -9007199254740993"], "beyond 2^53"),
    ([F("price") == 10**30, {"price": 10**30}, f"price == {10**30}"], "beyond 2^53"),
    ([F("year") == 10**5000, {"year": 10**5000}], "Field 'year' is int, got int that cannot be shown"),
    ([F("price") == float("nan"), {"price": float("nan")}], "not finite"),
    ([F("price") < float("inf"), {"price": {"$lt": float("inf")}}], "not finite"),
    ([F("title") == "\ud800", {"title": "\ud800"}, 'title == "\ud800"'], "not valid Unicode"),
    # null
    ([F("year") == None, F("year") != None, {"year": None}, {"year": {"$ne": None}}], "null, which equals nothing"),  # noqa: E711
    ([F("year").is_in([1, None]), {"year": {"$in": [1, None]}}], "null, which equals nothing"),
    (["year == null", "year != None", "year in (1, null)"], "Write exists(field), or not exists(field)."),
    # operators that the type does not have
    ([F("public") < True, {"public": {"$lt": True}}, "public < true"], "bool, which has no '<'. It takes: ==, !=, in"),
    ([F("tags") > "a", {"tags": {"$gt": "a"}}, 'tags > "a"'], "list[str], which has no '>'"),
    ([F("tags").starts_with("a"), {"tags": {"$startsWith": "a"}}, 'tags starts with "a"'], "has no 'starts with'"),
    ([F("title").contains("a"), {"title": {"$contains": "a"}}, '"a" in title'], "keyword search"),
    ([F("year").starts_with("1"), {"year": {"$startsWith": "1"}}, 'year starts with "1"'], "int, which has no"),
]  # fmt: skip


@pytest.mark.parametrize(("forms", "part"), WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_refused_in_every_form(forms: list[Form], part: str) -> None:
    for form in forms:
        with pytest.raises(InvalidFilter) as caught:
            prepare(form, FIELDS)
        assert part in str(caught.value), str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "form",
    [F("yaer") == 1, {"yaer": 1}, "yaer == 1", "exists(yaer)", '"x" in yaer', ~F("yaer").exists(),
     (F("year") == 1) & (F("yaer") == 1), {"$nor": [{"year": 1}, {"yaer": {"$gt": 1}}]}, F("yaer").is_in([])],
)  # fmt: skip
def test_an_unknown_field_names_the_nearest(form: Form) -> None:
    with pytest.raises(UnknownField, match=r"Unknown field 'yaer'\. Did you mean 'year'\?"):
        prepare(form, FIELDS)


@pytest.mark.parametrize("name", ["Year", "YEAR", "year ", "", "metadata.year", "document_id", "1=1; --"])
def test_field_names_are_exact(name: str) -> None:
    assert prepare(F("year") == 1, FIELDS).matches({"year": 1})
    with pytest.raises(UnknownField):
        prepare(F(name) == 1, FIELDS)


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("year", 5, "Expected an operator after year, found the end"),
        ("year ==", 8, "Expected a value"),
        ("year < ten", 8, 'Put text in quotes: "ten"'),
        ("year == 1 year == 2", 11, "Join conditions with and, or"),
        ("year == 1 and", 14, "Expected the name of a field"),
        ("and year == 1", 1, "found the word and"),
        ("(year == 1", 1, "never closed"),
        ("year == 1)", 10, "No parenthesis is open"),
        ("year in (1, 2", 9, "never closed"),
        ("year in 1", 9, "Expected a list"),
        ('title == "a', 10, "never closed"),
        (r'title == "\x"', 11, "no escape"),
        ("1 < year < 3", 10, "cannot be chained"),
        ("year == 1 && public == true", 11, "Join conditions with and"),
        ("year == 1 || public == true", 11, "Join conditions with or"),
        ("!public", 1, "Write not"),
        ("title like 'a%'", 7, "starts with"),
        ("title is null", 7, "exists"),
        ("year between 1, 2", 15, "Expected and"),
        ("title starts 'a'", 14, "Expected with"),
        ("year == 1 or (title == \u201ca\u201d)", 24, "straight quotes"),
        ("title == '日本' && year == 1", 15, "and"),
        ("year == 12px", 11, "follows the number"),
        ("title == 'a'\n  and year = = 1", 14, "Expected a value"),
    ],
)
def test_syntax_errors_point_at_the_column(text: str, column: int, part: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text)
    sentence, shown, caret = str(caught.value).split("\n")
    assert f"column {column}" in sentence and part in sentence, sentence
    assert caret.strip() == "^"
    line = next(line for line in reversed(text.split("\n")) if line == shown[2:])
    wide = sum(character in "日本" for character in line[: column - 1])
    assert caret.index("^") == 2 + column - 1 + wide


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ({}, "empty"), ("", "empty"), (" \n", "empty"), ({"$and": []}, "has no filters"), ({"$or": []}, "has no filters"),
        ({"$nor": []}, "has no filters"), ({"$not": {}}, "empty"), ({"year": {}}, "empty"), ({"$and": [{}]}, "empty"),
        ({"$or": [{"year": 1}, {}]}, "empty"),
        ({"year": {"$gte ": 1}}, "Did you mean '$gte'?"), ({"year": {"$ge": 1}}, "Did you mean '$gt"),
        ({"tags": {"$contain": "a"}}, "Did you mean '$contains'?"), ({"title": {"$startswith": "a"}}, "'$startsWith'?"),
        ({"title": {"$starts_with": "a"}}, "'$startsWith'?"), ({"year": {"$notin": [1]}}, "'$nin'?"),
        ({"year": {"lt": 1}}, "Did you mean '$lt'?"), ({"$adn": [{"year": 1}]}, "Did you mean '$and'?"),
        ({"$gt": 1}, 'Write {"field": {"$gt": value}}'), ({"year": {"$or": [1, 2]}}, "joins whole filters"),
        ({"year": [1, 2]}, "$in"), ({"year": {"$in": 1}}, "takes a list"), ({"year": {"$in": "12"}}, "takes a list"),
        ({"year": {"$between": [1]}}, "two values"), ({"year": {"$between": 1}}, "two values"),
        ({"year": {"$gt": [1]}}, "takes one value"), ({"year": {"$exists": 1}}, "true or false"),
        ({"$and": {"year": 1}}, "takes a list"), ({"$or": [1]}, "must be an object"), ({"$not": [1]}, "must be an object"),
        ({1: 2}, "names fields by text"), ({"year": {1: 2}}, "not an operator"), ({"$where": "1"}, "Unknown operator"),
        (5, "got int 5"), (b"year == 1", "got bytes"), ([("year", 1)], "got list"), (True, "got bool"), (F("year"), "F('year')"),
    ],
)  # fmt: skip
def test_what_is_no_filter(form: Any, part: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        prepare(form, FIELDS)
    assert part in str(caught.value), str(caught.value)


def test_python_words_that_would_lose_a_part_raise() -> None:
    a, b = F("year") > 1, F("title") == "a"
    for lossy in (
        lambda: a and b,
        lambda: a or b,
        lambda: not a,
        lambda: not F("year"),
        lambda: 1 < F("year") < 3,
        lambda: F("year") in [F("title")],
        lambda: "x" in F("tags"),
        lambda: {F("year"): 1},
    ):
        with pytest.raises(TypeError):
            lossy()
    with pytest.raises(TypeError, match=r"& \| ~, not with and, or, not"):
        bool(a)


@pytest.mark.parametrize("values", ["abc", b"abc", 5, None])
def test_several_values_are_not_one(values: Any) -> None:
    for several in (F("title").is_in, F("title").not_in):
        with pytest.raises(InvalidFilter, match="several values"):
            several(values)


def chained(kind: Any, count: int) -> Filter:
    return functools.reduce(kind, [F("year") != i for i in range(count)])


@pytest.mark.parametrize("count", [1_000, 5_000])
def test_a_long_chain_in_python(count: int) -> None:
    """`a & b & c ...` makes a tree as deep as it is long."""
    for kind, joined in ((operator.and_, And), (operator.or_, Or)):
        raw = chained(kind, count)
        flat = prepare(raw, FIELDS)
        assert isinstance(flat, joined) and len(flat.parts) == count
        assert prepare(~raw, FIELDS) == prepare(~flat, FIELDS)
        assert raw.matches({"year": 5}) is flat.matches({"year": 5}) is (joined is Or)
        assert raw.matches({"year": -5}) is flat.matches({"year": -5}) is True
        assert prepare(to_json(raw), FIELDS) == prepare(to_text(raw), FIELDS) == flat


def alternating(depth: int) -> Filter:
    tree: Filter = F("year") == 0
    for i in range(depth):
        tree = (tree & (F("year") != i)) if i % 2 else (tree | (F("price") == i))
    return tree


def negated(depth: int) -> Filter:
    return functools.reduce(lambda tree, _: Not(tree), range(depth), F("year") == 0)


@pytest.mark.parametrize("deep", [alternating(60), alternating(3_000), negated(3_000)], ids=["60", "3000", "not"])
def test_deep_trees_are_refused(deep: Filter) -> None:
    for use in (lambda: prepare(deep, FIELDS), lambda: prepare(deep & (F("year") == 1), FIELDS)):
        with pytest.raises(InvalidFilter, match="levels deep"):
            use()
    for write in (to_json, to_text):
        with pytest.raises(InvalidFilter, match="levels deep"):
            write(deep)


def test_depth_that_is_accepted() -> None:
    assert prepare(alternating(15), FIELDS).matches({"year": 0, "price": 14.0})
    assert prepare(negated(50), FIELDS) == (F("year") == 0)
    assert prepare(negated(51), FIELDS) == (F("year") != 0)


@pytest.mark.parametrize("depth", [60, 20_000])
def test_deep_text(depth: int) -> None:
    with pytest.raises(InvalidFilter, match="nested more than"):
        prepare("(" * depth + "year == 1" + ")" * depth, FIELDS)
    with pytest.raises(InvalidFilter):
        prepare("(" * depth, FIELDS)
    assert prepare("not " * depth + "year == 1", FIELDS) == prepare("year == 1", FIELDS)
    many = " or ".join(f"year == {i}" for i in range(depth // 10))
    assert prepare(many, FIELDS).matches({"year": 5}) and not prepare(many, FIELDS).matches({"year": -1})


@pytest.mark.parametrize("outer", ["$not", "$and", "$or", "$nor", "field"])
@pytest.mark.parametrize("depth", [60, 20_000])
def test_deep_json(outer: str, depth: int) -> None:
    form: Any = {"$eq": 1} if outer == "field" else {"year": 1}
    for _ in range(depth):
        form = {"$not": form} if outer in ("$not", "field") else {outer: [form, {"year": 2}]}
    with pytest.raises(InvalidFilter, match="nested"):
        prepare({"year": form} if outer == "field" else form, FIELDS)


def test_deep_values() -> None:
    value: Any = []
    for _ in range(20_000):
        value = [value]
    for form in (F("year") == value, {"year": {"$eq": value}}, {"year": {"$in": [value]}}, {"$and": [value]}, value):
        with pytest.raises(InvalidFilter):
            prepare(form, FIELDS)


def test_nodes_that_are_no_conditions() -> None:
    for tree in (And((F("year") == 1, True)), Or((None,)), Not("year == 1"), And((F("year"),)), Filter()):  # type: ignore[arg-type]
        with pytest.raises(InvalidFilter, match="no condition"):
            prepare(tree, FIELDS)
    with pytest.raises(InvalidFilter, match="takes a list"):
        prepare(Comparison("year", Operator.IN, 5), FIELDS)
    with pytest.raises(InvalidFilter, match="two values"):
        prepare(Comparison("year", Operator.BETWEEN, (1, 2, 3)), FIELDS)
