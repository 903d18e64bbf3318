"""What files of rows have in common: which column is what, and that the chunks of a document stand together."""

from __future__ import annotations

import difflib
import os
import stat
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import orjson

from shelflist.core.errors import InvalidInput, UnreadableSource
from shelflist.core.fields import shown_value
from shelflist.core.types import Chunk, Document, Vector
from shelflist.indexing.protocol import NOTHING_KNOWN, Item, KnownDigests
from shelflist.indexing.sources import absolute_path, source_name

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "document_id": ("document_id",),
    "content": ("content", "text"),
    "embedding": ("embedding", "vector"),
    "metadata": ("metadata",),
    "section": ("section",),
    "chunk_strategy": ("chunk_strategy",),
    "tenant": ("tenant", "tenant_id"),
}
"""What a row is made of, and the names under which each part is looked for, first name first."""

Key = tuple[str | None, str]
Row = tuple[Key, Chunk]


class Table:
    """A regular file of rows, one chunk a row, the chunks of a document one after another."""

    kind = ""
    unit = "row"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Mapping[str, str | None] | None = None,
        metadata_columns: Iterable[str] | None = None,
        prefix: str = "",
        name: str | None = None,
    ) -> None:
        self.path = absolute_path(path)
        self.columns = dict(columns or {})
        for role in self.columns:
            if role not in _COLUMNS:
                raise InvalidInput(f"A row has no part {role!r} (columns=, --column). Parts: {', '.join(_COLUMNS)}")
        self.metadata_columns = None if metadata_columns is None else tuple(metadata_columns)
        self.prefix = prefix
        self.name = name or source_name(self.kind, self.path)
        self._checked: tuple[tuple[int, int], int] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def documents(self, known: KnownDigests = NOTHING_KNOWN) -> Iterator[Item]:
        """One pass, in the file's order. Ids, tenants and texts of the whole file are checked before the first document comes.

        Raises UnreadableSource naming file and row: for a row that cannot be read, a value of the wrong type, or a
        document whose rows are apart.
        """
        self._check()
        return self._documents()

    def total(self) -> int:
        """Number of documents."""
        return self._check()

    def keys(self) -> Iterator[tuple[int, Key]]:
        """(row counted from 1, tenant and document) of every row, reading as little as the format lets.

        UnreadableSource for a row that has no document or no text.
        """
        raise NotImplementedError

    def rows(self) -> Iterator[Row]:
        raise NotImplementedError

    def _state(self) -> tuple[int, int]:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise UnreadableSource(f"{self.path} cannot be read: {error.strerror}. Check the path.") from error
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableSource(
                f"{self.path} is not a regular file, and rows are read twice: once to look them through, once to index "
                "them. Save what comes out of it as a file."
            )
        return status.st_size, status.st_mtime_ns

    def _check(self) -> int:
        state = self._state()
        if self._checked is not None and self._checked[0] == state:
            return self._checked[1]
        # Eight bytes a document, where their ids would be hundreds.
        begun = array("q", (hash(key) for key, _ in groupby(key for _, key in self.keys())))
        if not begun:
            raise UnreadableSource(
                f"{self.path} holds no {self.unit}s. Check the path; "
                "to remove everything on purpose use: shelflist drop"
            )
        if len(np.unique(np.frombuffer(begun, np.int64))) < len(begun):
            self._require_together()
        self._checked = (state, len(begun))
        return len(begun)

    def _require_together(self) -> None:
        """UnreadableSource naming the first document whose rows are apart; two of one hash may also be two documents."""
        first: dict[Key, int] = {}
        current: Key | None = None
        for row, key in self.keys():
            if key == current:
                continue
            if key in first:
                raise UnreadableSource(
                    f"{self.path}, {self.unit} {row}: document {key[1]!r} comes again after other documents "
                    f"(it began at {self.unit} {first[key]}). The chunks of a document must be consecutive: "
                    f"sort the file by {self._name('document_id')}."
                )
            first[key] = row
            current = key

    def _documents(self) -> Iterator[Item]:
        before = self._state()
        current: Key | None = None
        chunks: list[Chunk] = []
        read = 0
        try:
            for key, chunk in self.rows():
                read += 1
                if key != current:
                    if current is not None:
                        yield self._document(current, chunks)
                    current, chunks = key, []
                chunks.append(chunk)
        except UnreadableSource:
            if current is not None and self._state() == before and self._ends_with(read, current):
                yield self._document(current, chunks)
            raise
        if self._state() != before:
            raise UnreadableSource(f"{self.path} was changed while it was being read. Sync again when it is complete.")
        if current is not None:
            yield self._document(current, chunks)

    def _ends_with(self, rows: int, key: Key) -> bool:
        """Whether the document is complete after so many rows: the next row, which could not be read, is of another."""
        try:
            following = next(islice(self.keys(), rows, None), None)
        except UnreadableSource:
            return False
        return following is not None and following[1] != key

    def _document(self, key: Key, chunks: Sequence[Chunk]) -> Document:
        tenant, document_id = key
        return Document(self.prefix + document_id, chunks, tenant=tenant)

    def _name(self, role: str) -> str:
        return self.columns.get(role) or _COLUMNS[role][0]

    def _column(self, role: str, present: Callable[[str], bool]) -> str | None:
        """The column that holds a part of the row, if there is one."""
        if role in self.columns:
            return self.columns[role]
        return next((name for name in _COLUMNS[role] if present(name)), None)

    def layout(self, names: Iterable[str]) -> Layout:
        names = dict.fromkeys(names)
        found = {role: self._column(role, names.__contains__) for role in _COLUMNS}
        for role in ("document_id", "content"):
            found[role] = found[role] or self._name(role)
        used = {name for name in found.values() if name is not None}
        if self.metadata_columns is None:
            others = tuple(name for name in names if name not in used)
        else:
            others = tuple(name for name in self.metadata_columns if name in names)
        return Layout(found, others)

    def missing(self, where: str, role: str, names: Iterable[str]) -> UnreadableSource:
        names = [str(name) for name in names]
        wanted = self._name(role)
        alternatives = " or ".join(repr(name) for name in ((wanted,) if self.columns.get(role) else _COLUMNS[role]))
        taken = {name for part, others in _COLUMNS.items() if part != role for name in others}
        free = [name for name in names if name not in taken]
        guess = next(iter(difflib.get_close_matches(wanted, free, n=1, cutoff=0.3) or free), "NAME")
        return UnreadableSource(
            f"{where}: no column {alternatives} (there are: {', '.join(names) or 'none'}). "
            f"Name the right one with columns={{{role!r}: {guess!r}}} (--column {role}={guess})"
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column holds which part of a row, and which columns become metadata."""

    found: Mapping[str, str | None]
    others: tuple[str, ...]

    def key(self, row: Mapping[str, Any], where: str) -> Key:
        name = str(self.found["document_id"])
        document_id = row.get(name)
        if not isinstance(document_id, str) or not document_id:
            raise UnreadableSource(
                f"{where}: {name} must be text that is not empty, got {shown(document_id)}. Write ids as text."
            )
        tenant = self.found["tenant"]
        return (None if tenant is None else text_of(row.get(tenant), where, tenant, optional=True)), document_id

    def chunk(self, row: Mapping[str, Any], where: str, embedding: Vector | None) -> Chunk:
        metadata = {name: row[name] for name in self.others if name in row}
        column = self.found["metadata"]
        if column is not None:
            metadata |= metadata_of(row.get(column), where, column)
        section, strategy = self.found["section"], self.found["chunk_strategy"]
        return Chunk(
            content=text_of(row.get(str(self.found["content"])), where, str(self.found["content"])) or "",
            metadata=metadata,
            embedding=embedding,
            section=None if section is None else text_of(row.get(section), where, section, optional=True),
            chunk_strategy=None if strategy is None else text_of(row.get(strategy), where, strategy, optional=True),
        )


def text_of(value: Any, where: str, column: str, *, optional: bool = False) -> str | None:
    if isinstance(value, str) or (optional and value is None):
        return value
    raise UnreadableSource(f"{where}: {column} must be text, got {shown(value)}. Mend or remove the row.")


def metadata_of(value: Any, where: str, column: str) -> dict[str, Any]:
    """The metadata object of a row; null is none."""
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise UnreadableSource(f"{where}: {column} is text that is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UnreadableSource(f"{where}: {column} must be an object, got {shown(value)}. Mend or remove the row.")
    return value


def shown(value: Any) -> str:
    text = shown_value(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
