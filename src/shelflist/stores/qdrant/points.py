"""What a point is in Qdrant: the keys of its payload, what is derived so that filters are exact, and its sparse vector.

Of text, floats and datetimes a filter asks for order, and Qdrant orders numbers only, as float64. So each such value is
also written as a sequence of ints that fit a float64 and compare, one after the other, as the values do.

The bounds of a range are sent with a point, and a server whose JSON reader takes a float in two steps (the digits, then a
power of ten) reads 9007199254740991.0 as one less. Ints up to READABLE are read as they are by any.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID
from zlib import crc32

from shelflist.core.fields import Fields, FieldType
from shelflist.core.types import Metadata, Point
from shelflist.engine.keywords import Analyzer

DENSE = "dense"
SPARSE = "bm25_average_"
"""Name of the sparse vector, before the average length that its weights were computed with."""

READABLE = 2**49
"""Ints up to this are read exactly as a float of JSON: with the ".0" their digits are an int below 2^53."""

AVERAGE_LENGTH = 128
"""Terms of an average chunk, for BM25. Fixed when a collection is made, and written into the name of its vector: weights
are computed as points come in, and a moving average would weigh old and new points differently. Chunks of the test data
have 78 to 126; nDCG@10 with 30 / 60 / 100 / 160 / their own average is .903 / .926 / .939 / .940 / .940 on SQuAD and
.673 / .721 / .739 / .746 / .743 on PHP: too long costs nothing, too short does."""

STATUS, TENANT, DOCUMENT, CHUNK, PRESENT = "index_status", "tenant_id", "document_id", "chunk_id", "present_fields"

_K1, _B = 1.2, 0.75
_BYTES = 5
_LOW_BITS = 32
_SHORT = 256
_PARTED = frozenset({FieldType.STR, FieldType.FLOAT, FieldType.DATETIME})


def as_id(point_id: bytes) -> str:
    """A point's id as Qdrant takes it."""
    return str(UUID(bytes=point_id))


def as_bytes(point_id: Any) -> bytes:
    """A point's id as Shelflist has it."""
    return UUID(str(point_id)).bytes


def value_key(name: str) -> str:
    """The payload key of a field's value."""
    return _key("value", name)


def part_key(name: str, position: int) -> str:
    """The payload path of one int of the sequence that orders a field. The first is indexed, as it decides nearly always."""
    return _key("order", name) if position == 0 else f"{_key('order_rest', name)}.p{position}"


@lru_cache(maxsize=4_096)
def _key(prefix: str, name: str) -> str:
    # The server reads a key as a path: outside of quotes it takes letters, digits, "_" and "-". No field's name has a "-".
    return f"{prefix}-{name}" if name.isascii() else f"{prefix}--{name.encode().hex()}"


def is_parted(kind: FieldType) -> bool:
    """Whether the order of a field's values is kept in a sequence of ints beside them."""
    return kind in _PARTED


def match_value(kind: FieldType, value: Any) -> Any:
    """A stored value as it is matched for equality: a float by its bits, as Qdrant matches no floats."""
    return _ordered_bits(value) if kind is FieldType.FLOAT else value


def order_parts(kind: FieldType, value: Any) -> list[int]:
    """The ints, each READABLE, whose lexicographic order is the order of the values."""
    if kind is FieldType.STR:
        return _text_parts(value)
    whole = _ordered_bits(value) if kind is FieldType.FLOAT else int(value)
    return [whole >> _LOW_BITS, whole & ((1 << _LOW_BITS) - 1)]


def _text_parts(text: str) -> list[int]:
    """Five bytes of UTF-8 and their number in each int. The last has fewer than five, so that no sequence begins another."""
    data = text.encode()
    return [
        int.from_bytes(data[at : at + _BYTES].ljust(_BYTES, b"\0")) << 3 | len(data[at : at + _BYTES])
        for at in range(0, len(data) + 1, _BYTES)
    ]


def prefix_parts(prefix: str) -> tuple[list[int], tuple[int, int] | None]:
    """What the parts of a text begin with if it starts with `prefix`, and the bounds of the part after them, if any."""
    whole, rest = divmod(len(prefix.encode()), _BYTES)
    parts = _text_parts(prefix)
    if not rest:
        return parts[:whole], None
    tail = prefix.encode()[whole * _BYTES :]
    return parts[:whole], (parts[whole], int.from_bytes(tail.ljust(_BYTES, b"\xff")) << 3 | 7)


def _ordered_bits(value: float) -> int:
    """A float64 as an int64 of the same order; the same function takes it back, see `_from_ordered_bits`."""
    bits: int = struct.unpack("<q", struct.pack("<d", value + 0.0))[0]
    return bits if bits >= 0 else bits ^ 0x7FFF_FFFF_FFFF_FFFF


def _from_ordered_bits(bits: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<q", bits if bits >= 0 else bits ^ 0x7FFF_FFFF_FFFF_FFFF))[0]
    return value


def payload_of(point: Point, fields: Fields) -> dict[str, Any]:
    """The payload of a new point."""
    payload = {
        STATUS: str(point.index_status),
        DOCUMENT: point.document_id,
        CHUNK: point.chunk_id.hex(),
        **field_payload(point.metadata, fields),
    }
    if point.tenant_id is not None:
        payload[TENANT] = point.tenant_id
    return payload


def field_payload(metadata: Metadata, fields: Fields) -> dict[str, Any]:
    """The part of the payload that holds the declared fields: values, their order, and which of them are there."""
    payload: dict[str, Any] = {}
    present = []
    for name, kind in fields.items():
        value = metadata.get(name)
        if value is None:
            continue
        present.append(name)
        payload[value_key(name)] = list(value) if kind is FieldType.LIST else match_value(kind, value)
        if kind in _PARTED:
            short = kind is not FieldType.STR or len(value) <= _SHORT
            first, rest = (_order if short else _order.__wrapped__)(kind, value)
            payload[part_key(name, 0)] = first
            if rest:
                payload[_key("order_rest", name)] = rest
    payload[PRESENT] = present
    return payload


@lru_cache(maxsize=8_192)  # in most fields a few values come again and again
def _order(kind: FieldType, value: Any) -> tuple[int, Mapping[str, int]]:
    """The parts of a value as the payload holds them: the first, and the rest by name."""
    first, *rest = order_parts(kind, value)
    return first, {f"p{i}": part for i, part in enumerate(rest, 1)}


def metadata_of(payload: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """The declared fields of a payload in stored form; the inverse of `field_payload`, nulls left out."""
    metadata = {}
    for name, kind in fields.items():
        value = payload.get(value_key(name))
        if value is not None:
            metadata[name] = _from_ordered_bits(value) if kind is FieldType.FLOAT else value
    return metadata


def sparse_of(analyzer: Analyzer, text: str, average: int) -> tuple[list[int], list[float]]:
    """The terms of a chunk as (index, weight): BM25 without the rarity of the terms, which Qdrant multiplies in.

    An index is the CRC-32 of the stem. Two of 100,000 stems share one about once, and then count as one term.
    """
    terms = analyzer.terms(text)
    norm = _K1 * (1 - _B + _B * len(terms) / average)
    counts = _counted(terms)
    return list(counts), [count * (_K1 + 1) / (count + norm) for count in counts.values()]


def sparse_query(analyzer: Analyzer, text: str) -> tuple[list[int], list[float]]:
    """The terms of a query as (index, how often)."""
    counts = _counted(analyzer.terms(text))
    return list(counts), [float(count) for count in counts.values()]


def _counted(terms: list[str]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for term, count in Counter(terms).items():
        index = crc32(term.encode())
        counts[index] = counts.get(index, 0) + count
    return counts
