"""Chunks in files of rows: JSON Lines and Parquet, with or without embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from shelflist.core.errors import MissingDependency, UnreadableSource
from shelflist.core.types import Vector
from shelflist.indexing.rows import Key, Layout, Row, Table, shown, text_of

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

_MAX_LINE = 256_000_000
"""Longest line of JSON in bytes: a file without line breaks must not fill the memory."""

_BATCH_ROWS = 1024


class Jsonl(Table):
    """Chunks in a file of JSON objects, one a line; blank lines are skipped.

    Keys: `document_id`, `content` (or `text`), and if present `embedding` (or `vector`: a list of numbers), `metadata`
    (an object, or JSON text of one), `section`, `chunk_strategy`, `tenant` (or `tenant_id`). Every other key becomes
    metadata, or only `metadata_columns`; keys inside `metadata` win. `columns={"content": "body"}` names other keys for
    these parts, and `columns={"tenant": None}` leaves one out. Chunks of one document must be consecutive lines.
    """

    kind = "jsonl"
    unit = "line"

    def keys(self) -> Iterator[tuple[int, Key]]:
        for line, row, layout in self._objects():
            where = f"{self.path}, line {line}"
            for role in ("document_id", "content"):
                if layout.found[role] not in row:
                    raise self.missing(where, role, row)
            content = str(layout.found["content"])
            text_of(row[content], where, content)
            yield line, layout.key(row, where)

    def rows(self) -> Iterator[Row]:
        for line, row, layout in self._objects():
            where = f"{self.path}, line {line}"
            embedding = layout.found["embedding"]
            value = row.get(embedding) if embedding is not None else None
            yield layout.key(row, where), layout.chunk(row, where, vector_of(value, where, embedding))

    def _objects(self) -> Iterator[tuple[int, dict[str, Any], Layout]]:
        layouts: dict[tuple[str, ...], Layout] = {}
        for line, raw in self._lines():
            row = self._object(line, raw)
            names = tuple(row)
            layout = layouts.get(names)
            if layout is None:
                if len(layouts) >= 1000:  # keys that differ from line to line must not pile up
                    layouts.clear()
                layout = layouts[names] = self.layout(names)
            yield line, row, layout

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with open(self.path, "rb") as stream:
                line = 0
                while raw := stream.readline(_MAX_LINE):
                    line += 1
                    if len(raw) >= _MAX_LINE:
                        raise UnreadableSource(
                            f"{self.path}, line {line} is longer than {_MAX_LINE // 10**6} MB. Split it."
                        )
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
                    f"{where} is not valid UTF-8 at byte {invalid.start} of the line (0x{raw[invalid.start]:02x}). "
                    "Save the file as UTF-8."
                ) from None
            if _holds_constants(raw):
                raise UnreadableSource(
                    f"{where} holds NaN or Infinity, which JSON does not know. Write null, or leave the key out "
                    "(json.dumps(…, allow_nan=False) refuses to write them)."
                ) from None
            raise UnreadableSource(
                f"{where} is not valid JSON: {error.msg} (character {error.pos + 1} of the line). Mend or remove the line."
            ) from None
        if not isinstance(row, dict):
            raise UnreadableSource(f"{self.path}, line {line} is not a JSON object but {shown(row)}.")
        return row


def _holds_constants(raw: bytes) -> bool:
    """Whether a line is JSON but for the NaN and Infinity that Python's `json` writes."""
    constants: list[str] = []
    try:
        json.loads(raw, parse_constant=constants.append)
    except (ValueError, RecursionError):
        return False
    return bool(constants)


class Parquet(Table):
    """Chunks in a Parquet file, read in batches of a thousand rows.

    Columns as for `Jsonl`; `embedding` is a list of numbers of any width, `metadata` a struct, a map or JSON text. In
    metadata, timestamps and dates become aware datetimes, but for a timestamp without a zone, which stays so and which a
    `datetime` field refuses; decimals become floats, and null and NaN mean that the row has no such key. Chunks of one document must be consecutive rows.
    """

    kind = "parquet"
    unit = "row"

    def keys(self) -> Iterator[tuple[int, Key]]:
        with self._file() as file:
            layout = self._parquet_layout(file)
            used = [name for name in (layout.found["document_id"], layout.found["tenant"]) if name is not None]
            content = str(layout.found["content"])
            first = 1
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list({*used, content}), use_threads=False):
                self._require_texts(batch.column(content), content, first)
                columns = [batch.column(name).to_pylist() for name in used]
                for row, values in enumerate(zip(*columns, strict=True), first):
                    yield row, layout.key(dict(zip(used, values, strict=True)), f"{self.path}, row {row}")
                first += batch.num_rows

    def _require_texts(self, column: pyarrow.Array, name: str, first: int) -> None:
        """UnreadableSource naming the first row without text. What is sound, which is nearly all, stays in Arrow."""
        import pyarrow
        from pyarrow import types

        if (types.is_string(column.type) or types.is_large_string(column.type)) and not column.null_count:
            try:
                column.validate(full=True)
                return
            except pyarrow.ArrowInvalid:
                pass
        for row, value in enumerate(column, first):
            where = f"{self.path}, row {row}"
            try:
                text_of(value.as_py(), where, name)
            except UnicodeDecodeError as error:
                raise UnreadableSource(
                    f"{where}: {name} is not valid UTF-8 ({error.reason}). Write it again as UTF-8."
                ) from None

    def rows(self) -> Iterator[Row]:
        with self._file() as file:
            layout = self._parquet_layout(file)
            found = [name for name in layout.found.values() if name is not None]
            first = 1
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[*found, *layout.others], use_threads=False):
                yield from self._batch(batch, layout, first)
                first += batch.num_rows

    def _batch(self, batch: pyarrow.RecordBatch, layout: Layout, first: int) -> Iterator[Row]:
        embedding, metadata = layout.found["embedding"], layout.found["metadata"]
        values: dict[str, Sequence[Any]] = {}
        for name in batch.schema.names:
            if name == embedding:
                continue
            where = f"{self.path}, rows {first} to {first + batch.num_rows - 1}, column {name!r}"
            is_metadata = name == metadata or name in layout.others
            values[name] = _values(batch.column(name), where) if is_metadata else batch.column(name).to_pylist()
        vectors = _vectors(batch.column(embedding)) if embedding is not None else [None] * batch.num_rows
        for offset in range(batch.num_rows):
            row = {name: column[offset] for name, column in values.items()}
            for name in layout.others:
                if row[name] is None:
                    del row[name]
            if metadata is not None and isinstance(row[metadata], dict):
                row[metadata] = {key: value for key, value in row[metadata].items() if value is not None}
            where = f"{self.path}, row {first + offset}"
            yield layout.key(row, where), layout.chunk(row, where, vectors[offset])

    def _parquet_layout(self, file: pyarrow.parquet.ParquetFile) -> Layout:
        from pyarrow import types

        schema = file.schema_arrow
        layout = self.layout(schema.names)
        for role, name in layout.found.items():
            if name is not None and name not in schema.names:
                raise self.missing(str(self.path), role, schema.names)
        for name in self.metadata_columns or ():
            if name not in schema.names:
                raise UnreadableSource(f"{self.path}: no column {name!r} (there are: {', '.join(schema.names)}).")
        embedding = layout.found["embedding"]
        if embedding is not None:
            kind = schema.field(embedding).type
            is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
            if not is_list or not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
                raise UnreadableSource(
                    f"{self.path}: column {embedding!r} must hold lists of numbers, its type is {kind}. "
                    "Leave it out with columns={'embedding': None} (--column embedding=)"
                )
        return layout

    @contextmanager
    def _file(self) -> Iterator[pyarrow.parquet.ParquetFile]:
        """The open file; everything that pyarrow says about it becomes UnreadableSource."""
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise MissingDependency.for_extra("pyarrow", "parquet", "Reading Parquet files") from error
        self._state()
        try:
            # Without these two a whole row group, often the whole file, is read at once.
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
                yield file
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UnreadableSource(
                f"{self.path} is not a readable Parquet file (cut off, damaged, or another format): {reason}. "
                "Write it again."
            ) from error


def _vectors(column: pyarrow.Array) -> list[Vector | None]:
    """Each row's numbers as float32 of shape (d,); None for a null row."""
    import pyarrow.compute

    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the collection refuses
        flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False)).astype(np.float32)
    vectors: list[Vector | None] = []
    at = 0
    for length in pyarrow.compute.list_value_length(column).to_pylist():
        vectors.append(None if length is None else flat[at : at + length])
        at += length or 0
    return vectors


def _values(column: pyarrow.Array, where: str) -> list[Any]:
    """A column as metadata values."""
    import pyarrow
    from pyarrow import types

    kind = column.type
    if types.is_timestamp(kind):
        # Python's datetimes end at microseconds; pyarrow would refuse to show the nanoseconds of many writers.
        column = column.cast(pyarrow.timestamp("us", tz="UTC" if kind.tz else None), safe=False)
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise UnreadableSource(f"{where} is not valid UTF-8 ({error.reason}). Write it again as UTF-8.") from None
    except ValueError as error:
        raise UnreadableSource(f"{where}: {error}. Leave it out with metadata_columns=[…]") from None
    if types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind) or types.is_boolean(kind):
        return values
    convert = _map if types.is_map(kind) else _plain
    return [convert(value, where) for value in values]


def _map(value: Any, where: str) -> Any:
    return None if value is None else {str(key): _plain(member, where) for key, member in value}


def _plain(value: Any, where: str) -> Any:
    """A value of pyarrow's as one of plain Python."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise UnreadableSource(
                f"{where} holds bytes that are not text. Leave it out with metadata_columns=[…]"
            ) from None
    if isinstance(value, dict):
        return {str(key): _plain(member, where) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(member, where) for member in value]
    return value.item() if hasattr(value, "item") else str(value)


def vector_of(value: Any, where: str, column: str | None) -> Vector | None:
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
    raise UnreadableSource(f"{where}: {column} must be a list of numbers, got {shown(value)}. Mend or remove the row.")
