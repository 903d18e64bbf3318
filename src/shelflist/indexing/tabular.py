"""Chunks in files of rows: JSON Lines and Parquet, with or without embeddings."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from shelflist.core.errors import InvalidInput, UnreadableSource
from shelflist.core.types import Chunk, Document, Vector
from shelflist.indexing.sources import NOTHING_KNOWN, Item, KnownDigests, absolute_path, source_name

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

_MAX_LINE = 256_000_000
"""Longest line of JSON in bytes: a file without line breaks must not fill the memory."""

Key = tuple[str | None, str]
Row = tuple[Key, Chunk]


class _Table:
    """A file of rows, one chunk a row, the chunks of a document one after another."""

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
                raise InvalidInput(f"Unknown column role {role!r} in columns=. Use: {', '.join(_COLUMNS)}")
        self.metadata_columns = None if metadata_columns is None else tuple(metadata_columns)
        self.prefix = prefix
        self.name = name or source_name(self.kind, self.path)
        self._checked: tuple[tuple[int, int], int] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def documents(self, known: KnownDigests = NOTHING_KNOWN) -> Iterator[Item]:
        """One pass, in the file's order. The ids of the whole file are checked before the first document comes.

        Raises UnreadableSource naming file and row: for a row that cannot be read, a value of the wrong type, or a
        document whose rows are apart.
        """
        self._check()
        return self._documents()

    def total(self) -> int:
        """Number of documents."""
        return self._check()

    def _keys(self) -> Iterator[tuple[int, Key]]:
        """(row counted from 1, tenant and document) of every row, reading as little as the format lets."""
        raise NotImplementedError

    def _rows(self) -> Iterator[Row]:
        raise NotImplementedError

    def _state(self) -> tuple[int, int]:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise UnreadableSource(f"{self.path} cannot be read: {error.strerror}. Check the path.") from error
        return status.st_size, status.st_mtime_ns

    def _check(self) -> int:
        state = self._state()
        if self._checked is not None and self._checked[0] == state:
            return self._checked[1]
        first: dict[Key, int] = {}
        current: Key | None = None
        for row, key in self._keys():
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
        if not first:
            raise UnreadableSource(
                f"{self.path} holds no {self.unit}s. Check the path; to remove everything on purpose use: shelflist delete"
            )
        self._checked = (state, len(first))
        return len(first)

    def _documents(self) -> Iterator[Item]:
        before = self._state()
        current: Key | None = None
        chunks: list[Chunk] = []
        for key, chunk in self._rows():
            if key != current:
                if current is not None:
                    yield self._document(current, chunks)
                current, chunks = key, []
            chunks.append(chunk)
        if self._state() != before:
            raise UnreadableSource(f"{self.path} was changed while it was being read. Sync again when it is complete.")
        if current is not None:
            yield self._document(current, chunks)

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

    def _layout(self, names: Iterable[str]) -> _Layout:
        names = dict.fromkeys(names)
        found = {role: self._column(role, names.__contains__) for role in _COLUMNS}
        for role in ("document_id", "content"):
            found[role] = found[role] or self._name(role)
        used = {name for name in found.values() if name is not None}
        if self.metadata_columns is None:
            others = tuple(name for name in names if name not in used)
        else:
            others = tuple(name for name in self.metadata_columns if name in names)
        return _Layout(found, others)

    def _missing(self, where: str, role: str, names: Iterable[str]) -> UnreadableSource:
        names = [str(name) for name in names]
        wanted = self._name(role)
        alternatives = " or ".join(repr(name) for name in ((wanted,) if self.columns.get(role) else _COLUMNS[role]))
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.3)
        guess = near[0] if near else (names[0] if names else "NAME")
        return UnreadableSource(
            f"{where}: no column {alternatives} (there are: {', '.join(names) or 'none'}). "
            f"Name the right one with columns={{{role!r}: {guess!r}}}"
        )


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which column holds which part of a row, and which columns become metadata."""

    found: Mapping[str, str | None]
    others: tuple[str, ...]

    def key(self, row: Mapping[str, Any], where: str) -> Key:
        name = str(self.found["document_id"])
        document_id = row.get(name)
        if not isinstance(document_id, str) or not document_id:
            raise UnreadableSource(
                f"{where}: {name} must be text that is not empty, got {_shown(document_id)}. Write ids as text."
            )
        tenant = self.found["tenant"]
        return (None if tenant is None else _text(row.get(tenant), where, tenant, optional=True)), document_id

    def chunk(self, row: Mapping[str, Any], where: str, embedding: Vector | None) -> Chunk:
        metadata = {name: row[name] for name in self.others if name in row}
        column = self.found["metadata"]
        if column is not None:
            metadata |= _metadata(row.get(column), where, column)
        section, strategy = self.found["section"], self.found["chunk_strategy"]
        return Chunk(
            content=_text(row.get(str(self.found["content"])), where, str(self.found["content"])) or "",
            metadata=metadata,
            embedding=embedding,
            section=None if section is None else _text(row.get(section), where, section, optional=True),
            chunk_strategy=None if strategy is None else _text(row.get(strategy), where, strategy, optional=True),
        )


class Jsonl(_Table):
    """Chunks in a file of JSON objects, one a line; blank lines are skipped.

    Keys: `document_id`, `content` (or `text`), and if present `embedding` (or `vector`: a list of numbers), `metadata`
    (an object, or JSON text of one), `section`, `chunk_strategy`, `tenant` (or `tenant_id`). Every other key becomes
    metadata, or only `metadata_columns`; keys inside `metadata` win. `columns={"content": "body"}` names other keys for
    these parts, and `columns={"tenant": None}` leaves one out. Chunks of one document must be consecutive lines.
    """

    kind = "jsonl"
    unit = "line"

    def _keys(self) -> Iterator[tuple[int, Key]]:
        for line, row, layout in self._objects():
            where = f"{self.path}, line {line}"
            for role in ("document_id", "content"):
                if layout.found[role] not in row:
                    raise self._missing(where, role, row)
            content = str(layout.found["content"])
            _text(row[content], where, content)
            yield line, layout.key(row, where)

    def _rows(self) -> Iterator[Row]:
        for line, row, layout in self._objects():
            where = f"{self.path}, line {line}"
            embedding = layout.found["embedding"]
            value = row.get(embedding) if embedding is not None else None
            yield layout.key(row, where), layout.chunk(row, where, _vector(value, where, embedding))

    def _objects(self) -> Iterator[tuple[int, dict[str, Any], _Layout]]:
        layouts: dict[tuple[str, ...], _Layout] = {}
        for line, raw in self._lines():
            row = self._object(line, raw)
            names = tuple(row)
            layout = layouts.get(names)
            if layout is None:
                if len(layouts) >= 1000:  # keys that differ from line to line must not pile up
                    layouts.clear()
                layout = layouts[names] = self._layout(names)
            yield line, row, layout

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with open(self.path, "rb") as stream:
                line = 0
                while raw := stream.readline(_MAX_LINE):
                    line += 1
                    if len(raw) >= _MAX_LINE:
                        raise UnreadableSource(f"{self.path}, line {line} is longer than {_MAX_LINE // 10**6} MB. Split it.")
                    raw = raw.strip()
                    if line == 1:
                        raw = raw.removeprefix(b"\xef\xbb\xbf")
                    if raw:
                        yield line, raw
        except OSError as error:
            raise UnreadableSource(f"{self.path} cannot be read: {error.strerror or error}.") from error

    def _object(self, line: int, raw: bytes) -> dict[str, Any]:
        try:
            row = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            where = f"{self.path}, line {line}"
            try:
                raw.decode("utf-8")
            except UnicodeDecodeError as invalid:
                raise UnreadableSource(
                    f"{where} is not valid UTF-8 at byte {invalid.start} (0x{raw[invalid.start]:02x}). Save the file as UTF-8."
                ) from None
            raise UnreadableSource(f"{where} is not valid JSON: {error}. Mend or remove the line.") from None
        if not isinstance(row, dict):
            raise UnreadableSource(f"{self.path}, line {line} is not a JSON object but {_shown(row)}.")
        return row


def __getattr__(name: str) -> Any:
    if name == "Parquet":
        from shelflist.indexing.parquet import Parquet

        return Parquet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _text(value: Any, where: str, column: str, *, optional: bool = False) -> str | None:
    if isinstance(value, str) or (optional and value is None):
        return value
    raise UnreadableSource(f"{where}: {column} must be text, got {_shown(value)}.")


def _metadata(value: Any, where: str, column: str) -> dict[str, Any]:
    """The metadata object of a row; null is none."""
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise UnreadableSource(f"{where}: {column} is text that is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UnreadableSource(f"{where}: {column} must be an object, got {_shown(value)}.")
    return value


def _vector(value: Any, where: str, column: str | None) -> Vector | None:
    """A list of numbers as float32 of shape (d,)."""
    if value is None:
        return None
    if isinstance(value, list):
        try:
            array = np.array(value)
        except ValueError:  # lists of different lengths
            array = np.empty(0, dtype=object)
        if array.ndim == 1 and array.size and array.dtype.kind in "fiu":
            with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the collection refuses
                return array.astype(np.float32)
    raise UnreadableSource(f"{where}: {column} must be a list of numbers, got {_shown(value)}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
