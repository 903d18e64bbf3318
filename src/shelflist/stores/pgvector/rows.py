"""A point as a row of a generation's tables, and as what comes back: in the binary forms that COPY takes."""

from __future__ import annotations

import struct
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shelflist.core.fields import Fields, FieldType
from shelflist.core.types import IndexStatus, Metadata, Point, Vector
from shelflist.engine.signs import Codes, sign_bits
from shelflist.postgres.statements import escaped, unescaped
from shelflist.stores.pgvector.filters import KEY_LENGTH, column, key
from shelflist.stores.protocol import GenerationSpec

_ROWS = 1_024
_MOST_POSITIONS = 255
_TERMS_BYTES = 900_000
"""Below the megabyte that a tsvector may have."""
_TAILS = [struct.pack(f">xH{n}H", n, *range(1, n + 1)) for n in range(_MOST_POSITIONS + 1)]
"""What follows a lexeme in a tsvector: NUL, how many positions it has, and these: 1, 2, 3, …"""
OWN_COLUMNS = ("point_id", "chunk_id", "document_id", "tenant_id", "index_status", "overflow", "bits", "embedding")


def rows_of(spec: GenerationSpec, points: Sequence[Point], vectors: Vector) -> Iterator[tuple[Any, ...]]:
    """The points as rows of `OWN_COLUMNS` and the declared fields, in the forms that COPY wants."""
    declared = list(spec.fields.items())
    for start in range(0, len(points), _ROWS):
        part, some = points[start : start + _ROWS], vectors[start : start + _ROWS]
        for point, code, blob in zip(part, sign_bits(some), some.astype(">f4"), strict=True):
            yield (
                uuid.UUID(bytes=point.point_id),
                uuid.UUID(bytes=point.chunk_id),
                point.document_id,
                None if point.tenant_id is None else key(point.tenant_id),
                str.__str__(point.index_status),
                _overflow(spec.fields, point.metadata, point.tenant_id),
                bit_bytes(code),
                _vector_bytes(blob),
                *(_stored(kind, point.metadata.get(field)) for field, kind in declared),
            )


def field_rows(fields: Fields, rows: Iterable[tuple[bytes, Metadata]]) -> list[tuple[Any, ...]]:
    """Points by id with `overflow` and the values of these fields, of those that have any."""
    return [
        (
            uuid.UUID(bytes=point_id),
            _overflow(fields, metadata, None),
            *(_stored(kind, metadata.get(field)) for field, kind in fields.items()),
        )
        for point_id, metadata in rows
        if any(metadata.get(field) is not None for field in fields)
    ]


def point_of(spec: GenerationSpec, row: Sequence[Any]) -> Point:
    """The point of a row of `select_sql`. Its text is not kept here, nor are undeclared keys."""
    point_id, chunk_id, document_id, tenant_id, status, overflow, vector, *values = row
    whole: Mapping[str, Any] = overflow or {}
    metadata: dict[str, Any] = {}
    for field, value in zip(spec.fields, values, strict=True):
        name = column(field)[1:-1]
        if value is not None:
            metadata[field] = _unescaped(whole[name]) if name in whole else value
    return Point(
        point_id=point_id,
        chunk_id=chunk_id,
        document_id=document_id,
        tenant_id=_unescaped(whole["tenant_id"]) if "tenant_id" in whole else tenant_id,
        content="",
        metadata=metadata,
        vector=vector_of(vector),
        index_status=IndexStatus(status),
    )


def select_sql(spec: GenerationSpec) -> str:
    fields = "".join(f", {column(field)}" for field in spec.fields)
    return (
        "SELECT uuid_send(point_id), uuid_send(chunk_id), document_id, tenant_id, index_status, overflow, "
        f"vector_send(embedding){fields} FROM {spec.name}"
    )


def vector_of(sent: bytes) -> Vector:
    return np.frombuffer(sent, ">f4", offset=4).astype(np.float32)


def vectors_of(sent: Sequence[bytes]) -> Vector:
    """Many at once: shape (n, dimensions)."""
    return np.frombuffer(b"".join(sent), ">f4").reshape(len(sent), -1)[:, 1:].astype(np.float32)


def bits_of(sent: Sequence[bytes]) -> Codes:
    """Sign bits as they were sent: shape (n, bytes)."""
    return np.frombuffer(b"".join(sent), np.uint8).reshape(len(sent), -1)[:, 4:]


def vector_bytes(vector: Vector) -> bytes:
    return _vector_bytes(vector.astype(">f4"))


def bit_bytes(code: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    return struct.pack(">i", 8 * len(code)) + code.tobytes()


def terms_bytes(terms: Sequence[str]) -> bytes:
    """Stems (words without NUL, of 40 bytes at most) as a tsvector in binary form: of where they stand, how often."""
    counts = Counter(terms)
    most = _MOST_POSITIONS
    parts = [word.encode() + _TAILS[count if count < most else most] for word, count in counts.items()]
    if sum(map(len, parts)) > _TERMS_BYTES:
        parts = [word.encode() + _TAILS[0] for word in counts]
    return struct.pack(">i", len(parts)) + b"".join(parts)


def terms_query(terms: Iterable[str]) -> str:
    """A tsquery, as text, that any of the stems satisfies."""
    return " | ".join(f"'{word}'" for word in dict.fromkeys(terms))


def _vector_bytes(big_endian: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(">HH", len(big_endian), 0) + big_endian.tobytes()


def _stored(kind: FieldType, value: Any) -> Any:
    if kind is FieldType.STR and value is not None:
        return value[:KEY_LENGTH]
    if kind is FieldType.LIST and value is not None:
        return [key(member) for member in value]
    return value


def _overflow(fields: Fields, metadata: Metadata, tenant: str | None) -> dict[str, Any] | None:
    whole: dict[str, Any] = {}
    if tenant is not None and len(tenant) > KEY_LENGTH:
        whole["tenant_id"] = escaped(tenant)
    for field, kind in fields.items():
        value = metadata.get(field)
        if kind is FieldType.STR and value is not None and len(value) > KEY_LENGTH:
            whole[column(field)[1:-1]] = escaped(value)
        elif kind is FieldType.LIST and value is not None and any(len(member) > KEY_LENGTH for member in value):
            whole[column(field)[1:-1]] = [escaped(member) for member in value]
    return whole or None


def _unescaped(value: Any) -> Any:
    return [unescaped(one) for one in value] if isinstance(value, list) else unescaped(value)
