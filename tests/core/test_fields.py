"""What a declared field takes, what it refuses, and that what is stored is shown again as it was."""

from __future__ import annotations

import decimal
import enum
import json
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shelflist.core.errors import ConfigError, UnknownField, WrongFieldType
from shelflist.core.fields import Fields, FieldType, field_type, from_microseconds, microseconds

FIELDS = Fields({"title": str, "year": int, "price": float, "public": bool, "updated": datetime, "tags": list[str]})
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True, database=None)


class Kind(str, enum.Enum):  # noqa: UP042  # the old way, whose str() is the name
    GUIDE = "guide"


class Level(enum.IntEnum):
    HIGH = 3


TAKEN: list[tuple[str, Any, Any]] = [
    ("title", "", ""),
    ("title", "a\0b", "a\0b"),
    ("title", "😀", "😀"),
    ("title", Kind.GUIDE, "guide"),
    ("title", np.str_("a"), "a"),
    ("year", 0, 0),
    ("year", 2**53, 2**53),
    ("year", -(2**53), -(2**53)),
    ("year", np.int64(7), 7),
    ("year", np.uint8(7), 7),
    ("year", Level.HIGH, 3),
    ("price", 1, 1.0),
    ("price", 1.5, 1.5),
    ("price", 2**53, 2.0**53),
    ("price", np.float32(0.5), 0.5),
    ("price", np.float64(0.1), 0.1),
    ("price", np.int32(3), 3.0),
    ("price", 5e-324, 5e-324),
    ("price", 1.7976931348623157e308, 1.7976931348623157e308),
    ("public", True, True),
    ("public", False, False),
    ("public", np.True_, True),
    ("public", np.bool_(False), False),
    ("updated", datetime(1970, 1, 1, tzinfo=UTC), 0),
    ("updated", datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0),
    ("updated", datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
    ("updated", "1970-01-01T00:00:00.000001Z", 1),
    ("updated", "1970-01-01T01:00+01:00", 0),
    ("updated", datetime(2024, 7, 1, 2, tzinfo=ZoneInfo("UTC")), 1_719_799_200_000_000),
    ("updated", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), 253_402_300_799_999_999),
    ("tags", [], []),
    ("tags", ["b", "a", "b"], ["b", "a", "b"]),
    ("tags", ("a",), ["a"]),
    ("tags", {"b", "a"}, ["a", "b"]),
    ("tags", frozenset({"a"}), ["a"]),
    ("tags", [Kind.GUIDE], ["guide"]),
]


@pytest.mark.parametrize(("name", "given_value", "stored"), TAKEN)
def test_taken(name: str, given_value: Any, stored: Any) -> None:
    got = FIELDS.stored({name: given_value})[name]
    assert got == stored
    assert type(got) is type(stored)
    assert orjson.loads(orjson.dumps(got)) == stored, "the stored form is plain JSON"


class Grumpy:
    def __repr__(self) -> str:
        raise RuntimeError("no")


REFUSED: list[tuple[str, Any]] = [
    ("title", 1), ("title", True), ("title", b"a"), ("title", ["a"]), ("title", "\ud800"), ("title", {}),
    ("year", "1"), ("year", True), ("year", np.True_), ("year", 1.0), ("year", 2**53 + 1), ("year", -(2**53) - 1),
    ("year", 10**5000), ("year", np.array([1])), ("year", np.array([1.5])), ("year", decimal.Decimal(1)),
    ("year", float("nan")), ("year", np.float64(1)), ("year", Grumpy()),
    ("price", "1.5"), ("price", True), ("price", np.False_), ("price", float("nan")), ("price", float("inf")),
    ("price", np.float32("-inf")), ("price", 2**53 + 1), ("price", 10**5000), ("price", 1j),
    ("price", decimal.Decimal("1.5")), ("price", np.array([1.5])),
    ("public", 1), ("public", 0), ("public", "true"), ("public", "True"), ("public", np.int64(1)), ("public", 1.0),
    ("updated", "yesterday"), ("updated", ""), ("updated", "2024-01-01"), ("updated", "2024-01-01T00:00:00"),
    ("updated", datetime(2024, 1, 1)), ("updated", date(2024, 1, 1)), ("updated", 0), ("updated", 1.5),
    ("updated", True), ("updated", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
    ("updated", datetime(9999, 12, 31, 23, 30, tzinfo=timezone(-timedelta(hours=1)))),
    ("tags", "a"), ("tags", ["a", 1]), ("tags", [None]), ("tags", {1, "a"}), ("tags", {"a": "b"}), ("tags", [["a"]]),
    ("tags", ["\udfff"]), ("tags", 1), ("tags", b"a"), ("tags", iter(["a"])),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: type(value).__name__)
def test_refused(name: str, value: Any) -> None:
    with pytest.raises(WrongFieldType) as caught:
        FIELDS.stored({name: value})
    message = str(caught.value)
    assert message.startswith(f"Field {name!r} is {FIELDS[name].value}, got "), message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("title", 5, "Field 'title' is str, got int 5. Give it as text, in quotes."),
        ("title", datetime(2024, 1, 2, tzinfo=UTC), "got datetime 2024-01-02T00:00:00+00:00. Give it as text"),
        ("title", date(2024, 1, 2), "got date 2024-01-02. Give it as text"),
        ("year", "many", "got str 'many'. Give a whole number below 2^53 without quotes, or keep it as text"),
        ("year", 2**53 + 1, "9007199254740993 beyond 2^53. Give a whole number below 2^53"),
        ("price", "lots", "got str 'lots'. Give a finite number, without quotes."),
        ("public", "yes", "got str 'yes'. Give true or false, without quotes."),
        (
            "updated",
            "yesterday",
            "'yesterday', which is no date and time in ISO 8601. Give a moment with its time zone, such as",
        ),
        ("updated", datetime(2024, 1, 1), "got datetime 2024-01-01T00:00:00 without a time zone. Give a moment with"),
        ("tags", "api", """got str 'api'. Give a list of texts, such as ["api", "keys"]."""),
    ],
)
def test_refusals_say_what_to_do(name: str, value: Any, said: str) -> None:
    with pytest.raises(WrongFieldType) as caught:
        FIELDS.stored({name: value})
    message = str(caught.value)
    assert said in message and "datetime." not in message and ".." not in message
    assert FIELDS.stored({name: None}) == {name: None}


def test_minus_zero_is_zero() -> None:
    assert str(FIELDS.stored({"price": -0.0})["price"]) == "0.0"
    assert str(FIELDS.stored({"price": np.float32(-0.0)})["price"]) == "0.0"


def test_null_and_missing_are_kept_apart_but_both_taken() -> None:
    assert FIELDS.stored(dict.fromkeys(FIELDS)) == dict.fromkeys(FIELDS)
    assert FIELDS.stored({}) == {}


def test_stored_leaves_what_it_was_given_alone() -> None:
    tags = ["a"]
    metadata = {"tags": tags, "other": {"x": [1]}}
    stored = FIELDS.stored(metadata)
    stored["tags"].append("b")
    stored["other"]["x"].append(2)
    assert metadata == {"tags": ["a"], "other": {"x": [1]}}


MOMENTS = st.datetimes(
    min_value=datetime(1, 1, 3),
    max_value=datetime(9999, 12, 29),
    timezones=st.timezones() | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
)


@EXAMPLES
@given(MOMENTS)
def test_datetimes_come_back_as_the_same_instant(moment: datetime) -> None:
    stored = FIELDS.stored({"updated": moment, "title": "a"})
    shown = FIELDS.shown(stored)
    assert type(stored["updated"]) is int
    assert shown["updated"].utcoffset() == timedelta(0)
    assert shown["updated"] == moment.astimezone(UTC)  # in UTC, where a repeated hour is two hours
    assert FIELDS.stored(shown) == stored
    assert FIELDS.stored({"updated": moment.isoformat()})["updated"] == stored["updated"]


@EXAMPLES
@given(MOMENTS, st.timedeltas(timedelta(0), timedelta(seconds=3)))
def test_stored_datetimes_keep_their_order(moment: datetime, later: timedelta) -> None:
    utc = moment.astimezone(UTC)
    assert microseconds(utc + later) - microseconds(utc) == later // timedelta(microseconds=1)
    assert from_microseconds(microseconds(utc)) == utc


def test_shown_alters_datetimes_only() -> None:
    stored = FIELDS.stored({"year": 5, "tags": ["a"], "updated": None, "other": 7})
    assert FIELDS.shown(stored) == stored
    assert FIELDS.shown({"updated": 0, "year": 0}) == {"updated": datetime(1970, 1, 1, tzinfo=UTC), "year": 0}


DEEP: Any = []
for _ in range(3000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (2**64 - 1, 2**64 - 1),
        (-(2**63), -(2**63)),
        (1.5, 1.5),
        ("a\0", "a\0"),
        ([1, "a", None, [True]], [1, "a", None, [True]]),
        ((1, 2), [1, 2]),
        ({"a": {"b": [1]}}, {"a": {"b": [1]}}),
        ({2024: "x"}, {"2024": "x"}),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00+00:00"),
        (np.int64(7), 7),
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.True_, True),
        (Kind.GUIDE, "guide"),
        (Level.HIGH, 3),
        ([np.float64(1.5)], [1.5]),
    ],
)
def test_undeclared_values_are_kept_as_json(value: Any, stored: Any) -> None:
    got = FIELDS.stored({"other": value})["other"]
    assert got == stored
    assert type(got) is type(stored)
    assert orjson.loads(orjson.dumps(got)) == json.loads(json.dumps(got)) == stored


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), [float("inf")], np.float32("nan"), b"a", {"a", "b"}, object(), date(2024, 1, 1), 1j, "\ud800",
        ["\udfff"], {"a": {"b": b""}}, decimal.Decimal(1), 2**64, -(2**63) - 1, 10**5000, {1: "a", "1": "b"},
        {"\ud800": 1}, DEEP, np.array([1, 2]), Grumpy(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_undeclared_values_that_json_cannot_hold_are_refused(value: Any) -> None:
    with pytest.raises(WrongFieldType, match="other"):
        FIELDS.stored({"other": value})


@pytest.mark.parametrize("key", [1, None, ("a",), "\ud800"])
def test_keys_are_text(key: Any) -> None:
    with pytest.raises(WrongFieldType):
        FIELDS.stored({key: 1})


def test_declared_types_by_name_and_by_python_type() -> None:
    for python, name in ((str, "str"), (int, "int"), (float, "float"), (bool, "bool"), (datetime, "datetime")):
        assert field_type(python) is field_type(name) is FieldType(name)
    assert field_type(list[str]) is field_type("list[str]") is field_type("list [str]") is FieldType.LIST
    assert Fields(FIELDS.to_json()) == FIELDS
    assert hash(Fields(FIELDS.to_json())) == hash(FIELDS)
    assert Fields({"a": str}) != Fields({"a": int})


@pytest.mark.parametrize("declared", ["text", "", "STR", list, list[int], dict, None, 5, date, [str]])
def test_other_types_are_refused_with_the_choice(declared: Any) -> None:
    with pytest.raises(ConfigError, match=r"str, int, float, bool, datetime, list\[str\]"):
        Fields({"a": declared})


@pytest.mark.parametrize("name", ["", "a-b", "a b", "1a", "a.b", "$a", 'a"', "a;", "a\0", "content", "document_id"])
def test_field_names_are_identifiers_and_not_our_own(name: str) -> None:
    with pytest.raises(ConfigError, match="Field name"):
        Fields({name: str})


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UnknownField, match=r"Unknown field 'yaer'\. Did you mean 'year'\?.*shelflist fields add yaer"):
        FIELDS.require("yaer")
    with pytest.raises(UnknownField, match=r"Unknown field 'zzz'\. Declared fields: none\."):
        Fields().require("zzz")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("tenant_id", r"collection\.tenant\(id\) \(--tenant ID\)"),
        ("document_id", r"shelflist show DOCUMENT.*under another name"),
        ("content", "--mode keyword"),
        ("section", "under another name"),
        ("index_status", "shelflist status"),
    ],
)
def test_a_name_of_our_own_is_never_advised_to_be_declared(name: str, advice: str) -> None:
    with pytest.raises(UnknownField, match=advice) as refused:
        FIELDS.require(name)
    assert f"fields add {name}" not in str(refused.value)


def test_newly_declared_fields_convert_what_was_kept() -> None:
    new = Fields({**FIELDS, "born": datetime, "other": int})
    kept = FIELDS.stored({"title": "a", "updated": datetime(1970, 1, 1, tzinfo=UTC), "born": "1970-01-01T00:00Z"})
    assert new.newly_declared(kept, FIELDS) == {"title": "a", "updated": 0, "born": 0}
    with pytest.raises(WrongFieldType, match=r"'other' is int, got str 'x'$"):
        new.newly_declared({"other": "x"}, FIELDS)
