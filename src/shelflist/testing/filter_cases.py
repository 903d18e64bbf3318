"""A table of awkward metadata, and filters of which each has a match and a non-match in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from shelflist.core.capabilities import Capabilities
from shelflist.core.fields import Fields
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or

FIELDS = Fields(
    {"title": str, "code": str, "year": int, "price": float, "public": bool, "updated": "datetime", "tags": "list[str]"}
)

NEW_YEAR = datetime(2024, 1, 1, tzinfo=UTC)
PARIS, NEW_YORK, KATHMANDU = (timezone(timedelta(minutes=m)) for m in (60, -300, 345))

TITLES = [
    "alpha", "Alpha", "ALPHA", "alphabet", "alpha ", " alpha", "alpha beta", "alpha  beta", "beta", "", " ",
    "1", "1.0", "01", "True", "true", "null", "None", "NaN", "[]", "2024-01-01T00:00:00+00:00",
    "it's", 'say "hi"', "back\\slash", "back\\\\slash", "'; DROP TABLE points; --", "100%", "100 %", "100",
    "a_b", "axb", "a%b", "a*b",
    "a?b", "[ab]", "a.b", "a:b", "a|b", "a,b", "a&b", "<b>", "{a}", "$a", "@a", "line\nbreak", "tab\tstop",
    "ärger", "a\u0308rger", "Ärger", "straße", "strasse", "İstanbul", "istanbul", "日本語", "\uffee", "😀",
    "😀😁", "👩‍👩‍👧", "é" * 300,
]  # fmt: skip
YEARS = [2020, 2021, 1999, 1, 0, -1, -5, 2**31 - 1, 2**31, 2**32, -(2**31) - 1, 2**53, 2**53 - 1, -(2**53)]
PRICES = [9.5, 1.0, 1, 0.0, -0.0, -0.5, 0.1, 0.3, 0.1 + 0.2, 1e-300, -1e300, 1e300, 2.0**53, 16777217.0, 2**53]
TIMES = [
    NEW_YEAR,
    datetime(2024, 1, 1, 1, tzinfo=PARIS),
    datetime(2023, 12, 31, 19, tzinfo=NEW_YORK),
    datetime(2024, 1, 1, tzinfo=PARIS),
    datetime(2024, 1, 1, tzinfo=KATHMANDU),
    NEW_YEAR + timedelta(microseconds=1),
    NEW_YEAR - timedelta(microseconds=1),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 30, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
]
TAGS: list[list[str]] = [
    [], ["api"], ["api", "guide"], ["guide", "api"], ["guide"], ["API"], ["ap"], ["apis"], ["api,guide"],
    ["api guide"], ["api", "api"],
    [""], ["it's", 'say "hi"'], ["😀"], ["100%", "a_b"], ["axb"], ["1"], ["[\"api\"]"], ["null"], ["a\\b"],
    [f"t{i}" for i in range(200)],
]  # fmt: skip

ROWS: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "all null": dict.fromkeys(FIELDS),
    "everything": {
        "title": "alpha", "code": "A-1", "year": 2020, "price": 9.5, "public": True, "updated": NEW_YEAR,
        "tags": ["api", "guide"],
    },
    "one in each type": {"title": "1", "code": "1", "year": 1, "price": 1.0, "public": True, "tags": ["1"]},
    "zero in each type": {"title": "0", "code": "", "year": 0, "price": 0.0, "public": False, "tags": []},
    "swapped": {"title": "A-1", "code": "alpha", "year": 9, "price": 2020.0, "public": False, "tags": ["alpha"]},
    "undeclared keys": {"title": "beta", "Title": "alpha", "titles": "alpha", "yea": 2020,
        "nested": {"title": "alpha", "year": 2020}},
    "public only": {"public": True},
    "private only": {"public": False},
    "public null": {"public": None, "title": "alpha", "tags": ["guide"]},
    **{f"title {i}": {"title": title, "code": f"c{i}"} for i, title in enumerate(TITLES)},
    **{f"year {i}": {"year": year} for i, year in enumerate(YEARS)},
    **{f"price {i}": {"price": price} for i, price in enumerate(PRICES)},
    **{f"time {i}": {"updated": time} for i, time in enumerate(TIMES)},
    **{f"tags {i}": {"tags": tags} for i, tags in enumerate(TAGS)},
}  # fmt: skip
"""Metadata as users give it, by the name of the point."""

EQ, NE, IN, NOT_IN = Operator.EQ, Operator.NE, Operator.IN, Operator.NOT_IN
LT, LE, GT, GE, BETWEEN = Operator.LT, Operator.LE, Operator.GT, Operator.GE, Operator.BETWEEN
CONTAINS, STARTS_WITH, EXISTS = Operator.CONTAINS, Operator.STARTS_WITH, Operator.EXISTS


def where(field: str, operator: Operator, value: Any = None) -> Comparison:
    return Comparison(field, operator, value)


def _each(field: str, operators: tuple[Operator, ...], values: list[Any]) -> list[Filter]:
    return [where(field, operator, value) for operator in operators for value in values]


_RANGES = (LT, LE, GT, GE)
_TENTHS = [0.1 + 0.2, 0.3, 0.1]
# Those that match stand last, also when sorted: a list that is cut somewhere loses them.
_MANY_WORDS = (*(f"aa {i}" for i in range(9_998)), "alpha", "it's")
_MANY_YEARS = (*range(-20_000, -10_001), 2020)

_ALPHA = where("title", EQ, "alpha")
_OLD = where("year", LT, 2000)
_API = where("tags", CONTAINS, "api")
_PUBLIC = where("public", EQ, True)
_SINCE = where("updated", GE, NEW_YEAR)

CASES: Mapping[str, list[Filter]] = {
    "text equals": _each("title", (EQ, NE), TITLES),
    "text in": [
        where("title", operator, values)
        for operator in (IN, NOT_IN)
        for values in (
            ("alpha",),
            ("alpha", "beta"),
            ("it's", 'say "hi"', ""),
            ("nowhere", "😀"),
            ("a_b", "a_b"),
            _MANY_WORDS,
        )
    ],
    "text order": [
        *_each("title", _RANGES, ["alpha", "Alpha", "b", "1", "ärger", "\uffee", "😀", "a_b"]),
        *(
            where("title", BETWEEN, pair)
            for pair in (("alpha", "alphabet"), ("", "1"), ("\uffee", "😀"), ("beta", "beta"))
        ),
    ],
    "text starts with": [
        *_each(
            "title", (STARTS_WITH,), ["", "alpha", "A", " ", "it'", "a_", "a%", "100", "100%", "back\\", "back\\\\"]
        ),
        *_each("title", (STARTS_WITH,), ["😀", "é", "[", "a*", "'", "str", "日"]),
        Not(where("title", STARTS_WITH, "alpha")),
    ],
    "int": [
        *_each("year", (EQ, NE), YEARS),
        *_each("year", _RANGES, [0, 1, -1, 2020, 2**31, 2**53 - 1, -(2**53) + 1]),
        *_each("year", (IN, NOT_IN), [(2020,), (0, 1, 2), (2**53, -(2**53)), (7, 8, -5), _MANY_YEARS]),
        *(where("year", BETWEEN, pair) for pair in ((0, 1), (-5, -1), (2020, 2020), (2**53 - 1, 2**53))),
    ],
    "float": [
        *_each("price", (EQ, NE), [9.5, 1, 1.0, 0, -0.0, *_TENTHS, 1e300, -1e300, 1e-300, 2.0**53, 16777217.0]),
        *_each("price", _RANGES, [0, 0.0, -0.0, 0.3, 1, 1e-300, 16777217.0]),
        *_each("price", (IN, NOT_IN), [(1,), (0.1, 0.3), (0.1 + 0.2, 7.25), (-0.0,)]),
        *(where("price", BETWEEN, pair) for pair in ((0, 1), (0.3, 0.3), (-1, -0.25), (1e299, 1e301))),
    ],
    "bool": [
        *_each("public", (EQ, NE), [True, False]),
        *_each("public", (IN, NOT_IN), [(True,), (False,), (True, False)]),
        Not(_PUBLIC),
    ],
    "datetime": [
        *_each("updated", (EQ, NE), TIMES),
        *_each("updated", _RANGES, [NEW_YEAR, TIMES[1], TIMES[4], TIMES[5], TIMES[7], TIMES[11]]),
        *_each("updated", (IN, NOT_IN), [(TIMES[2],), (TIMES[8], TIMES[9])]),
        *(
            where("updated", BETWEEN, pair)
            for pair in ((TIMES[6], TIMES[5]), (TIMES[1], TIMES[2]), (TIMES[9], TIMES[7]))
        ),
    ],
    "list": [
        *_each(
            "tags",
            (CONTAINS,),
            ["api", "ap", "API", "", "it's", 'say "hi"', "😀", "100%", "a_b", "1", "null", "a\\b", "t7", '["api"]'],
        ),
        *(Not(where("tags", CONTAINS, value)) for value in ("api", "", "it's", "😀")),
        *_each("tags", (EQ, NE), ["api", "guide", "", "api,guide", "t199"]),
        *_each("tags", (IN, NOT_IN), [("api",), ("guide", "😀"), ("nowhere", "a_b"), ("", "ap")]),
        And((_API, Not(where("tags", CONTAINS, "guide")))),
        And((_API, where("tags", CONTAINS, "guide"))),
    ],
    "exists": [
        *(where(field, EXISTS) for field in FIELDS),
        *(Not(where(field, EXISTS)) for field in FIELDS),
        And((where("title", EXISTS), Not(where("tags", EXISTS)))),
    ],
    "missing and null match nothing": [
        _OLD,
        Not(_OLD),
        where("year", NE, 2020),
        Not(where("year", NE, 2020)),
        where("year", NOT_IN, (2020, 1)),
        Not(where("title", GE, "")),
        Not(where("updated", BETWEEN, (TIMES[9], TIMES[10]))),
        Not(_API),
        Not(Not(_OLD)),
        Not(where("price", GT, 0)),
        Or((where("price", GT, 0), where("price", LE, 0))),
        Not(_SINCE),
    ],
    "one value, four types": [
        where("title", EQ, "1"),
        where("code", EQ, "1"),
        where("year", EQ, 1),
        where("price", EQ, 1),
        where("public", EQ, True),
        where("tags", EQ, "1"),
        where("title", EQ, "True"),
        where("title", EQ, "null"),
        where("title", NE, "None"),
    ],
    "combined": [
        And((_ALPHA, where("year", EQ, 2020), _PUBLIC, _SINCE, _API)),
        And((_ALPHA, Not(_PUBLIC))),
        Or((_ALPHA, _OLD)),
        Or((_ALPHA, _OLD, _API, _SINCE)),
        Not(Or((_ALPHA, _OLD))),
        Not(And((_ALPHA, _API))),
        And((Or((_ALPHA, _PUBLIC)), Or((_OLD, _API)))),
        Or((And((_ALPHA, _API)), And((_PUBLIC, _OLD)))),
        Not(And((_ALPHA, Not(Or((_OLD, Not(_API))))))),
        And((where("code", EQ, "alpha"), where("title", NE, "alpha"))),
        Or((_ALPHA, where("title", IN, ()))),
        And((_ALPHA, where("title", NOT_IN, ()))),
        And((where("year", GE, 0), where("year", LE, 1))),
        Or((where("year", LT, 0), where("year", GT, 2**52))),
        Or(tuple(where("title", EQ, title) for title in TITLES[:25])),
        And(tuple(where("title", NE, title) for title in TITLES[:25])),
    ],
}
"""Filters by what they ask about; values as users give them."""


def comparisons_of(tree: Filter) -> list[Comparison]:
    """Every comparison of a tree."""
    match tree:
        case Comparison():
            return [tree]
        case And() | Or():
            return [one for part in tree.parts for one in comparisons_of(part)]
        case Not():
            return comparisons_of(tree.part)
    raise AssertionError(tree)


def is_claimed(tree: Filter, fields: Fields, capabilities: Capabilities) -> bool:
    """Whether a store claims every operator of a tree, each for the type of its field."""
    return all(capabilities.has_operator(one.operator, fields.require(one.field)) for one in comparisons_of(tree))
