"""Three forms, one meaning: what F, JSON and text say alike, for every operator on every type of field."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from shelflist.core.errors import InvalidFilter
from shelflist.core.fields import Fields
from shelflist.core.filters import (
    And,
    Comparison,
    F,
    Filter,
    Not,
    Operator,
    Or,
    from_json,
    from_text,
    normalise,
    parse_filter,
    prepare,
    to_json,
    to_text,
)
from shelflist.core.filters.check import OPERATORS_OF

FIELDS = Fields({"title": str, "year": int, "price": float, "public": bool, "updated": datetime, "tags": list[str]})
T0, T1, T2 = (datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3))
I0, I1, I2 = (time.isoformat() for time in (T0, T1, T2))
PLUS_2 = timezone(timedelta(hours=2))

Row = tuple[Filter, dict[str, Any], str, dict[str, Any], dict[str, Any]]
# F, JSON, text, a metadata that matches, one that does not
TABLE: list[Row] = [
    # str
    (F("title") == "a", {"title": "a"}, 'title == "a"', {"title": "a"}, {"title": "A"}),
    (F("title") == "a", {"title": {"$eq": "a"}}, "title = 'a'", {"title": "a"}, {"title": "a "}),
    (F("title") == "", {"title": ""}, 'title == ""', {"title": ""}, {"title": None}),
    (F("title") != "a", {"title": {"$ne": "a"}}, 'title != "a"', {}, {"title": "a"}),
    (F("title") != "a", {"title": {"$ne": "a"}}, 'title <> "a"', {"title": "b"}, {"title": "a"}),
    (F("title") < "b", {"title": {"$lt": "b"}}, 'title < "b"', {"title": "a~"}, {"title": "b"}),
    (F("title") < "😀", {"title": {"$lt": "😀"}}, 'title < "😀"', {"title": "\uffee"}, {"title": "😀"}),
    (F("title") <= "b", {"title": {"$lte": "b"}}, 'title <= "b"', {"title": "b"}, {"title": "b "}),
    (F("title") > "b", {"title": {"$gt": "b"}}, 'title > "b"', {"title": "b "}, {"title": "b"}),
    (F("title") >= "b", {"title": {"$gte": "b"}}, 'title >= "b"', {"title": "b"}, {"title": "B"}),
    (F("title").is_in(["a", "b"]), {"title": {"$in": ["a", "b"]}}, 'title in ("a", "b")', {"title": "b"}, {}),
    (F("title").is_in(["a", "b"]), {"title": {"$in": ["b", "a"]}}, 'title in ["a", "b",]', {"title": "a"}, {"title": "c"}),
    (F("title").not_in(["a"]), {"title": {"$nin": ["a"]}}, 'title not in ("a")', {}, {"title": "a"}),
    (F("title").not_in({"a", "b"}), {"title": {"$nin": ["a", "b"]}}, 'title NOT IN ("b", "a")', {"title": "c"}, {"title": "b"}),
    (F("title").between("b", "d"), {"title": {"$between": ["b", "d"]}}, 'title between "b" and "d"', {"title": "d"}, {"title": "da"}),
    (F("title").starts_with("ab"), {"title": {"$startsWith": "ab"}}, 'title starts with "ab"', {"title": "abc"}, {"title": "ABc"}),
    (F("title").starts_with("%"), {"title": {"$startsWith": "%"}}, 'title starts with "%"', {"title": "%a"}, {"title": "a"}),
    (F("title").starts_with(""), {"title": {"$startsWith": ""}}, 'title starts with ""', {"title": ""}, {}),
    (F("title").exists(), {"title": {"$exists": True}}, "exists(title)", {"title": ""}, {"title": None}),
    (~F("title").exists(), {"title": {"$exists": False}}, "not exists(title)", {}, {"title": ""}),
    (F("title") == 'say "hi"', {"title": 'say "hi"'}, r'title == "say \"hi\""', {"title": 'say "hi"'}, {"title": "say hi"}),
    (F("title") == "it's", {"title": "it's"}, 'title == "it\'s"', {"title": "it's"}, {"title": "its"}),
    (F("title") == "a\\b", {"title": "a\\b"}, r'title == "a\\b"', {"title": "a\\b"}, {"title": "a\b"}),
    (F("title") == "a\n\0é", {"title": "a\n\0é"}, r'title == "a\n\0\u00e9"', {"title": "a\n\0é"}, {"title": "a\n"}),
    (F("title") == "1", {"title": "1"}, 'title == "1"', {"title": "1"}, {"title": "1.0"}),
    (F("title") == "true", {"title": "true"}, '"true" == title', {"title": "true"}, {"title": "True"}),
    # int
    (F("year") == 2020, {"year": 2020}, "year == 2020", {"year": 2020}, {"year": 2021}),
    (F("year") == -5, {"year": -5}, "year == -5", {"year": -5}, {"year": 5}),
    (F("year") != 0, {"year": {"$ne": 0}}, "year != 0", {}, {"year": 0}),
    (F("year") < 10, {"year": {"$lt": 10}}, "year<10", {"year": 9}, {"year": 10}),
    (F("year") < 10, {"year": {"$lt": 10}}, "10 > year", {"year": -10}, {}),
    (F("year") <= 10, {"year": {"$lte": 10}}, "10 >= year", {"year": 10}, {"year": 11}),
    (F("year") > 10, {"year": {"$gt": 10}}, "10 < year", {"year": 11}, {"year": 10}),
    (F("year") >= 10, {"year": {"$gte": 10}}, "year >= 10", {"year": 10}, {"year": 9}),
    (F("year") >= 10, {"year": {"$gte": 10}}, "10 <= year", {"year": 10}, {"year": 9}),
    (F("year") != 10, {"year": {"$ne": 10}}, "10 != year", {}, {"year": 10}),
    (F("year") == 2**53, {"year": 2**53}, "year == 9007199254740992", {"year": 2**53}, {"year": 2**53 - 1}),
    (F("year").is_in(range(3)), {"year": {"$in": [0, 1, 2]}}, "year in (2, 1, 0)", {"year": 0}, {"year": 3}),
    (F("year").not_in([1, 2]), {"year": {"$nin": [1, 2]}}, "not year in (1, 2)", {"year": 3}, {"year": 2}),
    (F("year").between(1, 3), {"year": {"$between": [1, 3]}}, "year between 1 and 3", {"year": 1}, {"year": 0}),
    (~F("year").between(1, 3), {"$not": {"year": {"$between": [1, 3]}}}, "year not between 1 and 3", {}, {"year": 3}),
    (F("year").exists(), {"year": {"$exists": True}}, "year exists", {"year": 0}, {}),
    # float
    (F("price") == 9.5, {"price": 9.5}, "price == 9.5", {"price": 9.5}, {"price": 9.25}),
    (F("price") == 1, {"price": 1}, "price == 1", {"price": 1.0}, {"price": 1.5}),
    (F("price") == 1.0, {"price": 1.0}, "price == 1.", {"price": 1}, {"price": 2}),
    (F("price") == 0, {"price": -0.0}, "price == -0.0", {"price": 0.0}, {"price": 1e-300}),
    (F("price") != 0.3, {"price": {"$ne": 0.3}}, "price != .3", {"price": 0.1 + 0.2}, {"price": 0.3}),
    (F("price") < 1e3, {"price": {"$lt": 1000}}, "price < 1e3", {"price": 999.9}, {"price": 1000}),
    (F("price") <= 0.1, {"price": {"$lte": 0.1}}, "price <= 1E-1", {"price": 0.1}, {"price": 0.2}),
    (F("price") > -1.5, {"price": {"$gt": -1.5}}, "price > -1.5", {"price": -1}, {"price": -1.5}),
    (F("price") >= 2, {"price": {"$gte": 2}}, "price >= 2", {"price": 2.0}, {"price": 1.999}),
    (F("price").is_in([1, 2.5]), {"price": {"$in": [1.0, 2.5]}}, "price in (1, 2.5)", {"price": 1}, {"price": 2}),
    (F("price").not_in([1, 2.5]), {"price": {"$nin": [1, 2.5]}}, "price not in (1, 2.5)", {}, {"price": 1}),
    (F("price").between(0, 1), {"price": {"$between": [0, 1]}}, "price between 0 and 1", {"price": 1}, {"price": 1.01}),
    (F("price").exists(), {"price": {"$exists": True}}, "EXISTS (price)", {"price": 0}, {"price": None}),
    # bool
    (F("public") == True, {"public": True}, "public == true", {"public": True}, {"public": False}),  # noqa: E712
    (F("public") == False, {"public": False}, "public = FALSE", {"public": False}, {}),  # noqa: E712
    (F("public") != True, {"public": {"$ne": True}}, "public != true", {}, {"public": True}),  # noqa: E712
    (F("public").is_in([True, False]), {"public": {"$in": [True, False]}}, "public in (true, false)", {"public": False}, {}),
    (F("public").not_in([True]), {"public": {"$nin": [True]}}, "public not in (true)", {"public": False}, {"public": True}),
    (F("public").exists(), {"public": {"$exists": True}}, "exists(public)", {"public": False}, {}),
    # datetime
    (F("updated") == T1, {"updated": I1}, f'updated == "{I1}"', {"updated": T1.astimezone(PLUS_2)}, {"updated": T0}),
    (F("updated") == T1, {"updated": "2024-01-02T02:00:00+02:00"}, 'updated == "2024-01-02T00:00Z"', {"updated": T1}, {"updated": T1 + timedelta(microseconds=1)}),
    (F("updated") != T1, {"updated": {"$ne": I1}}, f'updated != "{I1}"', {}, {"updated": T1}),
    (F("updated") < T1, {"updated": {"$lt": I1}}, f'updated < "{I1}"', {"updated": T1 - timedelta(microseconds=1)}, {"updated": T1}),
    (F("updated") <= T1, {"updated": {"$lte": I1}}, f'updated <= "{I1}"', {"updated": T1}, {"updated": T2}),
    (F("updated") > T1, {"updated": {"$gt": I1}}, f'updated > "{I1}"', {"updated": T2}, {"updated": T1}),
    (F("updated") >= T1, {"updated": {"$gte": I1}}, f'updated >= "{I1}"', {"updated": T1}, {"updated": T0}),
    (F("updated").is_in([T0, T1]), {"updated": {"$in": [I0, I1]}}, f'updated in ("{I1}", "{I0}")', {"updated": T0}, {"updated": T2}),
    (F("updated").not_in([T0, T1]), {"updated": {"$nin": [I0, I1]}}, f'updated not in ("{I1}", "{I0}")', {"updated": T2}, {"updated": T0}),
    (F("updated").between(T0, T1), {"updated": {"$between": [I0, I1]}}, f'updated between "{I0}" and "{I1}"', {"updated": T1}, {"updated": T2}),
    (F("updated").exists(), {"updated": {"$exists": True}}, "exists(updated)", {"updated": T0}, {"updated": None}),
    # list[str]
    (F("tags").contains("a"), {"tags": {"$contains": "a"}}, '"a" in tags', {"tags": ["b", "a"]}, {"tags": ["ab"]}),
    (F("tags").contains("a"), {"tags": {"$contains": "a"}}, 'tags contains "a"', {"tags": ["a"]}, {"tags": []}),
    (~F("tags").contains("a"), {"$not": {"tags": {"$contains": "a"}}}, '"a" not in tags', {}, {"tags": ["a"]}),
    (~F("tags").contains("a"), {"tags": {"$not": {"$contains": "a"}}}, 'tags not contains "a"', {"tags": []}, {"tags": ["a", "b"]}),
    (F("tags") == "a", {"tags": "a"}, 'tags == "a"', {"tags": ["b", "a"]}, {"tags": ["A"]}),
    (F("tags") != "a", {"tags": {"$ne": "a"}}, 'tags != "a"', {"tags": ["b"]}, {"tags": ["b", "a"]}),
    (F("tags").is_in(["a", "b"]), {"tags": {"$in": ["a", "b"]}}, 'tags in ("a", "b")', {"tags": ["c", "b"]}, {"tags": ["c"]}),
    (F("tags").not_in(["a", "b"]), {"tags": {"$nin": ["a", "b"]}}, 'tags not in ("a", "b")', {"tags": []}, {"tags": ["c", "b"]}),
    (F("tags").exists(), {"tags": {"$exists": True}}, "exists(tags)", {"tags": []}, {"tags": None}),
    # and, or, not
    ((F("year") < 10) & (F("title") == "a"), {"year": {"$lt": 10}, "title": "a"}, 'year < 10 and title == "a"', {"year": 9, "title": "a"}, {"year": 9}),
    ((F("year") > 1) & (F("year") < 5), {"year": {"$gt": 1, "$lt": 5}}, "year > 1 AND year < 5", {"year": 2}, {"year": 5}),
    ((F("year") < 0) | (F("title") == "a"), {"$or": [{"year": {"$lt": 0}}, {"title": "a"}]}, 'year < 0 or title == "a"', {"title": "a"}, {"year": 0}),
    (~((F("year") < 0) | (F("title") == "a")), {"$nor": [{"year": {"$lt": 0}}, {"title": "a"}]}, 'not (year < 0 or title == "a")', {}, {"title": "a"}),
    (~(F("year") < 0), {"$not": {"year": {"$lt": 0}}}, "not year < 0", {}, {"year": -1}),
    (~~(F("year") < 0), {"$not": {"$not": {"year": {"$lt": 0}}}}, "not not year < 0", {"year": -1}, {}),
    (
        (F("year") == 1) | (F("year") == 2) & (F("public") == True),  # noqa: E712
        {"$or": [{"year": 1}, {"$and": [{"year": 2}, {"public": True}]}]},
        "year == 1 or year == 2 and public == true",
        {"year": 1},
        {"year": 2},
    ),
    (
        ((F("year") == 1) | (F("year") == 2)) & (F("public") == True),  # noqa: E712
        {"$or": [{"year": 1}, {"year": 2}], "public": True},
        "(year == 1 or year == 2) and (public == true)",
        {"year": 2, "public": True},
        {"year": 1},
    ),
    (
        ~(F("year") == 1) & (F("public") == True),  # noqa: E712
        {"$and": [{"$not": {"year": 1}}, {"public": True}]},
        "not year == 1 and public == true",
        {"public": True},
        {"year": 1, "public": False},
    ),
    (
        F("year").between(1, 3) & F("price").between(0, 1),
        {"year": {"$between": [1, 3]}, "price": {"$between": [0, 1]}},
        "year between 1 and 3 and price between 0 and 1",
        {"year": 3, "price": 0},
        {"year": 3, "price": 2},
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[2])
def test_three_forms_mean_the_same(row: Row) -> None:
    built, as_json, as_text, match, miss = row
    wanted = prepare(built, FIELDS)
    assert prepare(json.loads(json.dumps(as_json)), FIELDS) == wanted
    assert prepare(as_json, FIELDS) == wanted
    assert prepare(as_text, FIELDS) == wanted
    assert wanted.matches(FIELDS.stored(match))
    assert not wanted.matches(FIELDS.stored(miss))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[2])
def test_written_forms_are_read_again(row: Row) -> None:
    wanted = prepare(row[0], FIELDS)
    for tree in (row[0], wanted):  # as built, and as checked: a checked datetime is a number
        assert prepare(json.loads(json.dumps(to_json(tree, FIELDS))), FIELDS) == wanted
        assert prepare(to_text(tree, FIELDS), FIELDS) == wanted


def test_the_table_has_every_operator_of_every_type() -> None:
    asked = set()

    def visit(tree: Any) -> None:
        for part in getattr(tree, "parts", ()):
            visit(part)
        if isinstance(tree, Not):
            visit(tree.part)
        if isinstance(tree, Comparison):
            asked.add((FIELDS[tree.field], tree.operator))

    for row in TABLE:
        visit(row[0])
    assert asked == {(kind, operator) for kind, operators in OPERATORS_OF.items() for operator in operators}


def test_empty_in_matches_nothing_and_empty_not_in_everything() -> None:
    for nothing in (F("year").is_in([]), {"year": {"$in": []}}, "year in ()", "year in []", {"tags": {"$in": []}}):
        assert prepare(nothing, FIELDS) == Or(())
        assert not prepare(nothing, FIELDS).matches({"year": 1, "tags": ["a"]})
    for everything in (F("year").not_in([]), {"year": {"$nin": []}}, "year not in ()", "not year in ()"):
        assert prepare(everything, FIELDS) == And(())
        assert prepare(everything, FIELDS).matches({})


def test_between_in_the_wrong_order_matches_nothing() -> None:
    for form in (F("year").between(3, 1), {"year": {"$between": [3, 1]}}, "year between 3 and 1"):
        assert not any(prepare(form, FIELDS).matches({"year": year}) for year in range(5))


def test_no_filter_stays_none() -> None:
    assert parse_filter(None) is None
    assert prepare(None, FIELDS) is None


def test_a_filter_is_parsed_once() -> None:
    tree = F("year") == 1
    assert parse_filter(tree) is tree
    assert parse_filter({"year": 1}) == parse_filter("year == 1") == tree


def test_values_that_cross_python_types() -> None:
    """numpy's numbers are numbers; a subclass of str is text; neither is altered."""
    np = pytest.importorskip("numpy")
    assert prepare(F("year") == np.int64(7), FIELDS) == prepare(F("year") == 7, FIELDS)
    assert prepare(F("price") == np.float32(0.5), FIELDS) == prepare(F("price") == 0.5, FIELDS)
    assert prepare(F("price") < np.int32(7), FIELDS) == prepare(F("price") < 7, FIELDS)
    assert prepare(F("public") == np.bool_(True), FIELDS) == prepare(F("public") == True, FIELDS)  # noqa: E712
    assert prepare(F("title") == np.str_("a"), FIELDS) == prepare(F("title") == "a", FIELDS)
    assert type(prepare(F("year") == np.int64(7), FIELDS).value) is int
    assert type(prepare(F("title") == np.str_("a"), FIELDS).value) is str


@pytest.mark.parametrize(
    "word", ["and", "OR", "Not", "in", "true", "null", "none", "between", "contains", "starts", "with", "exists", "été"]
)
def test_fields_named_like_words_of_the_language(word: str) -> None:
    fields = Fields({word: str, "tags": list[str]})
    for tree in (
        F(word) == "x",
        F(word).exists(),
        ~F(word).exists(),
        F(word).is_in(["x", "y"]),
        F(word).between("a", "z"),
        F(word).starts_with("x") & F("tags").contains("with"),
        Not(F(word).starts_with("x")) | (F(word) < "x"),
    ):
        assert prepare(to_text(tree), fields) == prepare(tree, fields)
        assert prepare(to_json(tree), fields) == prepare(tree, fields)
    assert prepare(f'`{word}` == "x"', fields) == prepare(F(word) == "x", fields)
    assert prepare(f'"x" == `{word}`', fields).matches({word: "x"})
    assert not prepare(f'"x" == `{word}`', fields).matches({word: "y"})


def test_text_over_several_lines() -> None:
    assert from_text("year > 1\n  and\tyear < 5\r\n") == from_text("year > 1 and year < 5")


def test_text_has_only_the_operators_it_needs() -> None:
    """Parentheses stand only where they change the meaning."""
    tree = prepare("(year == 1 or year == 2) and not (public == true) and (title == 'a' and price < 2)", FIELDS)
    assert to_text(tree, FIELDS) == 'price < 2.0 and public != true and title == "a" and (year == 1 or year == 2)'
    assert to_text(prepare("not year < 1", FIELDS)) in ("not year < 1", "not (year < 1)")


def test_nothing_and_everything_have_forms_or_say_so() -> None:
    """What normalises to no parts at all has a form only as it was written."""
    for tree in (F("year").is_in([]), F("year").not_in([])):
        assert normalise(from_text(to_text(tree))) == normalise(tree)
        assert normalise(from_json(to_json(tree))) == normalise(tree)


def test_operators_have_the_names_of_the_text_form() -> None:
    assert [operator.value for operator in Operator] == [
        "==", "!=", "<", "<=", ">", ">=", "in", "not in", "between", "contains", "starts with", "exists",
    ]  # fmt: skip


def test_filters_show_themselves() -> None:
    assert repr(F("year")) == "F('year')"
    assert "year" in repr(F("year") < 10) and "10" in repr(F("year") < 10)


def test_json_as_text_is_json() -> None:
    """As a shell passes it."""
    wanted = prepare({"year": {"$lt": 2024}, "title": "a"}, FIELDS)
    assert prepare(' {"year": {"$lt": 2024}, "title": "a"}', FIELDS) == wanted
    assert prepare('{"year": {"$lt": 2023}, "title": "a"}', FIELDS) != wanted
    for text in ('{"year": ', "{year: 3}", "{}x"):
        with pytest.raises(InvalidFilter, match="begins like JSON and is not valid"):
            prepare(text, FIELDS)
