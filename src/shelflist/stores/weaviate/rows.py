"""Points as the engine's messages, and its answers as points."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from shelflist.core.fields import Fields
from shelflist.core.types import IndexStatus, Metadata, Point, Vector
from shelflist.stores.weaviate.filters import STATUS, TENANT, kept_metadata, kept_text, read_text
from shelflist.stores.weaviate.schema import CHUNK, DOCUMENT, METADATA, TERMS, VECTOR

READ = (CHUNK, DOCUMENT, TENANT, STATUS, METADATA)
"""The properties that a point is made of again."""

_SLACK = 2_000
"""Bytes that a row has beside its vector and texts: names of properties, mostly."""


def uuid_text(point_id: bytes) -> str:
    return str(uuid.UUID(bytes=point_id))


def id_of(result: Any) -> bytes:
    return bytes.fromhex(result.metadata.id.replace("-", ""))


def metadata_properties(fields: Fields, metadata: Metadata) -> dict[str, Any]:
    """Everything that is kept of metadata: what filters need, and the text that it is read from again."""
    declared = {name: metadata[name] for name in fields if metadata.get(name) is not None}
    return {**kept_metadata(fields, metadata), METADATA: orjson.dumps(declared).decode()}


def point_message(
    proto: Any, class_name: str, fields: Fields, point: Point, vector: Vector, terms: Sequence[str], tenant: str
) -> Any:
    """Raises TypeError or ValueError for a point that is not in stored form."""
    properties = {
        **metadata_properties(fields, point.metadata),
        STATUS: str(point.index_status),
        DOCUMENT: point.document_id,
        CHUNK: point.chunk_id.hex(),
        TERMS: " ".join(terms),
    }
    if point.tenant_id is not None:
        properties[TENANT] = kept_text(point.tenant_id)
    whole = proto.base_pb2.Vectors(name=VECTOR, vector_bytes=vector.astype("<f4", copy=False).tobytes(), type=_SINGLE)
    return message(proto, class_name, point.point_id, properties, tenant, [whole])


_SINGLE = 1
"""VECTOR_TYPE_SINGLE_FP32"""


def message(
    proto: Any,
    class_name: str,
    point_id: bytes,
    properties: Mapping[str, Any],
    tenant: str = "",
    vectors: Sequence[Any] = (),
) -> Any:
    """An object to be written."""
    from google.protobuf.struct_pb2 import Struct, Value

    plain: dict[str, Any] = {}
    lists = []
    for name, value in properties.items():
        if isinstance(value, str):
            plain[name] = Value(string_value=value)
        elif isinstance(value, bool):
            plain[name] = Value(bool_value=value)
        elif isinstance(value, list):
            if value:
                lists.append(proto.base_pb2.TextArrayProperties(prop_name=name, values=value))
        else:
            plain[name] = Value(number_value=value)
    return proto.batch_pb2.BatchObject(
        uuid=uuid_text(point_id),
        collection=class_name,
        tenant=tenant,
        vectors=vectors,
        properties=proto.batch_pb2.BatchObject.Properties(
            non_ref_properties=Struct(fields=plain), text_array_properties=lists
        ),
    )


def text_of(result: Any, name: str) -> str | None:
    field = result.properties.non_ref_props.fields.get(name)
    return str(field.text_value) if field is not None and field.HasField("text_value") else None


def vector_of(result: Any) -> Vector:
    for one in result.metadata.vectors:
        if one.name == VECTOR:
            return np.frombuffer(one.vector_bytes, dtype="<f4").astype(np.float32)
    return np.empty(0, np.float32)


def point_of(result: Any) -> Point:
    tenant = text_of(result, TENANT)
    return Point(
        point_id=id_of(result),
        chunk_id=bytes.fromhex(text_of(result, CHUNK) or ""),
        document_id=text_of(result, DOCUMENT) or "",
        tenant_id=None if tenant is None else read_text(tenant),
        content="",
        metadata=orjson.loads(text_of(result, METADATA) or "{}"),
        vector=vector_of(result),
        index_status=IndexStatus(text_of(result, STATUS) or IndexStatus.INDEXED),
    )


def requests(points: Sequence[Point], most: int, most_bytes: int) -> Iterator[list[int]]:
    """Positions of the points, cut into requests of at most so many points, and of so many bytes unless one alone has more."""
    part: list[int] = []
    size = 0
    for position, point in enumerate(points):
        own = 4 * len(point.vector) + len(point.content) + _SLACK
        if part and (len(part) == most or size + own > most_bytes):
            yield part
            part, size = [], 0
        part.append(position)
        size += own
    if part:
        yield part
