"""Declared metadata fields: their types, how values are checked, and the one stored form of each value.

A declared field can be filtered on. Undeclared keys are stored and returned, but not filterable.
Stored form: str, int, float, bool as they are; datetime as int microseconds since the epoch, UTC; list of str as a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from shelflist.core.errors import ConfigError, UnknownField, WrongFieldType

MAX_INT = 2**53
"""Largest accepted int: above it JSON numbers stop being exact in many stores."""

_RESERVED = frozenset({"tenant_id", "document_id", "index_status", "chunk_id", "content", "section", "embedding"})


class FieldType(StrEnum):
    STR = "str"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    DATETIME = "datetime"
    LIST = "list[str]"


_FROM_PYTHON: Mapping[Any, FieldType] = {
    str: FieldType.STR,
    int: FieldType.INT,
    float: FieldType.FLOAT,
    bool: FieldType.BOOL,
    datetime: FieldType.DATETIME,
    list[str]: FieldType.LIST,
}


def field_type(declared: Any) -> FieldType:
    """The type that a user declared as a Python type or by name; raises ConfigError for anything else."""
    if isinstance(declared, str):
        name = declared.replace(" ", "")
        if name in ("list", "tags"):
            name = "list[str]"
        try:
            return FieldType(name)
        except ValueError:
            pass
    else:
        try:
            return _FROM_PYTHON[declared]
        except (KeyError, TypeError):
            pass
    choices = ", ".join(t.value for t in FieldType)
    raise ConfigError(f"{declared!r} is not a field type. Use one of: {choices}")


class Fields(Mapping[str, FieldType]):
    """The declared fields of a collection, by name."""

    def __init__(self, declared: Mapping[str, Any] | None = None) -> None:
        self._types: dict[str, FieldType] = {}
        for name, kind in (declared or {}).items():
            if not isinstance(name, str) or not name.isidentifier():
                raise ConfigError(f"Field name {name!r} is not an identifier (letters, digits, underscore).")
            if name in _RESERVED:
                raise ConfigError(f"Field name {name!r} is Shelflist's own. Choose another name.")
            self._types[name] = field_type(kind)

    def __getitem__(self, name: str) -> FieldType:
        return self._types[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._types)

    def __len__(self) -> int:
        return len(self._types)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._types.items())))

    def __repr__(self) -> str:
        return f"Fields({self.to_json()!r})"

    def require(self, name: str) -> FieldType:
        """The type of a field; raises UnknownField with the nearest name."""
        try:
            return self._types[name]
        except KeyError:
            raise UnknownField.named(name, self._types) from None

    def to_json(self) -> dict[str, str]:
        return {name: kind.value for name, kind in self._types.items()}

    def stored(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata in stored form. Raises WrongFieldType naming field, value and expected type."""
        stored: dict[str, Any] = {}
        for name, value in metadata.items():
            if not isinstance(name, str):
                raise WrongFieldType(f"Metadata key {name!r} is not a string.")
            kind = self._types.get(name)
            stored[name] = _plain(name, value) if kind is None or value is None else stored_value(name, kind, value)
        return stored

    def shown(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Stored metadata as users see it: datetimes are aware datetimes again."""
        shown = dict(metadata)
        for name, kind in self._types.items():
            if kind is FieldType.DATETIME and isinstance(shown.get(name), int):
                shown[name] = from_microseconds(shown[name])
        return shown


def microseconds(value: datetime) -> int:
    """An aware datetime as microseconds since the epoch, without float rounding."""
    delta = value - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_microseconds(value: int) -> datetime:
    from datetime import timedelta

    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)


def stored_value(name: str, kind: FieldType, value: Any) -> Any:
    """A value in the stored form of its field, or WrongFieldType. Bool is not int; int is accepted for float."""
    return _CONVERTERS[kind](name, value)


def _wrong(name: str, kind: FieldType, value: Any, why: str = "") -> WrongFieldType:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return WrongFieldType(f"Field {name!r} is {kind.value}, got {type(value).__name__} {shown}{why}")


def _str(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, FieldType.STR, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(name, FieldType.STR, value, " which is not valid Unicode text") from None
    return str(value)


def _int(name: str, value: Any) -> int:
    if isinstance(value, bool) or not _is_integral(value):
        raise _wrong(name, FieldType.INT, value)
    if abs(int(value)) > MAX_INT:
        raise _wrong(name, FieldType.INT, value, " beyond 2^53. Store it as a str")
    return int(value)


def _float(name: str, value: Any) -> float:
    if isinstance(value, bool) or not (_is_integral(value) or _is_real(value)):
        raise _wrong(name, FieldType.FLOAT, value)
    if _is_integral(value) and abs(int(value)) > MAX_INT:
        raise _wrong(name, FieldType.FLOAT, value, " beyond 2^53")
    number = float(value)
    if not math.isfinite(number):
        raise _wrong(name, FieldType.FLOAT, value, " which is not finite")
    return number + 0.0  # -0.0 becomes 0.0, so that equal numbers have one stored form


def _bool(name: str, value: Any) -> bool:
    if not (isinstance(value, bool) or type(value).__name__ == "bool_"):
        raise _wrong(name, FieldType.BOOL, value)
    return bool(value)


def _datetime(name: str, value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _wrong(name, FieldType.DATETIME, value, ". Give a datetime or ISO 8601 text") from None
    if not isinstance(value, datetime):
        raise _wrong(name, FieldType.DATETIME, value)
    if value.tzinfo is None or value.utcoffset() is None:
        raise _wrong(name, FieldType.DATETIME, value, " without a time zone. Add one, for example tzinfo=timezone.utc")
    return microseconds(value)


def _list(name: str, value: Any) -> list[str]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise _wrong(name, FieldType.LIST, value)
    members = sorted(value) if isinstance(value, (set, frozenset)) else value
    return [_str(name, member) for member in members]


_CONVERTERS: Mapping[FieldType, Callable[[str, Any], Any]] = {
    FieldType.STR: _str,
    FieldType.INT: _int,
    FieldType.FLOAT: _float,
    FieldType.BOOL: _bool,
    FieldType.DATETIME: _datetime,
    FieldType.LIST: _list,
}


def _is_integral(value: Any) -> bool:
    return isinstance(value, int) or hasattr(value, "__index__")


def _is_real(value: Any) -> bool:
    return isinstance(value, float) or type(value).__name__ in ("float32", "float16")


def _plain(name: str, value: Any) -> Any:
    """An undeclared value as JSON: what cannot be said in JSON is refused, never altered in silence."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _str(name, value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WrongFieldType(f"Metadata {name!r} is {value!r}, which JSON cannot hold.")
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{name}.{key}", member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(name, member) for member in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _plain(name, value.item())
    raise WrongFieldType(f"Metadata {name!r} is a {type(value).__name__}, which JSON cannot hold. Convert it to text first.")
