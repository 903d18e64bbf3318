"""Filters: one language in three forms (`F(...)`, Mongo-style JSON, text), one meaning on every store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shelflist.core.errors import InvalidFilter
from shelflist.core.fields import Fields
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
    "normalise",
    "parse_filter",
    "prepare",
    "to_json",
    "to_text",
]


def parse_filter(value: Filter | Mapping[str, Any] | str | None) -> Filter | None:
    """A filter from any of its forms; None stays None. Raises InvalidFilter."""
    if value is None or isinstance(value, Filter):
        return value
    if isinstance(value, str):
        return from_text(value)
    if isinstance(value, Mapping):
        return from_json(value)
    raise InvalidFilter(
        f"A filter is F(...), a dict or text, got {type(value).__name__}. Example: F('page_number') < 10"
    )


def prepare(value: Filter | Mapping[str, Any] | str | None, fields: Fields) -> Filter | None:
    """Parsed, typed by the declared fields, and normalised: what stores compile."""
    parsed = parse_filter(value)
    return None if parsed is None else normalise(check(parsed, fields))
