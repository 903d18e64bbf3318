"""Declared metadata fields: their types, how values are checked, and the one stored form of each value.

A declared field can be filtered on. Undeclared keys are stored and returned, but not filterable.
Stored form: str, int, float, bool as they are; datetime as int microseconds since the epoch, UTC; list[str] as a list.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

import orjson

from shelflist.core.errors import ConfigError, InvalidInput, UnknownField, WrongFieldType

MAX_INT = 2**53
"""Largest accepted int: above it JSON numbers stop being exact in many stores."""

_MAX_NESTING = 100
"""Deepest accepted undeclared value: JSON readers give up between 200 and 1,000."""
_MIN_JSON_INT, _MAX_JSON_INT = -(2**63), 2**64 - 1

_COPY = "Keep a copy of it in the metadata under another name, and declare that with: shelflist fields add NAME TYPE"
_RESERVED: Mapping[str, str] = {
    "tenant_id": "A tenant is chosen before the search: collection.tenant(id) (--tenant ID).",
    "document_id": f"The chunks of a document are listed by: shelflist show DOCUMENT. {_COPY}",
    "index_status": "A search sees what is indexed and nothing else; shelflist status counts the rest.",
    "chunk_id": _COPY,
    "content": "Its words are found by keyword search: mode='keyword' (--mode keyword).",
    "section": _COPY,
    "embedding": "It is what a search by vector compares.",
}
"""Names that are Shelflist's own, and what takes the place of a filter on each."""


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


_ADVICE: Mapping[FieldType, str] = {
    FieldType.STR: "Give it as text, in quotes.",
    FieldType.INT: "Give a whole number below 2^53 without quotes, or keep it as text in a field of type str.",
    FieldType.FLOAT: "Give a finite number, without quotes.",
    FieldType.BOOL: "Give true or false, without quotes.",
    FieldType.DATETIME: "Give a moment with its time zone, such as 2024-01-31T09:00:00+00:00 (a column of Parquet: cast it "
    "to a timestamp with a zone).",
    FieldType.LIST: 'Give a list of texts, such as ["api", "keys"].',
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
        if declared is not None and not isinstance(declared, Mapping):
            raise ConfigError(
                f"fields={shown_value(declared)} is {type(declared).__name__}. Give each name its type: "
                'fields={"page_number": int}'
            )
        self._types: dict[str, FieldType] = {}
        for name, kind in (declared or {}).items():
            if not isinstance(name, str) or not name.isidentifier():
                raise ConfigError(f"Field name {name!r} is not an identifier (letters, digits, underscore).")
            if name in _RESERVED:
                raise ConfigError(f"Field name {name!r} is Shelflist's own. Choose another name.")
            self._types[name] = field_type(kind)
        self._datetimes = [name for name, kind in self._types.items() if kind is FieldType.DATETIME]

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
        """The type of a field; raises UnknownField with the nearest name, or with what to do instead of a filter on it."""
        try:
            return self._types[name]
        except KeyError:
            if name in _RESERVED:
                raise UnknownField(f"{name!r} is Shelflist's own, and no filter reads it. {_RESERVED[name]}") from None
            raise UnknownField.named(name, self._types) from None

    def to_json(self) -> dict[str, str]:
        return {name: kind.value for name, kind in self._types.items()}

    @cached_property
    def text(self) -> str:
        """As they are stored: JSON."""
        return orjson.dumps(self.to_json()).decode()

    def stored(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Metadata in stored form. WrongFieldType names field, value and expected type, and says what to give;
        InvalidInput: it is no mapping."""
        if not isinstance(metadata, Mapping):
            raise InvalidInput(
                f"The metadata of a chunk is {type(metadata).__name__} {shown_value(metadata)}. Give a dict, such as "
                '{"page_number": 3}, or leave it out.'
            )
        stored: dict[str, Any] = {}
        for name, value in metadata.items():
            if type(name) is not str or not name.isascii():
                if not isinstance(name, str):
                    raise WrongFieldType(f"Metadata key {shown_value(name)} is not text. Write each key as text.")
                name = _str(name, name)
            kind = self._types.get(name)
            if type(value) is str and (kind is None or kind is FieldType.STR) and value.isascii():
                stored[name] = value  # what most metadata is, and nothing can be wrong with it
                continue
            if kind is None or value is None:
                stored[name] = _plain(name, value)
                continue
            try:
                stored[name] = stored_value(name, kind, value)
            except WrongFieldType as error:
                raise WrongFieldType(f"{error}. {_ADVICE[kind]}") from None
        return stored

    def newly_declared(self, metadata: Mapping[str, Any], old: Fields) -> dict[str, Any]:
        """Metadata stored under the `old` declaration, in the stored form of this one. Raises WrongFieldType."""
        added = {
            name: stored_value(name, self._types[name], value)
            for name, value in metadata.items()
            if value is not None and name in self._types and name not in old
        }
        return {**metadata, **added}

    def shown(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Stored metadata as users see it: datetimes are aware datetimes again."""
        shown = dict(metadata)
        for name in self._datetimes:
            if isinstance(shown.get(name), int):
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
    """A value in the stored form of its field, or WrongFieldType without a full stop, so that what to do can follow.
    Bool is not int; int is accepted for float."""
    return _CONVERTERS[kind](name, value)


def _wrong(name: str, kind: FieldType, value: Any, why: str = "") -> WrongFieldType:
    return WrongFieldType(f"Field {name!r} is {kind.value}, got {type(value).__name__} {shown_value(value)}{why}")


def shown_value(value: Any) -> str:
    """A value in a message, cut to 80 characters. Never raises, whatever the value's repr does."""
    try:
        shown = value.isoformat() if isinstance(value, date) else repr(value)
    except Exception:  # an int of more than 4,300 digits has no repr, nor has a value that is nested too deep
        return "that cannot be shown"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _str(name: str, value: Any, kind: FieldType = FieldType.STR) -> str:
    if type(value) is str and value.isascii():
        return value
    if not isinstance(value, str):
        raise _wrong(name, kind, value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(name, kind, value, " which is not valid Unicode text") from None
    return str.__str__(value)  # str(value) of an enum member may be its name


def _int(name: str, value: Any) -> int:
    number = whole(value)
    if number is None:
        raise _wrong(name, FieldType.INT, value)
    if abs(number) > MAX_INT:
        raise _wrong(name, FieldType.INT, value, " beyond 2^53")
    return number


def _float(name: str, value: Any) -> float:
    integer = whole(value)
    if integer is None and not _is_real(value):
        raise _wrong(name, FieldType.FLOAT, value)
    if integer is not None and abs(integer) > MAX_INT:
        raise _wrong(name, FieldType.FLOAT, value, " beyond 2^53")
    number = float(value if integer is None else integer)
    if not math.isfinite(number):
        raise _wrong(name, FieldType.FLOAT, value, " which is not finite")
    return number + 0.0  # -0.0 becomes 0.0, so that equal numbers have one stored form


def _bool(name: str, value: Any) -> bool:
    if not is_bool(value):
        raise _wrong(name, FieldType.BOOL, value)
    return bool(value)


def _datetime(name: str, value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _wrong(name, FieldType.DATETIME, value, ", which is no date and time in ISO 8601") from None
    if not isinstance(value, datetime):
        raise _wrong(name, FieldType.DATETIME, value)
    if value.tzinfo is None or value.utcoffset() is None:
        raise _wrong(name, FieldType.DATETIME, value, " without a time zone")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise _wrong(name, FieldType.DATETIME, value, " outside the years 1 to 9999 in UTC") from None
    return microseconds(value)


def _list(name: str, value: Any) -> list[str]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise _wrong(name, FieldType.LIST, value)
    members = [_str(name, member, FieldType.LIST) for member in value]
    return sorted(members) if isinstance(value, (set, frozenset)) else members


_CONVERTERS: Mapping[FieldType, Callable[[str, Any], Any]] = {
    FieldType.STR: _str,
    FieldType.INT: _int,
    FieldType.FLOAT: _float,
    FieldType.BOOL: _bool,
    FieldType.DATETIME: _datetime,
    FieldType.LIST: _list,
}


def is_bool(value: Any) -> bool:
    """Whether it is True or False, of Python or of NumPy: to Python these equal 1 and 0, to a field they do not."""
    # numpy is not imported to ask: its bool is called bool_ in version 1, and bool in version 2.
    return isinstance(value, bool) or (type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"))


def whole(value: Any) -> int | None:
    """An integer of any kind as int; None for everything else, bool included."""
    if is_bool(value):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _is_real(value: Any) -> bool:
    return isinstance(value, float) or type(value).__name__ in ("float32", "float16")


def _plain(name: str, value: Any, depth: int = 0) -> Any:
    """An undeclared value as JSON: what cannot be said in JSON is refused, never altered in silence."""
    if depth > _MAX_NESTING:
        raise WrongFieldType(f"Metadata {name!r:.80} is nested more than {_MAX_NESTING} levels deep. Store it flatter.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not _MIN_JSON_INT <= value <= _MAX_JSON_INT:
            raise WrongFieldType(f"Metadata {name!r} is an int beyond 64 bits. Convert it to text first.")
        return int(value)
    if isinstance(value, str):
        return _str(name, value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WrongFieldType(f"Metadata {name!r} is {value!r}, which JSON cannot hold. Leave it out, or give text.")
        return float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return _plain_object(name, value, depth)
    if isinstance(value, (list, tuple)):
        return [_plain(name, member, depth + 1) for member in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _plain(name, value.item(), depth + 1)
    kind = type(value).__name__
    raise WrongFieldType(f"Metadata {name!r} is a {kind}, which JSON cannot hold. Convert it to text first.")


def _plain_object(name: str, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, member in value.items():
        text = _str(name, key if isinstance(key, str) else str(key))  # YAML has keys such as 2024
        if text in plain:
            raise WrongFieldType(f"Metadata {name!r} has two keys that JSON writes as {text!r}. Rename one.")
        plain[text] = _plain(f"{name}.{text}", member, depth + 1)
    return plain
