"""Declared fields as columns: which rows of a snapshot a filter matches, without asking the database.

Each column is a sorted list of its distinct values and, for every position, the place of its value in that list (-1: it has
none). So every comparison is a range of places, or a few of them, whatever the type. A list field has, for each distinct
member, the positions that hold it. Files of a snapshot's directory, where N numbers the columns:

    columns.json       names and types            column-N.values.json   the distinct values, ascending
    column-N.places    int32 by position; for a list 0 if there is one, -1 if not
    column-N.starts    int64, column-N.rows   int32: of a list field, the positions of member m stand from starts[m] on

Columns are read when a filter first asks for them, and mapped.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from shelflist.core.fields import Fields, FieldType
from shelflist.core.filters.compiler import FilterCompiler
from shelflist.core.filters.nodes import Filter
from shelflist.engine.codes import Mask

COLUMNS = "columns.json"
TENANT = ""
"""The name of the column of tenants; a field has a longer one."""
_MISSING = -1


class ColumnsWriter:
    """Takes the rows in order of position, then writes the files."""

    def __init__(self, kinds: Mapping[str, FieldType]) -> None:
        self._kinds = dict(kinds)
        self._places: dict[str, dict[Any, int]] = {name: {} for name in kinds}
        self._rows: dict[str, list[npt.NDArray[np.int32]]] = {name: [] for name in kinds}
        self._members: dict[str, tuple[list[int], list[int]]] = {
            name: ([], []) for name, kind in kinds.items() if kind is FieldType.LIST
        }

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """The stored values of the next positions, in the order of the columns; of a list anything but None."""
        for name, values in zip(self._kinds, zip(*rows, strict=True), strict=True):
            places = self._places[name]
            if name in self._members:
                found = [_MISSING if value is None else 0 for value in values]
            else:
                found = [_MISSING if value is None else places.setdefault(value, len(places)) for value in values]
            self._rows[name].append(np.asarray(found, np.int32))

    def add_member(self, name: str, member: str, position: int) -> None:
        """Say that the list at the position holds the member; each pair once, in any order."""
        members, positions = self._members[name]
        places = self._places[name]
        members.append(places.setdefault(member, len(places)))
        positions.append(position)

    def save(self, directory: Path) -> None:
        for number, name in enumerate(self._kinds):
            places = self._places[name]
            values = sorted(places)
            renumbered = np.empty(len(values) + 1, np.int32)
            renumbered[[places[value] for value in values]] = np.arange(len(values), dtype=np.int32)
            renumbered[_MISSING] = _MISSING
            rows = np.concatenate(self._rows[name]) if self._rows[name] else np.empty(0, np.int32)
            (directory / f"column-{number}.values.json").write_bytes(orjson.dumps(values))
            if name in self._members:
                members, positions = (np.asarray(one, np.int32) for one in self._members[name])
                members = renumbered[members]
                order = np.argsort(members, kind="stable")
                starts = np.searchsorted(members[order], np.arange(len(values) + 1)).astype(np.int64)
                (directory / f"column-{number}.starts").write_bytes(starts.data)
                (directory / f"column-{number}.rows").write_bytes(positions[order].data)
            else:
                rows = renumbered[rows]
            (directory / f"column-{number}.places").write_bytes(rows.data)
        names = [{"name": name, "kind": kind.value} for name, kind in self._kinds.items()]
        (directory / COLUMNS).write_bytes(orjson.dumps(names))


class _Column:
    """One column, mapped. `starts` and `rows`: of a list field."""

    def __init__(self, directory: Path, number: int, kind: FieldType, count: int) -> None:
        stem = f"column-{number}"
        self.values: list[Any] = orjson.loads((directory / f"{stem}.values.json").read_bytes())
        self.places = _mapped(directory / f"{stem}.places", np.int32)
        if len(self.places) != count:
            raise ValueError(f"{stem} is of {len(self.places)} rows, not {count}")
        if kind is FieldType.LIST:
            self.starts = _mapped(directory / f"{stem}.starts", np.int64)
            self.rows = _mapped(directory / f"{stem}.rows", np.int32)


class Columns:
    """The columns of a snapshot of `count` rows."""

    def __init__(self, directory: Path | None = None, count: int = 0) -> None:
        self._directory = directory
        self._count = count
        self._known: dict[str, _Column] = {}
        self._numbers: dict[str, tuple[int, FieldType]] = {}
        if directory is not None:
            listed = orjson.loads((directory / COLUMNS).read_bytes())
            self._numbers = {one["name"]: (number, FieldType(one["kind"])) for number, one in enumerate(listed)}

    def matching(self, filter: Filter | None, fields: Fields, tenant: str | None = None) -> Mask | None:
        """Which positions a checked and normalised filter matches, of the tenant's; None where a column is missing: of a
        field that was declared since, or because the snapshot has been replaced and its files are gone."""
        try:
            masks = [] if filter is None else [_ColumnFilter(self, fields, self._count).compile(filter)]
            if tenant is not None:
                masks.append(_ColumnFilter(self, fields, self._count).equal(TENANT, FieldType.STR, tenant))
        except (LookupError, OSError, ValueError):
            return None
        return np.logical_and.reduce(masks) if masks else np.ones(self._count, np.bool_)

    def column(self, name: str) -> _Column:
        """LookupError if there is none."""
        known = self._known.get(name)
        if known is None:
            number, kind = self._numbers[name]
            assert self._directory is not None
            known = self._known[name] = _Column(self._directory, number, kind, self._count)
        return known


class _ColumnFilter(FilterCompiler[Mask]):
    """A filter as the mask of the positions that it matches."""

    def __init__(self, columns: Columns, fields: Fields, count: int) -> None:
        super().__init__(fields)
        self._columns = columns
        self._count = count

    def everything(self) -> Mask:
        return np.ones(self._count, np.bool_)

    def nothing(self) -> Mask:
        return np.zeros(self._count, np.bool_)

    def all_of(self, parts: Sequence[Mask]) -> Mask:
        return np.asarray(np.logical_and.reduce(parts), np.bool_)

    def any_of(self, parts: Sequence[Mask]) -> Mask:
        return np.asarray(np.logical_or.reduce(parts), np.bool_)

    def none_of(self, part: Mask) -> Mask:
        return ~part

    def equal(self, name: str, kind: FieldType, value: Any) -> Mask:
        return self.is_in(name, kind, (value,))

    def not_equal(self, name: str, kind: FieldType, value: Any) -> Mask:
        return ~self.equal(name, kind, value)

    def is_in(self, name: str, kind: FieldType, value: Any) -> Mask:
        column = self._columns.column(name)
        found = {place for one in value if (place := _place(column.values, one)) is not None}
        if kind is FieldType.LIST:
            mask = self.nothing()
            for place in found:
                mask[column.rows[column.starts[place] : column.starts[place + 1]]] = True
            return mask
        if len(found) == 1:
            return np.asarray(column.places == found.pop(), np.bool_)
        chosen = np.zeros(len(column.values) + 1, np.bool_)  # the last is read for those without a value
        chosen[list(found)] = True
        return np.asarray(chosen[column.places], np.bool_)

    def not_in(self, name: str, kind: FieldType, value: Any) -> Mask:
        return ~self.is_in(name, kind, value)

    def contains(self, name: str, kind: FieldType, value: Any) -> Mask:
        return self.equal(name, kind, value)

    def less(self, name: str, kind: FieldType, value: Any) -> Mask:
        return self._between(name, 0, bisect_left(self._columns.column(name).values, value))

    def less_or_equal(self, name: str, kind: FieldType, value: Any) -> Mask:
        return self._between(name, 0, bisect_right(self._columns.column(name).values, value))

    def greater(self, name: str, kind: FieldType, value: Any) -> Mask:
        return self._between(name, bisect_right(self._columns.column(name).values, value), None)

    def greater_or_equal(self, name: str, kind: FieldType, value: Any) -> Mask:
        return self._between(name, bisect_left(self._columns.column(name).values, value), None)

    def between(self, name: str, kind: FieldType, value: Any) -> Mask:
        values = self._columns.column(name).values
        return self._between(name, bisect_left(values, value[0]), bisect_right(values, value[1]))

    def starts_with(self, name: str, kind: FieldType, value: Any) -> Mask:
        values = self._columns.column(name).values
        end = bisect_left(values, True, key=lambda one: one > value and not one.startswith(value))
        return self._between(name, bisect_left(values, value), end)

    def exists(self, name: str, kind: FieldType, value: Any) -> Mask:
        return np.asarray(self._columns.column(name).places != _MISSING, np.bool_)

    def _between(self, name: str, first: int, end: int | None) -> Mask:
        places = self._columns.column(name).places
        mask = places >= first
        return np.asarray(mask if end is None else mask & (places < end), np.bool_)


def _place(values: list[Any], value: Any) -> int | None:
    place = bisect_left(values, value)
    return place if place < len(values) and values[place] == value else None


def _mapped(path: Path, kind: type[np.generic]) -> npt.NDArray[Any]:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, kind)
    return np.asarray(np.memmap(path, kind, "r"))
