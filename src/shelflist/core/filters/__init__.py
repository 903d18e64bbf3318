"""Filters: one language for all stores, in three forms (Python, JSON, text) with one meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, overload

import orjson

from shelflist.core.errors import InvalidFilter
from shelflist.core.fields import Fields, shown_value
from shelflist.core.filters.build import F
from shelflist.core.filters.check import check, normalise
from shelflist.core.filters.json_form import from_json, to_json
from shelflist.core.filters.nodes import And, Comparison, Filter, Not, Operator, Or
from shelflist.core.filters.text_form import from_text, to_text

__all__ = [
    "And",
    "Comparison",
    "F",
    "Filter",
    "Not",
    "Operator",
    "Or",
    "check",
    "from_json",
    "from_text",
    "normalise",
    "parse_filter",
    "prepare",
    "to_json",
    "to_text",
]


@overload
def parse_filter(value: None) -> None: ...
@overload
def parse_filter(value: Filter | Mapping[str, Any] | str) -> Filter: ...
@overload
def parse_filter(value: Filter | Mapping[str, Any] | str | None) -> Filter | None: ...
def parse_filter(value: Filter | Mapping[str, Any] | str | None) -> Filter | None:
    """A filter in any of its forms as a tree, not yet checked. Raises InvalidFilter if it cannot be read."""
    if value is None or isinstance(value, Filter):
        return value
    if isinstance(value, str):
        return from_json(_object(value)) if value.lstrip().startswith("{") else from_text(value)
    if isinstance(value, Mapping):
        return from_json(value)
    if isinstance(value, F):
        raise InvalidFilter(f"{value!r} is a field, not yet a filter. Compare it, for example {value!r} == value.")
    raise InvalidFilter(
        f"A filter is made with F, or is a JSON object or text, got {type(value).__name__} {shown_value(value)}. "
        'For example F("page_number") < 10, {"page_number": {"$lt": 10}} or "page_number < 10".'
    )


def _object(text: str) -> Mapping[str, Any]:
    """The JSON form as a shell passes it."""
    try:
        found: Mapping[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidFilter(
            f"The filter {shown_value(text)} begins like JSON and is not valid JSON: {error}."
        ) from None
    return found


@overload
def prepare(value: None, fields: Fields) -> None: ...
@overload
def prepare(value: Filter | Mapping[str, Any] | str, fields: Fields) -> Filter: ...
@overload
def prepare(value: Filter | Mapping[str, Any] | str | None, fields: Fields) -> Filter | None: ...
def prepare(value: Filter | Mapping[str, Any] | str | None, fields: Fields) -> Filter | None:
    """What a store is given: parsed, checked against the declared fields, normalised."""
    parsed = parse_filter(value)
    return None if parsed is None else normalise(check(parsed, fields))
