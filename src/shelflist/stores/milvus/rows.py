"""A generation as a Milvus collection, a point as its row."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from shelflist.core.fields import Fields, FieldType
from shelflist.core.types import Flat, Hnsw, IndexSpec, IndexStatus, Ivf, Metric, Point, Vector
from shelflist.stores.milvus.filters import LATER, alone, column, held, marker, released
from shelflist.stores.milvus.link import Client, Version
from shelflist.stores.protocol import GenerationSpec

NLIST = 128
PARTITIONS = 64
VECTOR, WORDS, SPARSE = "vector", "words", "sparse"
METRICS: Mapping[Metric, str] = {"cosine": "COSINE", "dot": "IP", "l2": "L2"}

_ID_LENGTH = 32
_TEXT_BYTES = 65_535
_JSON_BYTES = 65_536
_MEMBERS = 4_096
_OWN_FIELDS = 9
_FIELDS = 64
"""Fields a collection: what the server allows unless its owner changes `proxy.maxFieldNum`."""


class Unfit(Exception):
    """A point that Milvus cannot hold; the text says why."""


def width(spec: GenerationSpec) -> int:
    """Dimensions of the stored vector: Milvus has none of one dimension, and a zero beside it changes no distance."""
    return max(2, spec.dimensions)


def padded(spec: GenerationSpec, vectors: Vector) -> Vector:
    """Vectors (…, dimensions) as wide as they are stored."""
    missing = width(spec) - spec.dimensions
    if not missing:
        return vectors
    return np.pad(vectors, [(0, 0)] * (vectors.ndim - 1) + [(0, missing)])


def schema(client: Client, spec: GenerationSpec, keyword: bool) -> Any:
    """The collection's fields. The first declared ones get their own, as many as Milvus allows; the rest are in LATER."""
    from pymilvus import DataType, Function, FunctionType

    made = client.create_schema(auto_id=False, enable_dynamic_field=False)
    made.add_field("id", DataType.VARCHAR, is_primary=True, max_length=_ID_LENGTH)
    made.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=width(spec))
    made.add_field("chunk_id", DataType.VARCHAR, max_length=_ID_LENGTH)
    made.add_field("index_status", DataType.VARCHAR, max_length=16)
    made.add_field("document_id", DataType.VARCHAR, max_length=_TEXT_BYTES)
    made.add_field("tenant_id", DataType.VARCHAR, max_length=_TEXT_BYTES, is_partition_key=spec.tenanted)
    made.add_field(LATER, DataType.JSON)
    if keyword:
        made.add_field(
            WORDS,
            DataType.VARCHAR,
            max_length=_TEXT_BYTES,
            enable_analyzer=True,
            analyzer_params={"tokenizer": "standard"},
        )
        made.add_field(SPARSE, DataType.SPARSE_FLOAT_VECTOR)
        made.add_function(
            Function(name="bm25", function_type=FunctionType.BM25, input_field_names=[WORDS], output_field_names=SPARSE)
        )
    kinds = {
        FieldType.STR: DataType.VARCHAR,
        FieldType.INT: DataType.INT64,
        FieldType.FLOAT: DataType.DOUBLE,
        FieldType.BOOL: DataType.INT8,
        FieldType.DATETIME: DataType.INT64,
        FieldType.LIST: DataType.ARRAY,
    }
    free = _FIELDS - _OWN_FIELDS
    for name, kind in spec.fields.items():
        free -= 2 if kind is FieldType.FLOAT else 1
        if free < 0:
            break
        options: dict[str, Any] = {"max_length": _TEXT_BYTES} if kind in (FieldType.STR, FieldType.LIST) else {}
        if kind is FieldType.LIST:
            options |= {"element_type": DataType.VARCHAR, "max_capacity": _MEMBERS}
        made.add_field(column(name), kinds[kind], **options)
        if kind is FieldType.FLOAT:
            made.add_field(marker(name), DataType.BOOL)
    return made


def indexes(client: Client, spec: GenerationSpec, version: Version, columns: Collection[str]) -> list[Any]:
    """One set of index parameters for each field that is to be indexed, the vector's first."""
    kind, params = _vector_index(spec.index)
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        (VECTOR, kind, {"metric_type": METRICS[spec.metric], "params": params})
    ]
    if SPARSE in columns:
        bm25 = {"metric_type": "BM25", "params": {"bm25_k1": 1.2, "bm25_b": 0.75}}
        wanted.append((SPARSE, "SPARSE_INVERTED_INDEX", bm25))
    scalars = {"document_id": FieldType.STR, "index_status": FieldType.STR, "tenant_id": FieldType.STR}
    scalars |= {column(name): kind for name, kind in spec.fields.items() if column(name) in columns}
    for field, type_ in scalars.items():
        index = _scalar_index(type_, version)
        if index is not None:
            wanted.append((field, index, {}))
    sets = []
    for field, kind, options in wanted:
        one = client.prepare_index_params()
        one.add_index(field_name=field, index_type=kind, index_name=field, **options)
        sets.append(one)
    return sets


def _vector_index(index: IndexSpec | None) -> tuple[str, dict[str, Any]]:
    match index:
        case Flat():
            return "FLAT", {}
        case Ivf():
            return ("IVF_SQ8" if index.quantization else "IVF_FLAT"), {"nlist": index.nlist or NLIST}
    graph = index or Hnsw()
    params: dict[str, Any] = {"M": graph.m, "efConstruction": graph.ef_construction}
    if graph.quantization is None:
        return "HNSW", params
    return "HNSW_SQ", params | {"sq_type": "SQ8"}


def _scalar_index(kind: FieldType, version: Version) -> str | None:
    if version.lite:
        return None if kind is FieldType.LIST else "INVERTED"
    if version.has(2, 4):
        return "INVERTED"
    if kind is FieldType.STR:
        return "Trie"
    return None if kind is FieldType.LIST else "STL_SORT"


def words(terms: Sequence[str]) -> str:
    """Terms as a text that any tokenizer cuts into the same terms again: those beyond ASCII stand as their hash."""
    return " ".join(
        term if term.isascii() else hashlib.blake2b(term.encode(), digest_size=8).hexdigest() for term in terms
    )


def row(
    spec: GenerationSpec, point: Point, vector: Vector, columns: Collection[str], terms: str | None
) -> dict[str, Any]:
    """The row of a point. Unfit, if a value is longer than Milvus can hold."""
    made: dict[str, Any] = {
        "id": point.point_id.hex(),
        VECTOR: vector,
        "chunk_id": point.chunk_id.hex(),
        "index_status": str(point.index_status),
        "document_id": _fitting("document_id", point.document_id),
        "tenant_id": _fitting("tenant", held(FieldType.STR, point.tenant_id)),
    }
    if terms is not None:
        made[WORDS] = _fitting("text, as stems for the keyword index,", terms)
    set_fields(made, spec.fields, point.metadata, columns)
    return made


def set_fields(made: dict[str, Any], fields: Fields, metadata: Mapping[str, Any], columns: Collection[str]) -> None:
    """Put declared metadata into a row: into its own fields, or into LATER."""
    later: dict[str, Any] = {}
    for name, kind in fields.items():
        own = column(name) in columns
        value = metadata.get(name)
        place = made if own else later
        place[column(name)] = stored = held(kind, value)
        if not own:
            later[alone(name)] = [] if value is None else [stored]
        if kind is FieldType.FLOAT:
            place[marker(name)] = value is not None
        elif own and kind is FieldType.STR:
            _fitting(f"field {name!r}", stored)
        elif own and kind is FieldType.LIST:
            if len(stored) > _MEMBERS:
                raise Unfit(
                    f"field {name!r} has {len(stored) - 1:,} members; Milvus holds at most {_MEMBERS - 1:,}. Shorten it."
                )
            for member in stored:
                _fitting(f"a member of field {name!r}", member)
    if not later:
        made[LATER] = {}
        return
    size = len(orjson.dumps(later))
    if size > _JSON_BYTES:
        raise Unfit(f"its fields without a Milvus field of their own are {size:,} bytes; Milvus holds {_JSON_BYTES:,}.")
    made[LATER] = later


def _fitting(what: str, value: str) -> str:
    if len(value) * 4 > _TEXT_BYTES:
        size = len(value.encode())
        if size > _TEXT_BYTES:
            raise Unfit(f"{what} is {size:,} bytes; Milvus holds at most {_TEXT_BYTES:,}. Shorten it.")
    return value


def outputs(spec: GenerationSpec, columns: Collection[str]) -> list[str]:
    """The fields to ask for to have a whole row, or to build a point."""
    return [name for name in columns if name != SPARSE]


def point(spec: GenerationSpec, found: Mapping[str, Any], columns: Collection[str]) -> Point:
    """The point of a row: declared metadata, no text."""
    later = found.get(LATER) or {}
    if isinstance(later, (str, bytes)):
        later = orjson.loads(later)
    metadata: dict[str, Any] = {}
    for name, kind in spec.fields.items():
        place = found if column(name) in columns else later
        if column(name) in place and place.get(marker(name), True):
            value = released(kind, place[column(name)])
            if value is not None:
                metadata[name] = value
    return Point(
        point_id=bytes.fromhex(found["id"]),
        chunk_id=bytes.fromhex(found["chunk_id"]),
        document_id=found["document_id"],
        tenant_id=released(FieldType.STR, found["tenant_id"]),
        content="",
        metadata=metadata,
        vector=vector_of(spec, found),
        index_status=IndexStatus(found["index_status"]),
    )


def vector_of(spec: GenerationSpec, found: Mapping[str, Any]) -> Vector:
    return np.asarray(found[VECTOR], dtype=np.float32)[: spec.dimensions].copy()
