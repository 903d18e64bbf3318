"""Random filters on random metadata: the laws of two-valued logic, and forms that keep the meaning."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shelflist.core.fields import Fields
from shelflist.core.filters import (
    And,
    Comparison,
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
from shelflist.testing.strategies import comparisons, filters, metadata

FIELDS = Fields({"title": str, "year": int, "price": float, "public": bool, "updated": "datetime", "tags": "list[str]"})
ROWS = st.lists(metadata(FIELDS), min_size=1, max_size=6)
FILTERS = filters(FIELDS)
RANDOM = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def answers(where: Filter, rows: list[dict[str, Any]]) -> list[bool]:
    return [where.matches(FIELDS.stored(row)) for row in rows]


@RANDOM
@given(FILTERS, FILTERS, ROWS)
def test_de_morgan(one: Filter, other: Filter, rows: list[dict[str, Any]]) -> None:
    one, other = check(one, FIELDS), check(other, FIELDS)
    assert answers(~(one & other), rows) == answers(~one | ~other, rows)
    assert answers(~(one | other), rows) == answers(~one & ~other, rows)
    assert answers(~one, rows) == [not answer for answer in answers(one, rows)]


@RANDOM
@given(comparisons(FIELDS, (Operator.EQ, Operator.IN)), ROWS)
def test_negative_operators_are_not_of_the_positive(where: Comparison, rows: list[dict[str, Any]]) -> None:
    positive = check(where, FIELDS)
    assert isinstance(positive, Comparison)
    opposite = Operator.NE if positive.operator is Operator.EQ else Operator.NOT_IN
    negative = Comparison(positive.field, opposite, positive.value)
    assert answers(negative, rows) == answers(Not(positive), rows)


@RANDOM
@given(FILTERS, ROWS)
def test_normalising_keeps_the_meaning(where: Filter, rows: list[dict[str, Any]]) -> None:
    checked = check(where, FIELDS)
    normal = normalise(checked)
    assert answers(normal, rows) == answers(checked, rows)
    assert normalise(normal) == normal
    assert {normal: 1}[normalise(checked)] == 1


@RANDOM
@given(FILTERS, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(where: Filter, random: Any) -> None:
    def shuffled(node: Filter) -> Filter:
        if isinstance(node, (And, Or)):
            parts = [shuffled(part) for part in node.parts]
            parts.append(random.choice(parts))
            random.shuffle(parts)
            return type(node)(tuple(parts))
        if isinstance(node, Not):
            return Not(shuffled(node.part))
        if isinstance(node, Comparison) and node.operator in (Operator.IN, Operator.NOT_IN):
            return Comparison(node.field, node.operator, tuple(random.sample(node.value, len(node.value))))
        return node

    assert prepare(shuffled(where), FIELDS) == prepare(where, FIELDS)


@RANDOM
@given(FILTERS, ROWS)
def test_written_forms_keep_the_meaning(where: Filter, rows: list[dict[str, Any]]) -> None:
    expected = answers(check(where, FIELDS), rows)
    for source in (where, check(where, FIELDS)):
        through_json = json.loads(json.dumps(to_json(source, FIELDS)))
        assert answers(prepare(through_json, FIELDS), rows) == expected
        assert answers(prepare(to_text(source, FIELDS), FIELDS), rows) == expected
        assert prepare(through_json, FIELDS) == prepare(where, FIELDS) == prepare(to_text(source, FIELDS), FIELDS)


@RANDOM
@given(st.text(max_size=30))
def test_any_text_can_be_quoted(value: str) -> None:
    where = Comparison("title", Operator.EQ, value)
    read = prepare_text(to_text(where))
    assert read == where


def prepare_text(text: str) -> Filter:
    from shelflist.core.filters import from_text

    return from_text(text)


@RANDOM
@given(st.text(st.sampled_from("abin ()[],=<>!\"'\\`0129.-eExistsandornotcontains\n"), max_size=40))
def test_any_text_is_read_or_refused_with_a_reason(text: str) -> None:
    from shelflist.core.errors import InvalidFilter
    from shelflist.core.filters import from_text

    try:
        where = from_text(text)
    except InvalidFilter as error:
        assert str(error).rstrip()
        return
    assert from_text(to_text(where)) is not None
