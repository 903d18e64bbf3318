"""Names that follow from content: the digest of a document, the id of a chunk, the id of a point.

Everything hashed is length-prefixed, so that no two different inputs run together.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha1, sha256
from typing import Any, NamedTuple

import orjson

from shelflist.core.errors import ChunkTooLarge, EmptyText, InvalidInput, ShelflistError, WrongFieldType
from shelflist.core.types import MAX_CHUNK_BYTES, Chunk, Document, Metadata
from shelflist.core.vectors import float32

_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATETIME
_length = struct.Struct("<q").pack
_lengths = struct.Struct("<qqqq").pack
_ABSENT = _length(-1)
_BLANK = " \t\n\r\x0b\x0c"
_VERSION = [bytes((byte & 0x0F | 0x50,)) for byte in range(256)]
_VARIANT = [bytes((byte & 0x3F | 0x80,)) for byte in range(256)]


class Digest(NamedTuple):
    """`whole`: of a document, 32 bytes; None if a chunk of it cannot be hashed. `texts` and `vectors`: of each chunk's text,
    and of the vector it brings or None. `refused`: by position, why a chunk cannot be hashed."""

    whole: bytes | None
    texts: list[bytes]
    vectors: list[bytes | None]
    refused: dict[int, ShelflistError]


def canonical(metadata: Metadata) -> bytes:
    """Metadata as JSON with sorted keys: equal metadata, equal bytes."""
    try:
        return orjson.dumps(metadata, default=_unusual, option=_SORTED)
    except TypeError as error:
        raise WrongFieldType(f"Metadata cannot be written as JSON: {error}. Give what does not fit as text.") from None


def _unusual(value: Any) -> Any:
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, tuple):
        return list(value)
    if hasattr(value, "items"):
        return dict(value)
    return repr(value)


def vector_bytes(embedding: Any) -> bytes:
    """A given vector as float32 bytes; any shape, checked later."""
    try:
        return float32(embedding).tobytes()
    except (TypeError, ValueError, OverflowError) as error:
        reason = str(error).rstrip(".")
        raise InvalidInput(
            f"An embedding is not a row of numbers that float32 holds: {reason}. Check the embedder that made it."
        ) from None


def digest(document: Document) -> Digest:
    """The hashes of everything that the ledger keeps of a document. Enough for a no-op."""
    parts: list[bytes] = []
    texts: list[bytes] = []
    vectors: list[bytes | None] = []
    refused: dict[int, ShelflistError] = {}
    for at, chunk in enumerate(document.chunks):
        try:
            if not isinstance(chunk, Chunk):
                raise InvalidInput(f"A chunk is {type(chunk).__name__}. Give Chunk(content=…).")
            text = hash_of(text_bytes(chunk.content))
            # What is empty and no mapping is refused later, and must not have the digest of what is accepted.
            metadata = b"" if isinstance(chunk.metadata, Mapping) and not chunk.metadata else canonical(chunk.metadata)
            section = b"" if chunk.section is None else label_bytes("section", chunk.section)
            strategy = b"" if chunk.chunk_strategy is None else label_bytes("chunk_strategy", chunk.chunk_strategy)
            vector = None if chunk.embedding is None else hash_of(vector_bytes(chunk.embedding))
        except ShelflistError as error:
            refused[at] = error
            texts.append(b"")
            vectors.append(None)
            continue
        parts += (
            _lengths(
                len(metadata),
                -1 if chunk.section is None else len(section),
                -1 if chunk.chunk_strategy is None else len(strategy),
                -1 if vector is None else len(vector),
            ),
            text,
            metadata,
            section,
            strategy,
        )
        if vector is not None:
            parts.append(vector)
        texts.append(text)
        vectors.append(vector)
    return Digest(None if refused else sha256(b"".join(parts)).digest(), texts, vectors, refused)


def text_bytes(content: Any) -> bytes:
    if not isinstance(content, str):
        raise InvalidInput(f"A chunk's content is {type(content).__name__}, not text.")
    try:
        return content.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"A chunk's text is not valid Unicode (lone surrogate at character {error.start}). "
            "Decode the source with errors='replace', or fix it."
        ) from None


def label_bytes(name: str, label: Any) -> bytes:
    """The UTF-8 of a chunk's section or strategy, or of a document's tenant; InvalidInput if it is no text."""
    if not isinstance(label, str):
        raise InvalidInput(f"The {name} is {type(label).__name__} {label!r}, not text.")
    try:
        return label.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"The {name} {label!r} is not valid Unicode.") from None


def require_text(content: str) -> None:
    """EmptyText or ChunkTooLarge if a chunk cannot have this text."""
    if not content.strip(_BLANK):
        raise EmptyText("A chunk has no text. Leave it out, or check the chunker.")
    if len(content) > MAX_CHUNK_BYTES // 4 and (size := len(content.encode())) > MAX_CHUNK_BYTES:
        raise ChunkTooLarge(
            f"A chunk has {size:,} bytes of text; the limit is {MAX_CHUNK_BYTES:,}. Cut it, for example with "
            "shelflist.Chunker."
        )


def hash_of(content: bytes) -> bytes:
    """SHA-256, of a chunk's text or of a given vector."""
    return sha256(content).digest()


def metadata_hash(stored: Metadata, section: str | None, chunk_strategy: str | None) -> bytes:
    """Of metadata in stored form, with what else a point shows besides its text."""
    return hash_of(_prefixed(canonical(stored)) + _prefixed_text(section) + _prefixed_text(chunk_strategy))


def _uuid5(namespace: bytes, name: bytes) -> bytes:
    """RFC 4122 version 5, as 16 bytes."""
    raw = sha1(namespace + name, usedforsecurity=False).digest()
    return raw[:6] + _VERSION[raw[6]] + raw[7:8] + _VARIANT[raw[8]] + raw[9:16]


def _prefixed(part: bytes | None) -> bytes:
    return _ABSENT if part is None else _length(len(part)) + part


def _prefixed_text(part: str | None) -> bytes:
    return _ABSENT if part is None else _prefixed(part.encode())


def document_name(tenant: str | None, document_id: str) -> bytes:
    """The part of a chunk's name that all chunks of a document share."""
    return _prefixed_text(tenant) + _prefixed_text(document_id)


def chunk_id(uid: bytes, document: bytes, text_hash: bytes, occurrence: int) -> bytes:
    """The chunk's name: same text in the same document, same id, wherever it stands. `document`: its `document_name`."""
    return _uuid5(uid, document + _prefixed(text_hash) + _length(occurrence))


def point_id(chunk: bytes, metadata_hash: bytes, embedding_hash: bytes | None, revision: int) -> bytes:
    """The store row's name: no id is used again once a later revision has condemned it."""
    return _uuid5(chunk, _prefixed(metadata_hash) + _prefixed(embedding_hash) + _prefixed(_length(revision)))
