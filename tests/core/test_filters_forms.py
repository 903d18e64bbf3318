"""The three forms of a filter mean the same, and each example has metadata that matches and metadata that does not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from shelflist.core.errors import InvalidFilter
from shelflist.core.fields import Fields
from shelflist.core.filters import (
    And,
    F,
    Filter,
    check,
    from_json,
    from_text,
    normalise,
    parse_filter,
    prepare,
    to_json,
    to_text,
)

FIELDS = Fields(
    {"page": int, "price": float, "public": bool, "title": str, "tags": list[str], "updated": "datetime", "in": str}
)
NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)
NOON = "2024-01-01T12:00:00+00:00"

EXAMPLES: list[tuple[Filter, dict[str, Any], str, dict[str, Any], dict[str, Any]]] = [
    (F("page") == 3, {"page": 3}, "page == 3", {"page": 3}, {"page": 4}),
    (F("page") == 3, {"page": {"$eq": 3}}, "page = 3", {"page": 3}, {}),
    (F("page") != 3, {"page": {"$ne": 3}}, "page != 3", {}, {"page": 3}),
    (F("page") != 3, {"page": {"$ne": 3}}, "page <> 3", {"page": 4}, {"page": 3}),
    (F("page") < 3, {"page": {"$lt": 3}}, "page < 3", {"page": 2}, {"page": 3}),
    (F("page") <= 3, {"page": {"$lte": 3}}, "page <= 3", {"page": 3}, {"page": 4}),
    (F("page") > 3, {"page": {"$gt": 3}}, "page > 3", {"page": 4}, {"page": 3}),
    (F("page") >= 3, {"page": {"$gte": 3}}, "page >= 3", {"page": 3}, {"page": None}),
    (F("page") < 3, {"page": {"$lt": 3}}, "3 > page", {"page": 2}, {"page": 3}),
    (F("page") >= -3, {"page": {"$gte": -3}}, "-3 <= page", {"page": -3}, {"page": -4}),
    (F("page").is_in([1, 2]), {"page": {"$in": [1, 2]}}, "page in (1, 2)", {"page": 2}, {"page": 3}),
    (F("page").is_in(range(2)), {"page": {"$in": (0, 1)}}, "page in [0, 1,]", {"page": 0}, {}),
    (F("page").is_in([]) | (F("page") == 1), {"$or": [{"page": {"$in": []}}, {"page": 1}]}, "page in () or page == 1",
        {"page": 1}, {"page": 2}),
    (F("page").not_in([1, 2]), {"page": {"$nin": [1, 2]}}, "page not in [1, 2]", {}, {"page": 1}),
    (F("page").between(1, 5), {"page": {"$between": [1, 5]}}, "page between 1 and 5", {"page": 5}, {"page": 6}),
    (~F("page").between(1, 5), {"page": {"$not": {"$between": [1, 5]}}}, "page not between 1 and 5", {}, {"page": 1}),
    (F("price") > 1, {"price": {"$gt": 1}}, "price > 1", {"price": 1.5}, {"price": 1.0}),
    (F("price") == 0.1 + 0.2, {"price": 0.1 + 0.2}, "price == 0.30000000000000004", {"price": 0.1 + 0.2}, {"price": 0.3}),
    (F("price") < -1e300, {"price": {"$lt": -1e300}}, "price < -1e300", {"price": -1.1e300}, {"price": -1e299}),
    (F("price") == 0.5, {"price": 0.5}, "price == .5", {"price": 0.5}, {"price": 5.0}),
    (F("public") == True, {"public": True}, "public == true", {"public": True}, {"public": False}),  # noqa: E712
    (F("public") != True, {"public": {"$ne": True}}, "public != TRUE", {}, {"public": True}),  # noqa: E712
    (F("title") == "it's", {"title": "it's"}, "title == 'it\\'s'", {"title": "it's"}, {"title": "its"}),
    (F("title") == 'say "hi"\n\\', {"title": 'say "hi"\n\\'}, r'title == "say \"hi\"\n\\"', {"title": 'say "hi"\n\\'},
        {"title": "say hi"}),
    (F("title") == "é€😀", {"title": "é€😀"}, r'title == "\u00e9\u20ac😀"', {"title": "é€😀"}, {"title": "e€😀"}),
    (F("title").starts_with("Key"), {"title": {"$startsWith": "Key"}}, 'title starts with "Key"',
        {"title": "Keys"}, {"title": "keys"}),
    (~F("title").starts_with("Key"), {"$not": {"title": {"$startsWith": "Key"}}}, 'title not starts with "Key"',
        {}, {"title": "Key"}),
    (F("tags").contains("api"), {"tags": {"$contains": "api"}}, 'tags contains "api"', {"tags": ["b", "api"]},
        {"tags": ["apis"]}),
    (F("tags").contains("api"), {"tags": "api"}, '"api" in tags', {"tags": ["api"]}, {"tags": []}),
    (~F("tags").contains("api"), {"tags": {"$ne": "api"}}, '"api" not in tags', {"tags": []}, {"tags": ["api"]}),
    (~F("tags").contains("api"), {"$nor": [{"tags": "api"}]}, 'tags not contains "api"', {}, {"tags": ["api"]}),
    (F("tags").is_in({"a", "b"}), {"tags": {"$in": ["a", "b"]}}, 'tags in ("a", "b")', {"tags": ["b", "c"]},
        {"tags": ["c"]}),
    (F("title").exists(), {"title": {"$exists": True}}, "exists(title)", {"title": ""}, {"title": None}),
    (F("tags").exists(), {"tags": {"$exists": True}}, "tags exists", {"tags": []}, {}),
    (~F("title").exists(), {"title": {"$exists": False}}, "not exists(title)", {}, {"title": ""}),
    (~F("title").exists(), {"$not": {"title": {"$exists": True}}}, "title not exists", {"title": None}, {"title": "a"}),
    (F("updated") > NEW_YEAR, {"updated": {"$gt": "2024-01-01T01:00:00+01:00"}}, 'updated > "2024-01-01T00:00:00Z"',
        {"updated": NOON}, {"updated": "2023-12-31T23:59:59.999999+00:00"}),
    (F("in") == "a", {"in": "a"}, '`in` == "a"', {"in": "a"}, {"in": "b"}),
    ((F("page") < 3) & F("tags").contains("a"), {"page": {"$lt": 3}, "tags": "a"}, 'page < 3 and "a" in tags',
        {"page": 1, "tags": ["a"]}, {"page": 1, "tags": ["b"]}),
    ((F("page") > 1) & (F("page") < 3), {"page": {"$gt": 1, "$lt": 3}}, "page > 1 AND page < 3",
        {"page": 2}, {"page": 3}),
    ((F("page") == 1) | (F("page") == 2) & (F("title") == "a"),
        {"$or": [{"page": 1}, {"$and": [{"page": 2}, {"title": "a"}]}]}, 'page == 1 or page == 2 and title == "a"',
        {"page": 1}, {"page": 2}),
    (((F("page") == 1) | (F("page") == 2)) & (F("title") == "a"),
        {"$or": [{"page": 1}, {"page": 2}], "title": "a"}, '(page == 1 or page == 2) and title == "a"',
        {"page": 2, "title": "a"}, {"page": 1}),
    (~(F("page") == 1) & (F("title") == "a"), {"$not": {"page": 1}, "title": "a"}, 'not page == 1 and title == "a"',
        {"page": 2, "title": "a"}, {"page": 2, "title": "b"}),
    (~((F("page") == 1) & (F("title") == "a")), {"$not": {"page": 1, "title": "a"}},
        'not (page == 1 and title == "a")', {"page": 1}, {"page": 1, "title": "a"}),
    (~~(F("page") == 1), {"$not": {"$not": {"page": 1}}}, "not not page == 1", {"page": 1}, {"page": 2}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("built", "form", "text", "match", "other"), EXAMPLES, ids=[f"{i} {e[2]}" for i, e in enumerate(EXAMPLES)]
)
def test_three_forms_one_meaning(
    built: Filter, form: dict[str, Any], text: str, match: dict[str, Any], other: dict[str, Any]
) -> None:
    match, other = FIELDS.stored(match), FIELDS.stored(other)
    for value in (built, form, text):
        prepared = prepare(value, FIELDS)
        assert prepared.matches(match), value
        assert not prepared.matches(other), value
        checked = check(parse_filter(value), FIELDS)
        assert checked.matches(match) and not checked.matches(other)


@pytest.mark.parametrize("built", [example[0] for example in EXAMPLES], ids=[example[2] for example in EXAMPLES])
def test_there_and_back(built: Filter) -> None:
    wanted = prepare(built, FIELDS)
    for source in (built, check(built, FIELDS), wanted):
        through_json = json.loads(json.dumps(to_json(source, FIELDS)))
        assert prepare(through_json, FIELDS) == wanted
        assert prepare(to_text(source, FIELDS), FIELDS) == wanted


def test_text_is_written_the_way_people_write_it() -> None:
    where = (F("page") < 10) & (F("tags").contains("api") | ~(F("title") == "a\tb")) & F("page").is_in([1, 2])
    assert to_text(where) == 'page < 10 and (tags contains "api" or not (title == "a\\tb")) and page in (1, 2)'
    assert to_json(where) == {
        "$and": [
            {"page": {"$lt": 10}},
            {"$or": [{"tags": {"$contains": "api"}}, {"$not": {"title": {"$eq": "a\tb"}}}]},
            {"page": {"$in": [1, 2]}},
        ]
    }


def test_datetimes_are_written_as_iso_text() -> None:
    where = F("updated") >= NEW_YEAR
    shown = "2024-01-01T00:00:00+00:00"
    assert to_json(where) == {"updated": {"$gte": shown}}
    assert to_text(check(where, FIELDS), FIELDS) == f'updated >= "{shown}"'
    assert to_json(check(where, FIELDS)) == {"updated": {"$gte": 1_704_067_200_000_000}}


@pytest.mark.parametrize(
    "name", ["and", "Or", "NOT", "in", "true", "null", "a`b", "two words", "exists", "contains", "日本"]
)
def test_any_field_name_can_be_written(name: str) -> None:
    for where in (F(name) == "x", F(name).exists(), F(name).contains("x"), F(name).between("a", "b")):
        assert from_text(to_text(where)) == where
        assert from_json(to_json(where)) == where


def test_thousands_of_conditions_joined_one_by_one() -> None:
    where: Filter = F("page") == 0
    for i in range(1, 5_000):
        where = where | (F("page") == i)
    prepared = prepare(where, FIELDS)
    assert prepared.matches({"page": 4_999}) and not prepared.matches({"page": 5_000})
    assert prepare(to_text(where), FIELDS) == prepared == prepare(to_json(where), FIELDS)


def test_none_is_no_filter() -> None:
    assert parse_filter(None) is None
    assert prepare(None, FIELDS) is None


def test_a_filter_stays_what_it_is() -> None:
    where = F("page") == 1
    assert parse_filter(where) is where


@pytest.mark.parametrize("value", [F("page"), 3, ["page"], b"page == 3", True])
def test_what_is_no_filter_is_refused(value: Any) -> None:
    with pytest.raises(InvalidFilter, match=r"page|F, or is a JSON object or text"):
        parse_filter(value)


def test_a_filter_without_parts_has_no_written_form() -> None:
    for write in (to_json, to_text):
        with pytest.raises(InvalidFilter, match="without conditions"):
            write(And(()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", object()])
def test_a_value_without_text_form_is_refused(value: Any) -> None:
    with pytest.raises(InvalidFilter, match="no text form"):
        to_text(F("page") == value)


def test_python_mistakes_are_refused() -> None:
    with pytest.raises(TypeError, match="contains"):
        "api" in F("tags")  # noqa: B015
    with pytest.raises(TypeError, match="no truth value"):
        1 < F("page") < 3  # noqa: B015
    with pytest.raises(TypeError, match="not yet a condition"):
        F("page") or F("title")
    with pytest.raises(InvalidFilter, match="several values"):
        F("title").is_in("abc")
    with pytest.raises(InvalidFilter, match="several values"):
        F("page").not_in(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidFilter, match="name of a field"):
        F(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unhashable"):
        hash(F("page"))


def test_normalised_forms_are_equal() -> None:
    assert (
        len({normalise(check(parse_filter(form), FIELDS)) for form in ("page == 3", {"page": 3}, F("page") == 3)}) == 1
    )
