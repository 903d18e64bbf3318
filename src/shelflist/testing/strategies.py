"""Hypothesis strategies: metadata for declared fields, and filters that have a fair chance to match it.

Both draw from the same small pools, or nearly every random comparison would match nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or

# NUL and lone surrogates are left out: the first no Postgres text can hold, the second `Fields` refuses.
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=4)
_ZONES = [UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=9, minutes=30))]
_BASE = datetime(2024, 1, 1, 12, tzinfo=UTC)

_TIMES: st.SearchStrategy[datetime] = st.builds(
    lambda step, zone: (_BASE + step).astimezone(zone),
    st.sampled_from(
        [
            timedelta(0),
            timedelta(microseconds=1),
            -timedelta(microseconds=1),
            timedelta(hours=2),
            timedelta(days=-40_000),
        ]
    ),
    st.sampled_from(_ZONES),
)
_WORDS = st.one_of(
    st.sampled_from(["", "a", "A", "ab", "b", "a b", "it's", "%", "a%", "_", "\\", "é", "\uffee", "😀", "1"]), _TEXT
)

_VALUES: Mapping[FieldType, st.SearchStrategy[Any]] = {
    FieldType.STR: _WORDS,
    FieldType.INT: st.one_of(
        st.integers(-2, 3), st.sampled_from([2**53, -(2**53), 2**31]), st.integers(-(2**53), 2**53)
    ),
    FieldType.FLOAT: st.one_of(
        st.sampled_from([-1.5, -0.0, 0.0, 0.1, 0.1 + 0.2, 0.3, 1, 2, 1e300]),
        st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    ),
    FieldType.BOOL: st.booleans(),
    FieldType.DATETIME: _TIMES,
    FieldType.LIST: _WORDS,
}

_EQUALITY = (Operator.EQ, Operator.NE, Operator.IN, Operator.NOT_IN, Operator.EXISTS)
_ORDER = (Operator.LT, Operator.LE, Operator.GT, Operator.GE, Operator.BETWEEN)

OPERATORS: Mapping[FieldType, tuple[Operator, ...]] = {
    FieldType.STR: (*_EQUALITY, *_ORDER, Operator.STARTS_WITH),
    FieldType.INT: (*_EQUALITY, *_ORDER),
    FieldType.FLOAT: (*_EQUALITY, *_ORDER),
    FieldType.BOOL: _EQUALITY,
    FieldType.DATETIME: (*_EQUALITY, *_ORDER),
    FieldType.LIST: (*_EQUALITY, Operator.CONTAINS),
}
"""The operators that make sense for each type of field."""


def metadata(fields: Fields) -> st.SearchStrategy[dict[str, Any]]:
    """Metadata as users give it: each field present, null or missing, sometimes with undeclared keys beside."""
    values: dict[str, st.SearchStrategy[Any]] = {
        name: st.none() | (st.lists(_WORDS, max_size=3) if kind is FieldType.LIST else _VALUES[kind])
        for name, kind in fields.items()
    }
    undeclared = {"other": _WORDS | st.integers(-2, 3) | st.lists(_WORDS, max_size=2)}
    return st.fixed_dictionaries({}, optional={**values, **undeclared})


def comparisons(
    fields: Fields, operators: Collection[Operator], unsupported_on: Collection[tuple[Operator, FieldType]] = ()
) -> st.SearchStrategy[Filter]:
    """One comparison of one field, with one of the operators that its type has."""

    def of(name: str, kind: FieldType) -> list[st.SearchStrategy[Filter]]:
        value = _VALUES[kind]
        takes: dict[Operator, st.SearchStrategy[Any]] = {
            Operator.IN: st.lists(value, max_size=4).map(tuple),
            Operator.NOT_IN: st.lists(value, max_size=4).map(tuple),
            Operator.BETWEEN: st.tuples(value, value).map(lambda pair: tuple(sorted(pair))),
            Operator.EXISTS: st.none(),
        }
        return [
            st.builds(Comparison, st.just(name), st.just(operator), takes.get(operator, value))
            for operator in OPERATORS[kind]
            if operator in operators and (operator, kind) not in unsupported_on
        ]

    return st.one_of([strategy for name, kind in fields.items() for strategy in of(name, kind)])


def filters(
    fields: Fields,
    operators: Collection[Operator] = tuple(Operator),
    unsupported_on: Collection[tuple[Operator, FieldType]] = (),
) -> st.SearchStrategy[Filter]:
    """Trees of And, Or and Not over comparisons with the given operators, but for those unsupported on a type.

    Values are as users give them.
    """
    return st.recursive(
        comparisons(fields, operators, unsupported_on),
        lambda part: st.one_of(
            st.lists(part, min_size=1, max_size=3).map(lambda parts: And(tuple(parts))),
            st.lists(part, min_size=1, max_size=3).map(lambda parts: Or(tuple(parts))),
            part.map(Not),
        ),
        max_leaves=6,
    )
