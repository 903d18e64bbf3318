"""Every comparison is typed by its field, and filters of one meaning get one shape."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from shelflist.core.errors import InvalidFilter, UnknownField
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters import And, Comparison, F, Filter, Not, Operator, Or, check, normalise, prepare
from shelflist.core.filters.check import MAX_DEPTH, OPERATORS_OF

FIELDS = Fields({"s": str, "i": int, "f": float, "b": bool, "t": "datetime", "l": list[str]})
TEN = datetime(2024, 1, 1, 10, tzinfo=UTC)
ACCEPTED = {"s": "a", "i": 1, "f": 1.5, "b": True, "t": TEN, "l": "a"}

VALUES: dict[str, tuple[list[tuple[Any, Any]], list[Any]]] = {
    # field: (value, stored form) accepted; refused
    "s": (
        [("1", "1"), ("", ""), ("a\0b", "a\0b"), (np.str_("x"), "x")],
        [1, True, 1.0, b"1", ["1"], ("1",), TEN, "\ud800", F("s")],
    ),
    "i": (
        [(1, 1), (-(2**53), -(2**53)), (2**53, 2**53), (np.int32(7), 7)],
        [True, "1", 1.0, 2**53 + 1, -(2**53) - 1, np.float32(1), [1], float("nan"), TEN],
    ),
    "f": (
        [(1.5, 1.5), (1, 1.0), (-0.0, 0.0), (2**53, 2.0**53), (np.float32(0.5), 0.5)],
        [True, "1.5", float("nan"), float("inf"), -float("inf"), 2**53 + 1, [1.5]],
    ),
    "b": ([(True, True), (False, False), (np.bool_(True), True)], [1, 0, "true", 1.0, [True]]),
    "t": (
        [
            (TEN, 1_704_103_200_000_000),
            ("2024-01-01T10:00:00Z", 1_704_103_200_000_000),
            (TEN.astimezone(timezone(timedelta(hours=5, minutes=45))), 1_704_103_200_000_000),
            (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        ],
        [datetime(2024, 1, 1), "2024-01-01", "soon", 1_704_103_200, date(2024, 1, 1), True, [TEN]],
    ),
    "l": ([("a", "a"), ("", "")], [1, ["a"], ("a",), {"a"}, True, "\ud800"]),
}
ACCEPT = [(name, value, stored) for name, (accepted, _) in VALUES.items() for value, stored in accepted]
REFUSE = [(name, value) for name, (_, refused) in VALUES.items() for value in refused]


@pytest.mark.parametrize(("name", "value", "stored"), ACCEPT)
def test_values_take_the_stored_form_of_their_field(name: str, value: Any, stored: Any) -> None:
    checked = check(F(name) == value, FIELDS)
    assert isinstance(checked, Comparison)
    assert checked.value == stored and type(checked.value) is type(stored)
    assert check(F(name).is_in([value]), FIELDS).value == (stored,)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "value"), REFUSE)
def test_values_of_another_type_are_refused(name: str, value: Any) -> None:
    for where in (F(name) == value, F(name) != value, F(name).is_in([ACCEPTED[name], value]), ~(F(name) == value)):
        with pytest.raises(InvalidFilter) as caught:
            check(where, FIELDS)
        message = str(caught.value)
        assert f"Field {name!r} is {FIELDS[name].value}" in message
        assert type(value).__name__ in message or isinstance(value, str)


@pytest.mark.parametrize("name", list(FIELDS))
@pytest.mark.parametrize("operator", [each for each in Operator if each is not Operator.EXISTS])
def test_null_is_refused_with_the_way_to_ask(name: str, operator: Operator) -> None:
    if operator not in OPERATORS_OF[FIELDS[name]]:
        return
    value: Any = None
    if operator in (Operator.IN, Operator.NOT_IN):
        value = (ACCEPTED[name], None)
    elif operator is Operator.BETWEEN:
        value = (None, ACCEPTED[name])
    with pytest.raises(InvalidFilter, match=rf"{name}.*exists"):
        check(Comparison(name, operator, value), FIELDS)


RULES = {
    "s": "== != < <= > >= in,not in,between,starts with,exists",
    "i": "== != < <= > >= in,not in,between,exists",
    "f": "== != < <= > >= in,not in,between,exists",
    "b": "== != in,not in,exists",
    "t": "== != < <= > >= in,not in,between,exists",
    "l": "== != in,not in,contains,exists",
}


@pytest.mark.parametrize(("name", "operator"), list(itertools.product(FIELDS, Operator)))
def test_operators_by_type(name: str, operator: Operator) -> None:
    value = ACCEPTED[name]
    if operator in (Operator.IN, Operator.NOT_IN, Operator.BETWEEN):
        value = (value, value)
    where = Comparison(name, operator, None if operator is Operator.EXISTS else value)
    words = [word for part in RULES[name].split(",") for word in (part.split() if part[0] in "=" else [part])]
    if operator.value in words:
        assert isinstance(check(where, FIELDS), Comparison)
    else:
        with pytest.raises(InvalidFilter, match=rf"'{name}' is .* has no '{operator.value}'. It takes: =="):
            check(where, FIELDS)


def test_unknown_fields_are_named_with_the_nearest() -> None:
    fields = Fields({"page_number": int})
    for where in (F("page_numbre") == 1, ~(F("page_numbre") == 1), (F("page_number") == 1) & F("page_numbre").exists()):
        with pytest.raises(UnknownField, match="Did you mean 'page_number'"):
            check(where, fields)


@pytest.mark.parametrize("value", [3, "abc", None, (1,), (1, 2, 3)])
def test_between_takes_two(value: Any) -> None:
    with pytest.raises(InvalidFilter, match="two values"):
        check(Comparison("i", Operator.BETWEEN, value), FIELDS)


@pytest.mark.parametrize("value", [3, "abc", None, {1: 2}])
def test_in_takes_a_list(value: Any) -> None:
    with pytest.raises(InvalidFilter, match="list of values"):
        check(Comparison("i", Operator.IN, value), FIELDS)


def test_what_is_no_condition_is_refused() -> None:
    for where in (And((F("i") == 1, "i == 2")), Not(F("i")), Or((True,))):  # type: ignore[arg-type]
        with pytest.raises(InvalidFilter, match="no condition"):
            check(where, FIELDS)
        with pytest.raises(InvalidFilter, match="no condition"):
            normalise(where)


A, B, C, D = (F("i") == 1), (F("s") == "x"), (F("f") > 2), F("t").exists()

SAME: list[tuple[Filter, Filter]] = [
    (A & B, B & A),
    (A | B, B | A),
    (A & B & C, A & (B & C)),
    (A & A, A),
    (A | A | A, A),
    (And((A,)), A),
    (Or((And((Or((A,)),)),)), A),
    (~~A, A),
    (~A, F("i") != 1),
    (~(F("i") != 1), A),
    (~F("i").is_in([1, 2]), F("i").not_in([2, 1])),
    (~F("i").not_in([1, 2]), F("i").is_in([2, 1, 1])),
    (F("i").is_in([1]), A),
    (F("i").not_in([1, 1]), F("i") != 1),
    (~(A & B), ~A | ~B),
    (~(A | B), ~A & ~B),
    (~(A & ~(B | ~C)), ~A | B | ~C),
    (A & (B | C), (C | B) & A),
    (A & F("i").is_in([]), Or(())),
    (A | F("i").is_in([]), A),
    (A & F("i").not_in([]), A),
    (A | F("i").not_in([]), And(())),
    (A & Or(()), Or(())),
    (A | And(()), And(())),
    (~And(()), Or(())),
    (F("f") == 1, F("f") == 1.0),
    (F("f") == -0.0, F("f") == 0),
    (F("t") == TEN, F("t") == TEN.astimezone(timezone(timedelta(hours=-9)))),
    (F("t") == TEN, F("t") == "2024-01-01T11:00:00+01:00"),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=map(str, range(len(SAME))))
def test_one_meaning_one_shape(one: Filter, other: Filter) -> None:
    first, second = prepare(one, FIELDS), prepare(other, FIELDS)
    assert first == second and hash(first) == hash(second) and repr(first) == repr(second)
    assert normalise(first) == first


DIFFERENT: list[tuple[Filter, Filter]] = [
    (~(F("i") < 1), F("i") >= 1),
    (A & B, A | B),
    (F("i").between(1, 2), F("i").between(2, 1)),
    (~F("i").between(1, 2), F("i").between(1, 2)),
    (~D, D),
    (And(()), Or(())),
    (F("i").is_in([1, 2]), F("i").not_in([1, 2])),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=map(str, range(len(DIFFERENT))))
def test_other_meaning_other_shape(one: Filter, other: Filter) -> None:
    assert prepare(one, FIELDS) != prepare(other, FIELDS)


def test_not_stands_only_around_comparisons_without_an_opposite() -> None:
    where = prepare(~((A & (F("i") < 3)) | ~(D | ~F("s").starts_with("a"))), FIELDS)

    def visit(node: Filter) -> None:
        if isinstance(node, Not):
            assert isinstance(node.part, Comparison)
            assert node.part.operator not in (Operator.EQ, Operator.NE, Operator.IN, Operator.NOT_IN)
        elif isinstance(node, (And, Or)):
            assert len(node.parts) > 1
            for part in node.parts:
                assert type(part) is not type(node)
                visit(part)

    visit(where)
    assert isinstance(where, And)


def test_values_of_mixed_types_still_have_one_order() -> None:
    one, other = F("x").is_in(["1", 2, 1.5, False]), F("x").is_in([False, 1.5, 2, "1"])
    assert normalise(one) == normalise(other)


def deep(levels: int) -> Filter:
    where: Filter = F("i") == -1
    for i in range(levels):
        where = where & (F("i") != i) if i % 2 else where | (F("i") == i)
    return where


def test_depth_has_a_limit_that_says_so() -> None:
    assert prepare(deep(MAX_DEPTH), FIELDS).matches({"i": 0})
    for levels in (MAX_DEPTH + 1, 90, 400):
        with pytest.raises(InvalidFilter, match="levels deep"):
            prepare(deep(levels), FIELDS)


def test_ten_thousand_values() -> None:
    where = prepare(F("i").is_in(range(10_000)), FIELDS)
    assert where.matches({"i": 9_999}) and not where.matches({"i": 10_000})


def test_every_type_has_rules() -> None:
    assert set(OPERATORS_OF) == set(FieldType)
