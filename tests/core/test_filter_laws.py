"""Laws that hold for every filter and every metadata: what may be rewritten without changing what it means."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    check,
    normalise,
    prepare,
    to_json,
    to_text,
)
from shelflist.testing.strategies import OPERATORS, comparisons, filters, metadata

FIELDS = Fields({"title": str, "year": int, "price": float, "public": bool, "updated": datetime, "tags": list[str]})
LAW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TREES = filters(FIELDS)
ROWS = st.lists(metadata(FIELDS).map(FIELDS.stored), min_size=1, max_size=8)
POSITIVE = [Operator.EQ, Operator.LT, Operator.LE, Operator.GT, Operator.GE, Operator.IN, Operator.BETWEEN,
            Operator.CONTAINS, Operator.STARTS_WITH, Operator.EXISTS]  # fmt: skip


def answers(tree: Filter, rows: list[dict[str, Any]]) -> list[bool]:
    found = [tree.matches(row) for row in rows]
    assert all(type(answer) is bool for answer in found)
    return found


def in_one_shape(tree: Filter, inside: type[Filter] | None = None) -> bool:
    """What `normalise` promises about the tree."""
    match tree:
        case Comparison(operator=Operator.IN | Operator.NOT_IN):
            return len(tree.value) >= 2 and len(set(tree.value)) == len(tree.value)
        case Comparison():
            return True
        case Not(part=Comparison(operator=operator)):
            return operator not in (Operator.EQ, Operator.NE, Operator.IN, Operator.NOT_IN)
        case And() | Or() if not tree.parts:
            return inside is None
        case And() | Or():
            unlike = type(tree) is not inside
            return unlike and 2 <= len(set(tree.parts)) == len(tree.parts) and all(
                in_one_shape(part, type(tree)) for part in tree.parts
            )  # fmt: skip
    return False


@LAW
@given(TREES, ROWS)
def test_normalising_keeps_the_meaning_and_ends(tree: Filter, rows: list[dict[str, Any]]) -> None:
    checked = check(tree, FIELDS)
    shaped = normalise(checked)
    assert answers(shaped, rows) == answers(checked, rows)
    assert normalise(shaped) == shaped
    assert in_one_shape(shaped), shaped
    assert hash(shaped) == hash(normalise(checked))


@LAW
@given(TREES, TREES, ROWS)
def test_de_morgan(a: Filter, b: Filter, rows: list[dict[str, Any]]) -> None:
    for left, right in ((~(a & b), ~a | ~b), (~(a | b), ~a & ~b), (~~a, a)):
        left, right = check(left, FIELDS), check(right, FIELDS)
        assert answers(left, rows) == answers(right, rows)
        assert normalise(left) == normalise(right)


@LAW
@given(TREES, ROWS)
def test_a_filter_and_its_opposite_share_the_rows(tree: Filter, rows: list[dict[str, Any]]) -> None:
    yes, no = prepare(tree, FIELDS), prepare(~tree, FIELDS)
    assert answers(no, rows) == [not answer for answer in answers(yes, rows)]
    assert prepare(~~tree, FIELDS) == yes


@LAW
@given(comparisons(FIELDS, [Operator.EQ, Operator.IN]), ROWS)
def test_unequal_is_not_equal(tree: Comparison, rows: list[dict[str, Any]]) -> None:
    opposite = {Operator.EQ: Operator.NE, Operator.IN: Operator.NOT_IN}[tree.operator]
    unequal = check(Comparison(tree.field, opposite, tree.value), FIELDS)
    negated = check(Not(tree), FIELDS)
    assert answers(unequal, rows) == answers(negated, rows)
    assert normalise(unequal) == normalise(negated)
    assert unequal.matches({}) and unequal.matches({tree.field: None})


@LAW
@given(comparisons(FIELDS, POSITIVE))
def test_missing_and_null_match_nothing_positive(tree: Comparison) -> None:
    checked = check(tree, FIELDS)
    assert not checked.matches({})
    assert not checked.matches({tree.field: None})


@LAW
@given(TREES, ROWS)
def test_written_forms_keep_the_meaning(tree: Filter, rows: list[dict[str, Any]]) -> None:
    wanted = prepare(tree, FIELDS)
    for written in (tree, wanted):
        try:
            as_json, as_text = to_json(written, FIELDS), to_text(written, FIELDS)
        except InvalidFilter:
            assert written is wanted and wanted in (And(()), Or(())), "only what has no parts has no form"
            continue
        from_json, from_text = prepare(json.loads(json.dumps(as_json)), FIELDS), prepare(as_text, FIELDS)
        assert from_json == from_text == wanted, (as_json, as_text)
        assert answers(from_text, rows) == answers(from_json, rows) == answers(wanted, rows)


def scrambled(tree: Filter, chance: random.Random) -> Filter:
    """The same filter written otherwise: parts in another order, twice, in groups; double negation."""
    match tree:
        case And() | Or():
            parts = [scrambled(part, chance) for part in tree.parts]
            parts += chance.sample(parts, chance.randrange(len(parts) + 1))
            chance.shuffle(parts)
            cut = chance.randrange(len(parts))
            kind = type(tree)
            return kind((kind(tuple(parts[:cut])), *parts[cut:])) if cut else kind(tuple(parts))
        case Not():
            return Not(scrambled(tree.part, chance))
        case Comparison(operator=Operator.IN | Operator.NOT_IN) if tree.value:
            values = [*tree.value, chance.choice(tree.value)]
            chance.shuffle(values)
            return Comparison(tree.field, tree.operator, tuple(values))
    return Not(Not(tree)) if chance.random() < 0.3 else tree


@LAW
@given(TREES, st.randoms(use_true_random=False))
def test_what_is_written_otherwise_is_the_same_tree(tree: Filter, chance: random.Random) -> None:
    one, other = prepare(tree, FIELDS), prepare(scrambled(tree, chance), FIELDS)
    assert one == other
    assert hash(one) == hash(other)


@LAW
@given(TREES, TREES, ROWS)
def test_trees_that_are_equal_mean_the_same(a: Filter, b: Filter, rows: list[dict[str, Any]]) -> None:
    """Caches are keyed by the tree, so equal trees with different answers would mix results up."""
    one, other = prepare(a, FIELDS), prepare(b, FIELDS)
    if one == other:
        assert answers(one, rows) == answers(other, rows)


def test_every_operator_is_among_the_random_ones() -> None:
    assert {operator for operators in OPERATORS.values() for operator in operators} == set(Operator)
    assert set(POSITIVE) == set(Operator) - {Operator.NE, Operator.NOT_IN}


ONES = {"int": 1, "float": 1.0, "text": "1", "bool": True, "numpy": np.True_}
SAME = [{"int", "float"}, {"text"}, {"bool", "numpy"}]


@pytest.mark.parametrize("stored", ONES)
@pytest.mark.parametrize("asked", ONES)
def test_one_and_its_text_and_true_are_three_things(stored: str, asked: str) -> None:
    field, value, row = F("x"), ONES[asked], {"x": ONES[stored]}
    matches = any({stored, asked} <= group for group in SAME)
    alike = [
        field == value,
        field.is_in([value, "other"]),
        field <= value,
        field >= value,
        field.between(value, value),
    ]
    assert [one.matches(row) for one in alike] == [matches] * len(alike)
    assert [one.matches(row) for one in (field != value, field.not_in([value]))] == [not matches] * 2
    for shape in (list, tuple, set):
        among = {"x": shape(["other", ONES[stored]])}
        assert [one.matches(among) for one in (field.contains(value), field == value)] == [matches] * 2
        assert (field != value).matches(among) is not matches
    assert not (field < value).matches(row) and not (field > value).matches(row)


def test_only_a_list_contains() -> None:
    for text in ("abc", "a"):
        assert not F("t").contains("a").matches({"t": text})
    assert F("t").contains("a").matches({"t": ["b", "a"]}) and not F("t").contains("a").matches({"t": ["abc"]})
    assert F("t").starts_with("a").matches({"t": "abc"}) and not F("t").starts_with("a").matches({"t": ["abc"]})


def test_matches_is_right_on_metadata_as_users_see_it() -> None:
    fields = Fields({"updated": "datetime", "n": int})
    moment = datetime(2024, 1, 1, 10, tzinfo=UTC)
    shown = {"updated": moment.astimezone(timezone(timedelta(hours=2))), "n": 1}
    text, later = "2024-01-01T10:00:00Z", moment + timedelta(seconds=1)
    field = F("updated")
    yes = [field == text, field == moment, field >= moment, field <= text, field < later, field != later]
    yes += [field.is_in([text, later]), field.between(text, later), field.not_in([later]), field.exists()]
    no = [field == later, field < moment, field > text, field.is_in([later]), field == "yesterday", field > "yesterday"]
    for seen in (shown, fields.stored(shown)):
        assert [one.matches(seen) for one in yes] == [True] * len(yes)
        assert [one.matches(seen) for one in no] == [False] * len(no)
        for one in [*yes, *no]:
            if one not in no[-2:]:
                assert prepare(one, fields).matches(seen) is one.matches(seen)
    for wrong in (F("n") < "x", F("n").contains("x"), F("n").starts_with("x"), F("n").between("a", "b")):
        assert not wrong.matches(shown)
    assert not (field < 3.5).matches({"updated": datetime(2024, 1, 1)})
