"""How a point stands in Chroma, as a record of flat metadata.

A field NAME is the key `f_NAME`, so that it meets neither Chroma's own keys nor ours. str, int, bool and datetime (µs)
stand as they are, floats as integers in the same order, a list as JSON and a key `m_NAME=MEMBER` for each member.
A field that a point lacks is `a_NAME`, because Chroma cannot ask whether a key is there. A key costs a row of SQLite
for each record, so there are no more than that: `index_status` is written to stale records only.

Chroma's own arrays are not used: those of a dropped collection turn up in the records of the next one (its issue 7594).
"""

from __future__ import annotations

import json
import struct
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from shelflist.core.fields import Fields, FieldType
from shelflist.core.types import IndexStatus, Metadata, Point, Vector
from shelflist.engine.exact import prepared
from shelflist.stores.protocol import GenerationSpec

_REVERSED = 0x7FFF_FFFF_FFFF_FFFF
_HELD: dict[FieldType, tuple[type, ...]] = {
    FieldType.STR: (str,),
    FieldType.INT: (int,),
    FieldType.FLOAT: (float, int),
    FieldType.BOOL: (bool,),
    FieldType.DATETIME: (int,),
    FieldType.LIST: (list,),
}
"""What the values of a field are in stored form."""


def record_id(point_id: bytes) -> str:
    return str(uuid.UUID(bytes=point_id))


def point_id(one: str) -> bytes:
    return uuid.UUID(one).bytes


def record(fields: Fields, point: Point) -> dict[str, Any]:
    """The metadata of a point's record."""
    row = written(fields, point.metadata)
    row["chunk_id"] = record_id(point.chunk_id)
    row["document_id"] = point.document_id
    if point.tenant_id is not None:
        row["tenant_id"] = point.tenant_id
    if point.index_status != IndexStatus.INDEXED:
        row["index_status"] = str(point.index_status)
    return row


def point_of(fields: Fields, one: str, row: Mapping[str, Any], vector: Vector) -> Point:
    return Point(
        point_id=point_id(one),
        chunk_id=point_id(row["chunk_id"]),
        document_id=row["document_id"],
        tenant_id=row.get("tenant_id"),
        content="",
        metadata=read(fields, row),
        vector=vector,
        index_status=IndexStatus(row.get("index_status", IndexStatus.INDEXED)),
    )


def vectors_of(spec: GenerationSpec, found: Mapping[str, Any]) -> Vector:
    """Float32 (n, dimensions). Under cosine Chroma keeps unit vectors, and lengthens them again to nearly what they were."""
    return prepared(np.asarray(found["embeddings"], dtype=np.float32).reshape(-1, spec.dimensions), spec.metric)


def written(fields: Fields, metadata: Metadata) -> dict[str, Any]:
    """The declared fields of metadata in stored form, as keys and values of a record; TypeError for one of another type,
    which Chroma would take, and no filter would find."""
    row: dict[str, Any] = {}
    for name, kind in fields.items():
        value = metadata.get(name)
        if value is None:
            row[absent_key(name)] = True
        elif type(value) not in _HELD[kind]:
            raise TypeError(f"The field {name!r} is {kind.value}, and its value is a {type(value).__name__}.")
        else:
            row[key(name)] = operand(kind, value)
            if kind is FieldType.LIST:
                row.update((member_key(name, member), True) for member in value)
    return row


def read(fields: Fields, row: Mapping[str, Any]) -> dict[str, Any]:
    """The declared fields of a record, in stored form."""
    metadata: dict[str, Any] = {}
    for name, kind in fields.items():
        value = row.get(key(name))
        if value is not None:
            metadata[name] = _value(kind, value)
    return metadata


def key(name: str) -> str:
    return f"f_{name}"


def member_key(name: str, member: str) -> str:
    return f"m_{name}={member}"


def absent_key(name: str) -> str:
    return f"a_{name}"


def operand(kind: FieldType, value: Any) -> Any:
    """A value in stored form as Chroma holds it."""
    match kind:
        case FieldType.FLOAT:
            return _in_order(value)
        case FieldType.LIST:
            return json.dumps(value, ensure_ascii=False)
    return value


def _value(kind: FieldType, operand: Any) -> Any:
    match kind:
        case FieldType.FLOAT:
            return _float_of(operand)
        case FieldType.LIST:
            return json.loads(operand)
    return operand


def _in_order(number: float) -> int:
    """A float as an integer of 64 bits that compares as it does. Chroma's server reads JSON floats one bit off."""
    bits = int(struct.unpack("<q", struct.pack("<d", number + 0.0))[0])
    return bits if bits >= 0 else bits ^ _REVERSED


def _float_of(integer: int) -> float:
    bits = integer if integer >= 0 else integer ^ _REVERSED
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])
