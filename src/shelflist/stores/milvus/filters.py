"""Filters as Milvus expressions, and the form in which Milvus holds a value so that they can be.

No field is ever null in Milvus: the servers disagree on what null means, and the oldest knows none. A missing value is
one that no present value has: "" beside texts that begin with "=", an int beyond all that are accepted, -1 beside 0 and
1, a list without PRESENT. Floats leave none free: a second field says whether they are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from shelflist.core.capabilities import Capabilities
from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.compiler import FilterCompiler

LATER = "later"
"""The JSON field of declared fields that have no field of their own."""

PRESENT = "+"
_NO_INT = -(2**62)
_LONGEST_NAME = 200
_LAST = 0x10FFFF
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def column(name: str) -> str:
    """The Milvus field of a declared field: letters, digits and underscores, never a name of Milvus' or ours."""
    if name.isascii() and len(name) <= _LONGEST_NAME:
        return f"f_{name}"
    return f"x_{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def marker(name: str) -> str:
    """The Milvus field that says whether a point has the declared float."""
    return f"has_{column(name)}"


def alone(name: str) -> str:
    """The key in LATER of a list with the value as its only member: Lite has `in` for fields, and this for JSON."""
    return f"in_{column(name)}"


def held(kind: FieldType, value: Any) -> Any:
    """A value of a declared field as Milvus holds it; None is a missing one."""
    match kind:
        case FieldType.STR:
            return "" if value is None else f"={value}"
        case FieldType.INT | FieldType.DATETIME:
            return _NO_INT if value is None else value
        case FieldType.BOOL:
            return -1 if value is None else int(value)
        case FieldType.LIST:
            return [] if value is None else [PRESENT, *(f"={member}" for member in value)]
        case FieldType.FLOAT:
            return 0.0 if value is None else value


def released(kind: FieldType, value: Any) -> Any:
    """The value behind what Milvus holds, None for a missing one. Of floats the marker says whether they are there."""
    match kind:
        case FieldType.STR:
            return value[1:] if value else None
        case FieldType.INT | FieldType.DATETIME:
            return None if value == _NO_INT else value
        case FieldType.BOOL:
            return None if value < 0 else bool(value)
        case FieldType.LIST:
            members = list(value)
            return [member[1:] for member in members[1:]] if members else None
        case FieldType.FLOAT:
            return float(value)


def text(value: str) -> str:
    """A text as a literal that both the server and Lite read."""
    return f'"{value.translate(_ESCAPES)}"'


def one_of(field: str, values: Iterable[str]) -> str:
    return f"{field} in [{','.join(map(text, values))}]"


class MilvusFilters(FilterCompiler[str]):
    """`columns`: the fields that the collection has; other declared fields are in LATER."""

    def __init__(self, fields: Fields, capabilities: Capabilities, columns: Collection[str]) -> None:
        super().__init__(fields, capabilities)
        self._columns = columns

    def everything(self) -> str:
        return 'id != ""'

    def nothing(self) -> str:
        return 'id == ""'

    def all_of(self, parts: Sequence[str]) -> str:
        return " and ".join(f"({part})" for part in parts)

    def any_of(self, parts: Sequence[str]) -> str:
        return " or ".join(f"({part})" for part in parts)

    def none_of(self, part: str) -> str:
        return f"not ({part})"

    def equal(self, name: str, kind: FieldType, value: Any) -> str:
        if kind is FieldType.LIST:
            return self.contains(name, kind, value)
        return self._there(name, kind, f"{self._field(name)} == {_literal(kind, value)}")

    def not_equal(self, name: str, kind: FieldType, value: Any) -> str:
        return self.none_of(self.equal(name, kind, value))

    def less(self, name: str, kind: FieldType, value: Any) -> str:
        return f"{self.exists(name, kind, None)} and {self._field(name)} < {_literal(kind, value)}"

    def less_or_equal(self, name: str, kind: FieldType, value: Any) -> str:
        return f"{self.exists(name, kind, None)} and {self._field(name)} <= {_literal(kind, value)}"

    def greater(self, name: str, kind: FieldType, value: Any) -> str:
        return self._there(name, kind, f"{self._field(name)} > {_literal(kind, value)}")

    def greater_or_equal(self, name: str, kind: FieldType, value: Any) -> str:
        return self._there(name, kind, f"{self._field(name)} >= {_literal(kind, value)}")

    def is_in(self, name: str, kind: FieldType, value: Any) -> str:
        values = f"[{','.join(_literal(kind, each) for each in value)}]"
        if kind is FieldType.LIST:
            function = "array_contains_any" if self._is_column(name) else "json_contains_any"
            return f"{function}({self._field(name)}, {values})"
        if not self._is_column(name):
            return f"json_contains_any({self._place(name, alone(name))}, {values})"
        return self._there(name, kind, f"{self._field(name)} in {values}")

    def not_in(self, name: str, kind: FieldType, value: Any) -> str:
        return self.none_of(self.is_in(name, kind, value))

    def between(self, name: str, kind: FieldType, value: Any) -> str:
        low, high = (_literal(kind, each) for each in value)
        return self._there(name, kind, f"{self._field(name)} >= {low} and {self._field(name)} <= {high}")

    def contains(self, name: str, kind: FieldType, value: Any) -> str:
        return self._has_member(name, f"={value}")

    def starts_with(self, name: str, kind: FieldType, value: Any) -> str:
        # `like` knows no way to write % or _ themselves in Milvus 2.3; a prefix is also a range.
        field, prefix = self._field(name), f"={value}"
        return f"{field} >= {text(prefix)} and {field} < {text(_after(prefix))}"

    def exists(self, name: str, kind: FieldType, value: Any) -> str:
        match kind:
            case FieldType.STR:
                return f'{self._field(name)} != ""'
            case FieldType.INT | FieldType.DATETIME:
                return f"{self._field(name)} > {_NO_INT}"
            case FieldType.BOOL:
                return f"{self._field(name)} >= 0"
            case FieldType.LIST:
                return self._has_member(name, PRESENT)
            case FieldType.FLOAT:
                return f"{self._place(name, marker(name))} == true"

    def _has_member(self, name: str, member: str) -> str:
        function = "array_contains" if self._is_column(name) else "json_contains"
        return f"{function}({self._field(name)}, {text(member)})"

    def _is_column(self, name: str) -> bool:
        return column(name) in self._columns

    def _field(self, name: str) -> str:
        return self._place(name, column(name))

    def _place(self, name: str, field: str) -> str:
        return field if self._is_column(name) else f'{LATER}["{field}"]'

    def _there(self, name: str, kind: FieldType, condition: str) -> str:
        """A condition that no missing value meets; of floats, one may."""
        return f"{self.exists(name, kind, None)} and {condition}" if kind is FieldType.FLOAT else condition


def _literal(kind: FieldType, value: Any) -> str:
    match kind:
        case FieldType.STR | FieldType.LIST:
            return text(f"={value}")
        case FieldType.FLOAT:
            return repr(float(value))
        case _:
            return str(int(value))


def _after(prefix: str) -> str:
    """The first text, by code points, after all that begin with the prefix, which begins with "="."""
    prefix = prefix.rstrip(chr(_LAST))
    last = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if 0xD800 <= last < 0xE000 else last)
