"""Filters as SQL: what SQLite and Postgres share, and SQLite over the tables of the embedded store (alias `p`: the points).

Conditions are two-valued: a positive comparison of a missing value may come out as NULL, which selects nothing, and
whatever negates one says IS NOT. Every comparison that an index can answer stands in the form that SQLite's planner
recognises, so nothing here wraps a column in an expression.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shelflist.core.errors import FilterTooBroad
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.compiler import FilterCompiler
from shelflist.core.filters.nodes import Filter

if TYPE_CHECKING:
    from shelflist.core.capabilities import Capabilities

_MAX_BOUND_VALUES = 100
"""`in` with more values sends them as one JSON parameter instead of one parameter each."""
_MAX_PARAMETERS = 32_000
"""Below SQLite's own limit of 32,766, with room for what the store adds."""
_MAX_CHAIN = 16
"""Parts of one AND or OR, more are put in parentheses: SQLite refuses an expression deeper than 1,000, and takes
`a OR b OR c` for one as deep as it is long."""
_LAST_CODE_POINT = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Sql:
    """A condition with `?` placeholders and their values, in order. `depth` counts nested parentheses."""

    text: str
    parameters: tuple[Any, ...] = ()
    depth: int = 0


def compile_sql(
    filter: Filter, fields: Fields, lists_table: str, capabilities: Capabilities | None = None
) -> tuple[str, list[Any]]:
    """A checked and normalised filter as an SQL condition on the alias `p`, and its parameters.

    Field columns are named by `field_column`: TEXT, INTEGER, REAL; bool as 0 or 1; datetime as µs; for a list field 1
    where the list is not null. Members of lists are rows (field, value, row) of `lists_table`.
    Raises FilterTooBroad if the filter holds more values than one statement takes.
    """
    condition = SqliteFilterCompiler(fields, lists_table, capabilities).compile(filter)
    if len(condition.parameters) > _MAX_PARAMETERS:
        raise FilterTooBroad(
            f"The filter compares with {len(condition.parameters):,} values, more than SQLite takes in one query "
            f"({_MAX_PARAMETERS:,}). Use between for a range, or ask in parts."
        )
    return condition.text, list(condition.parameters)


def field_column(name: str) -> str:
    """The column of a declared field: prefixed, to keep it apart from the store's own columns and SQL's words, and with
    upper case escaped, because SQL does not tell `name` from `Name`; beyond ASCII SQLite does.
    """
    return "f_" + "".join(
        "_" + char if char == "_" else "_u" + char.lower() if "A" <= char <= "Z" else char for char in name
    )


class SqlFilterCompiler(FilterCompiler[Sql]):
    """What SQLite and Postgres say alike, as conditions on the alias `p`; a dialect says the rest."""

    true = "1"
    false = "0"
    differs = "IS NOT"

    def compared(self, name: str, kind: FieldType, symbol: str, value: Any) -> Sql:
        """A field compared with one value."""
        raise NotImplementedError

    def one_of(self, name: str, kind: FieldType, values: Sequence[Any]) -> Sql:
        """A field, not a list, that has one of these values."""
        raise NotImplementedError

    def has_member(self, name: str, members: Sequence[str]) -> Sql:
        """A list field that holds at least one of these."""
        raise NotImplementedError

    def everything(self) -> Sql:
        return Sql(self.true)

    def nothing(self) -> Sql:
        return Sql(self.false)

    def all_of(self, parts: Sequence[Sql]) -> Sql:
        return _joined(parts, " AND ")

    def any_of(self, parts: Sequence[Sql]) -> Sql:
        return _joined(parts, " OR ")

    def none_of(self, part: Sql) -> Sql:
        return Sql(f"({part.text}) IS NOT TRUE", part.parameters, part.depth + 1)

    def equal(self, name: str, kind: FieldType, value: Any) -> Sql:
        if kind is FieldType.LIST:
            return self.has_member(name, (value,))
        return self.compared(name, kind, "=", value)

    def not_equal(self, name: str, kind: FieldType, value: Any) -> Sql:
        if kind is FieldType.LIST:
            return self.none_of(self.equal(name, kind, value))
        return self.compared(name, kind, self.differs, value)

    def less(self, name: str, kind: FieldType, value: Any) -> Sql:
        return self.compared(name, kind, "<", value)

    def less_or_equal(self, name: str, kind: FieldType, value: Any) -> Sql:
        return self.compared(name, kind, "<=", value)

    def greater(self, name: str, kind: FieldType, value: Any) -> Sql:
        return self.compared(name, kind, ">", value)

    def greater_or_equal(self, name: str, kind: FieldType, value: Any) -> Sql:
        return self.compared(name, kind, ">=", value)

    def between(self, name: str, kind: FieldType, value: Any) -> Sql:
        low, high = value
        return self._range(self.compared(name, kind, ">=", low), self.compared(name, kind, "<=", high))

    def is_in(self, name: str, kind: FieldType, value: Any) -> Sql:
        return self.has_member(name, value) if kind is FieldType.LIST else self.one_of(name, kind, value)

    def not_in(self, name: str, kind: FieldType, value: Any) -> Sql:
        return self.none_of(self.is_in(name, kind, value))

    def contains(self, name: str, kind: FieldType, value: Any) -> Sql:
        return self.equal(name, kind, value)

    def starts_with(self, name: str, kind: FieldType, value: Any) -> Sql:
        # A range, because LIKE ignores case, has wildcards and leaves the index alone.
        if not value:
            return self.exists(name, kind, None)
        low, end = self.compared(name, kind, ">=", value), successor(value)
        return low if end is None else self._range(low, self.compared(name, kind, "<", end))

    def exists(self, name: str, kind: FieldType, value: Any) -> Sql:
        return Sql(f"{self.column(name)} IS NOT NULL")

    def column(self, name: str) -> str:
        return f"p.{field_column(name)}"

    def _range(self, low: Sql, high: Sql) -> Sql:
        return Sql(f"{low.text} AND {high.text}", (*low.parameters, *high.parameters), max(low.depth, high.depth))


class SqliteFilterCompiler(SqlFilterCompiler):
    def __init__(self, fields: Fields, lists_table: str, capabilities: Capabilities | None = None) -> None:
        super().__init__(fields, capabilities)
        self._lists_table = lists_table

    def compared(self, name: str, kind: FieldType, symbol: str, value: Any) -> Sql:
        return Sql(f"{self.column(name)} {symbol} ?", (_bound(value),))

    def one_of(self, name: str, kind: FieldType, values: Sequence[Any]) -> Sql:
        return _one_of(self.column(name), values)

    def has_member(self, name: str, members: Sequence[str]) -> Sql:
        condition = _one_of("value", members)
        return Sql(
            f"p.row IN (SELECT row FROM {self._lists_table} WHERE field = ? AND {condition.text})",
            (name, *condition.parameters),
            condition.depth + 1,
        )


def successor(prefix: str) -> str | None:
    """The smallest text, by code point, that is greater than every text with this prefix; None if there is none."""
    stem = prefix.rstrip(chr(_LAST_CODE_POINT))
    if not stem:
        return None
    code = ord(stem[-1]) + 1
    if 0xD800 <= code <= 0xDFFF:  # surrogates are not characters and have no UTF-8
        code = 0xE000
    return stem[:-1] + chr(code)


def _bound(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _one_of(column: str, values: Sequence[Any]) -> Sql:
    members = [_bound(value) for value in values]
    if len(members) <= _MAX_BOUND_VALUES:
        return _listed(column, members)
    sent = [member for member in members if _survives_json(member)]
    bound = [member for member in members if not _survives_json(member)]
    parts = []
    if sent:
        text = json.dumps(sent, ensure_ascii=False, separators=(",", ":"))
        parts.append(Sql(f"{column} IN (SELECT value FROM json_each(?))", (text,)))
    if bound:
        parts.append(_listed(column, bound))
    if len(parts) == 1:
        return parts[0]
    return Sql(f"({parts[0].text} OR {parts[1].text})", (*parts[0].parameters, *parts[1].parameters), 1)


def _listed(column: str, members: Sequence[Any]) -> Sql:
    return Sql(f"{column} IN ({', '.join('?' * len(members))})", tuple(members))


def _survives_json(member: Any) -> bool:
    # SQLite's JSON cuts text at NUL, and does not read every decimal fraction as the nearest float.
    return "\0" not in member if isinstance(member, str) else isinstance(member, int)


def _joined(parts: Sequence[Sql], word: str) -> Sql:
    # The deepest first: SQLite's parser keeps what stands before an open parenthesis on a stack of 100.
    ordered = sorted(parts, key=lambda part: -part.depth)
    while len(ordered) > _MAX_CHAIN:
        ordered = [_chain(ordered[i : i + _MAX_CHAIN], word) for i in range(0, len(ordered), _MAX_CHAIN)]
    return _chain(ordered, word)


def _chain(parts: Sequence[Sql], word: str) -> Sql:
    if len(parts) == 1:
        return parts[0]
    return Sql(
        f"({word.join(part.text for part in parts)})",
        tuple(value for part in parts for value in part.parameters),
        1 + max(part.depth for part in parts),
    )
