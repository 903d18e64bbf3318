"""Filters as SQL conditions on the alias `p`: typed columns `f_FIELD`, list members in a table of their own.

Two-valued throughout: a negated comparison is `(…) IS NOT TRUE`, so that a missing field is not a third answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.compiler import FilterCompiler
from shelflist.core.filters.nodes import Comparison, Filter, Operator

Sql = tuple[str, list[Any]]

_SIGNS = {Operator.EQ: "=", Operator.LT: "<", Operator.LE: "<=", Operator.GT: ">", Operator.GE: ">="}
_LAST_CODE_POINT = 0x10FFFF


def compile_sql(filter: Filter, fields: Fields, lists_table: str) -> Sql:
    """A condition and its parameters. `filter` is checked and normalised."""
    return SqlFilterCompiler(fields, lists_table).compile(filter)


class SqlFilterCompiler(FilterCompiler[Sql]):
    def __init__(self, fields: Fields, lists_table: str) -> None:
        super().__init__(lambda operator: None)
        self._fields = fields
        self._lists = lists_table

    def all_of(self, parts: Sequence[Sql]) -> Sql:
        return _joined(" AND ", parts, "1 = 1")

    def any_of(self, parts: Sequence[Sql]) -> Sql:
        return _joined(" OR ", parts, "1 = 0")

    def negated(self, comparison: Comparison) -> Sql:
        sql, parameters = self.comparison(comparison)
        return f"({sql}) IS NOT TRUE", parameters

    def comparison(self, comparison: Comparison) -> Sql:
        name, operator, value = comparison.field, comparison.operator, comparison.value
        column = f"p.f_{name}"
        if operator is Operator.EXISTS:
            return f"{column} IS NOT NULL", []
        if operator is Operator.NE:
            return self.negated(Comparison(name, Operator.EQ, value))
        if operator is Operator.NOT_IN:
            return self.negated(Comparison(name, Operator.IN, value))
        if self._fields[name] is FieldType.LIST:
            return self._members(name, value if operator is Operator.IN else (value,))
        if operator is Operator.IN:
            return f"{column} IN (SELECT value FROM json_each(?))", [_json_set(value)]
        if operator is Operator.BETWEEN:
            return f"{column} BETWEEN ? AND ?", list(value)
        if operator is Operator.STARTS_WITH:
            return _starts_with(column, value)
        return f"{column} {_SIGNS[operator]} ?", [value]

    def _members(self, name: str, members: Sequence[str]) -> Sql:
        rows = f"SELECT row FROM {self._lists} WHERE field = ? AND value "
        if len(members) == 1:
            return f"p.row IN ({rows} = ?)", [name, members[0]]
        return f"p.row IN ({rows} IN (SELECT value FROM json_each(?)))", [name, _json_set(members)]


def _json_set(values: Sequence[Any]) -> str:
    return json.dumps([int(value) if isinstance(value, bool) else value for value in values])


def _starts_with(column: str, prefix: str) -> Sql:
    """As a range, so that a B-tree serves it; SQLite and Postgres (collation C) order text by code point."""
    end = _successor(prefix)
    if end is None:
        return f"{column} >= ?", [prefix]
    return f"{column} >= ? AND {column} < ?", [prefix, end]


def _successor(prefix: str) -> str | None:
    """The smallest text above everything that starts with `prefix`; None: there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < _LAST_CODE_POINT:
            following = 0xE000 if last == 0xD7FF else last + 1  # surrogates are no text
            return prefix[:-1] + chr(following)
        prefix = prefix[:-1]
    return None


def _joined(word: str, parts: Sequence[Sql], empty: str) -> Sql:
    if not parts:
        return empty, []
    return word.join(f"({sql})" for sql, _ in parts), [value for _, values in parts for value in values]
