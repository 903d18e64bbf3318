"""Filters as SQL for Postgres, on the alias `p` of a generation's table.

Texts longer than an index takes stand in their column cut to `KEY_LENGTH` characters, whole in `overflow`. Cut text
orders like whole text against anything shorter, so only a comparison with a value as long as that reads `overflow`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from shelflist.core.errors import TenantRequired
from shelflist.core.fields import FieldType
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Or, parts_of
from shelflist.stores._sql import Sql, SqlFilterCompiler, field_column
from shelflist.stores.protocol import GenerationSpec, Scope

KEY_LENGTH = 200
"""Characters: with a tenant before it and the sign bits behind it still within the 2,704 bytes of a B-tree entry."""
_NAME_BYTES = 50
_CASTS = {
    FieldType.STR: "text",
    FieldType.INT: "bigint",
    FieldType.FLOAT: "double precision",
    FieldType.BOOL: "boolean",
    FieldType.DATETIME: "bigint",
    FieldType.LIST: "text",
}
"""What values are sent as. Datetimes are µs since 1970, as everywhere: a timestamptz could hold no more."""


@lru_cache(maxsize=1024)
def column(field: str) -> str:
    """The column of a declared field. Postgres cuts names at 63 bytes in silence, so long ones end in a hash."""
    name = field_column(field)
    if len(name.encode()) > _NAME_BYTES:
        start = name.encode()[: _NAME_BYTES - 16].decode(errors="ignore")
        name = f"{start}_h{hashlib.sha256(field.encode()).hexdigest()[:12]}"
    return f'"{name}"'


def key(text: str) -> str:
    """A text as it stands in an index where only equality is asked for: tenants and members of lists."""
    return text if len(text) <= KEY_LENGTH else f"\1h{hashlib.sha256(text.encode()).hexdigest()}"


class PostgresFilterCompiler(SqlFilterCompiler):
    true = "true"
    false = "false"
    differs = "IS DISTINCT FROM"

    def column(self, name: str) -> str:
        return f"p.{column(name)}"

    def compared(self, name: str, kind: FieldType, symbol: str, value: Any) -> Sql:
        return Sql(f"{self._side(name, value)} {symbol} ?::{_CASTS[kind]}", (_sent(kind, value),))

    def one_of(self, name: str, kind: FieldType, values: Sequence[Any]) -> Sql:
        sent = [_sent(kind, value) for value in values]
        short = [value for value in sent if not _is_long(value)]
        long = [value for value in sent if _is_long(value)]
        parts = [
            Sql(f"{self._side(name, some[0])} = ANY(?::{_CASTS[kind]}[])", (some,)) for some in (short, long) if some
        ]
        return self.any_of(parts) if parts else self.nothing()

    def has_member(self, name: str, members: Sequence[str]) -> Sql:
        symbol = "@>" if len(members) == 1 else "&&"
        return Sql(f"{self.column(name)} {symbol} ?::text[]", ([key(member) for member in members],))

    def _side(self, name: str, value: Any) -> str:
        """The field as it is to be compared with this value."""
        if _is_long(value):
            return f"(coalesce(p.overflow ->> '{column(name)[1:-1]}', {self.column(name)}) COLLATE \"C\")"
        return self.column(name)


def condition(spec: GenerationSpec, scope: Scope) -> Sql:
    """Which rows may answer: `index_status` stands in it as the partial indexes have it. TenantRequired without one."""
    if spec.tenanted and not scope.tenant:
        raise TenantRequired("This collection is searched per tenant. Use collection.tenant(id).")
    texts = ["p.index_status = 'indexed'"]
    parameters: list[Any] = []
    if scope.tenant is not None:
        texts.append("p.tenant_id = ?::text")
        parameters.append(key(scope.tenant))
    if scope.point_ids is not None:
        texts.append("p.point_id = ANY(?::uuid[])")
        parameters.append([one.hex() for one in scope.point_ids])
    if scope.filter is not None:
        compiled = PostgresFilterCompiler(spec.fields).compile(scope.filter)
        texts.append(f"({compiled.text})")
        parameters += compiled.parameters
    return Sql(" AND ".join(texts), tuple(parameters))


def is_covered(spec: GenerationSpec, scope: Scope) -> bool:
    """Whether one covering index holds all that the condition reads: the tenant of a tenanted generation, one field."""
    if scope.point_ids is not None or (scope.tenant is not None and not spec.tenanted):
        return False
    if scope.filter is None:
        return spec.tenanted
    comparisons = list(_comparisons(scope.filter))
    fields = {one.field for one in comparisons}
    return (
        len(fields) == 1
        and spec.fields[next(iter(fields))] is not FieldType.LIST
        and not any(_is_long(value) for one in comparisons for value in _values(one))
    )


def _comparisons(node: Filter) -> Sequence[Comparison]:
    match node:
        case Comparison():
            return (node,)
        case Not():
            return _comparisons(node.part)
        case And() | Or():
            return [one for part in parts_of(node) for one in _comparisons(part)]
    raise AssertionError(node)


def _values(node: Comparison) -> tuple[Any, ...]:
    return node.value if isinstance(node.value, tuple) else (node.value,)


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= KEY_LENGTH


def _sent(kind: FieldType, value: Any) -> Any:
    return float(value) if kind is FieldType.FLOAT else value
