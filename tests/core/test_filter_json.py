"""JSON that is no filter: refused, naming the key and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

from shelflist.core.errors import InvalidFilter
from shelflist.core.filters import from_json

WRONG: list[tuple[Any, str]] = [
    ({}, "empty"),
    ({"page": {}}, "'page' is empty"),
    ({"$and": []}, r"\$and has no filters"),
    ({"$or": []}, r"\$or has no filters"),
    ({"$nor": []}, r"\$nor has no filters"),
    ({"$not": {}}, r"\$not is empty"),
    ({"$and": [{}]}, r"\$and\[0\] is empty"),
    ({"$or": [{"page": 1}, 3]}, r"\$or\[1\] must be an object"),
    ({"$and": {"page": 1}}, r"\$and takes a list"),
    ({"$not": [{"page": 1}]}, r"\$not must be an object"),
    ({"$nand": [{"page": 1}]}, r"Did you mean '\$and'"),
    ({"$lt": 3}, r'"field": {"\$lt": value}'),
    ({3: 1}, "key int 3"),
    ({"page": None}, r'"page": {"\$exists": false}'),
    ({"page": [1, 2]}, r'"\$in"'),
    ({"page": {"$lt": 1, "other": 2}}, "'other', which is not an operator"),
    ({"page": {"lt": 1}}, r"Did you mean '\$lt'"),
    ({"page": {"$less": 1}}, "Operators: "),
    ({"page": {"$ltt": 1}}, r"'\$ltt' on field 'page'. Did you mean '\$lt'"),
    ({"page": {"$LTE": 1}}, r"Did you mean '\$lte'"),
    ({"title": {"$startswith": "a"}}, r"Did you mean '\$startsWith'"),
    ({"title": {"$starts_with": "a"}}, r"Did you mean '\$startsWith'"),
    ({"page": {"$or": [1]}}, r"cannot stand inside field 'page'"),
    ({"page": {"$not": 3}}, r"\$not on field 'page' takes an object"),
    ({"page": {"$not": {}}}, "'page' is empty"),
    ({"page": {"$exists": 1}}, "true or false"),
    ({"page": {"$exists": "true"}}, "true or false"),
    ({"page": {"$in": 1}}, "list of values"),
    ({"page": {"$nin": "abc"}}, "list of values"),
    ({"page": {"$between": [1]}}, "two values"),
    ({"page": {"$between": 1}}, "two values"),
    ({"page": {"$eq": [1]}}, "takes one value"),
    ({"page": {"$lt": {"$gt": 1}}}, "takes one value"),
]


@pytest.mark.parametrize(("form", "part"), WRONG, ids=[str(form) for form, _ in WRONG])
def test_refused(form: Any, part: str) -> None:
    with pytest.raises(InvalidFilter, match=part):
        from_json(form)


@pytest.mark.parametrize("outer", ["$not", "field"])
def test_endless_nesting_is_refused(outer: str) -> None:
    form: dict[str, Any] = {"page": 1} if outer == "$not" else {"$lt": 1}
    for _ in range(3_000):
        form = {"$not": form}
    with pytest.raises(InvalidFilter, match="nested"):
        from_json(form if outer == "$not" else {"page": form})
