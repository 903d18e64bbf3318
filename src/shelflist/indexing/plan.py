"""The diff: what a document's new chunks change, compared with what the ledger has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from shelflist.core.errors import DimensionMismatch, EmbedderMismatch, InvalidVector, ShelflistError
from shelflist.core.types import Chunk, Document, Failure, IndexStatus, Metadata, OnFailed, SyncReport, Vector
from shelflist.indexing.identity import (
    checked_text,
    chunk_id,
    document_name,
    hash_of,
    metadata_hash,
    point_id,
    vector_bytes,
)
from shelflist.ledger.catalog import CollectionRecord
from shelflist.ledger.documents import ChunkRecord, DocumentRecord
from shelflist.ledger.revisions import KeptChunk, NewChunk, Revision


@dataclass(slots=True)
class PlannedDocument:
    """A revision ready to be embedded and written, with the vectors that came with it."""

    revision: Revision
    given: dict[bytes, Vector] = field(default_factory=dict)
    """By point_id."""
    fresh: set[bytes] = field(default_factory=set)
    """Text hashes that must not be taken from the cache: their chunks were marked stale."""
    metadata_only: int = 0
    is_new: bool = False


@dataclass(slots=True)
class _Prepared:
    chunk: Chunk
    chunk_id: bytes
    text_hash: bytes
    stored: Metadata
    metadata_hash: bytes
    vector: Vector | None
    embedding_hash: bytes | None


def plan_document(
    collection: CollectionRecord,
    document: Document,
    digest: bytes,
    known: DocumentRecord | None,
    members: Sequence[ChunkRecord],
    source_id: int,
    report: SyncReport,
    on_failed: OnFailed,
) -> PlannedDocument | None:
    """The new revision of a changed document; None (with failures in the report) if it cannot be accepted whole."""
    prepared, failures = _prepare(collection, document)
    report.failures += failures
    if failures and on_failed == "keep_old":
        return None
    base = known.revision if known else 0
    number = document.revision if document.revision is not None else (known.next_revision if known else 0) + 1
    revision = Revision(
        document_id=document.document_id,
        tenant=document.tenant or "",
        document_key=known.document_key if known else 0,
        base_revision=base,
        number=number,
        source_id=source_id,
        digest=None if failures else digest,
        source_digest=None if failures else document.source_digest,
    )
    planned = PlannedDocument(revision, is_new=known is None or known.removed)
    old = {member.chunk_id: member for member in members}
    for position, item in enumerate(prepared):
        member = old.get(item.chunk_id)
        same = member is not None and (member.metadata_hash, member.embedding_hash) == (
            item.metadata_hash,
            item.embedding_hash,
        )
        if member is not None and same and member.index_status is IndexStatus.INDEXED:
            del old[item.chunk_id]
            revision.kept.append(KeptChunk(member.chunk_key, position, moved=member.position != position))
            continue
        if member is not None and not same and member.index_status is IndexStatus.INDEXED:
            planned.metadata_only += 1
        if member is not None and member.index_status is IndexStatus.STALE:
            planned.fresh.add(item.text_hash)
        point = point_id(item.chunk_id, item.metadata_hash, item.embedding_hash, number)
        if item.vector is not None:
            planned.given[point] = item.vector
        revision.new.append(
            NewChunk(
                point_id=point,
                chunk_id=item.chunk_id,
                text_hash=item.text_hash,
                metadata_hash=item.metadata_hash,
                embedding_hash=item.embedding_hash,
                position=position,
                token_count=None,
                section=item.chunk.section,
                chunk_strategy=item.chunk.chunk_strategy,
                metadata=orjson.dumps(item.stored).decode(),
                stored=item.stored,
                content=item.chunk.content,
                attempts=member.attempts if member is not None and member.index_status is IndexStatus.FAILED else 0,
            )
        )
    revision.removed = [member.chunk_key for member in old.values()]
    return planned


def _prepare(collection: CollectionRecord, document: Document) -> tuple[list[_Prepared], list[Failure]]:
    prepared: list[_Prepared] = []
    failures: list[Failure] = []
    occurrences: Counter[bytes] = Counter()
    own_name = document_name(document.tenant, document.document_id)
    for position, chunk in enumerate(document.chunks):
        try:
            text_hash = hash_of(checked_text(chunk))
            stored = collection.fields.stored(chunk.metadata)
            shown_hash = metadata_hash(stored, chunk.section, chunk.chunk_strategy)
            vector = _given_vector(collection, chunk)
        except ShelflistError as error:
            failures.append(Failure(document.document_id, str(error), position))
            continue
        name = chunk_id(collection.uid, own_name, text_hash, occurrences[text_hash])
        occurrences[text_hash] += 1
        prepared.append(
            _Prepared(
                chunk,
                name,
                text_hash,
                stored,
                shown_hash,
                vector,
                None if vector is None else hash_of(vector_bytes(vector)),
            )
        )
    return prepared, failures


def _given_vector(collection: CollectionRecord, chunk: Chunk) -> Vector | None:
    if chunk.embedding is None:
        if collection.embedder is None:
            raise InvalidVector(
                f"The collection {collection.name!r} has no embedder, so every chunk needs an embedding of "
                f"{collection.dimensions} dimensions ({collection.fingerprint})."
            )
        return None
    if collection.embedder is not None:
        raise EmbedderMismatch(
            f"The collection {collection.name!r} embeds its texts itself ({collection.fingerprint}); a chunk brings a "
            "vector of unknown origin. Leave embedding= out, or make a collection with embedder=None and fingerprint=."
        )
    return usable_vector(
        chunk.embedding, collection.dimensions, collection.fingerprint, cosine=collection.metric == "cosine"
    )


def usable_vector(embedding: object, dimensions: int, fingerprint: str, *, cosine: bool) -> Vector:
    """float32 (dimensions,), or DimensionMismatch / InvalidVector saying what is wrong."""
    try:
        vector = np.asarray(embedding, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidVector(f"An embedding is not a row of numbers: {error}") from None
    if vector.ndim != 1 or len(vector) != dimensions:
        raise DimensionMismatch(
            f"An embedding has shape {vector.shape}; the collection's space {fingerprint!r} has {dimensions} dimensions."
        )
    total = float(np.dot(vector, vector))
    if not np.isfinite(total) and not np.isfinite(vector).all():
        raise InvalidVector("An embedding holds NaN or infinity. Check the embedder that made it.")
    if cosine and total == 0 and not vector.any():
        raise InvalidVector("An embedding is all zeros, which has no direction. Check the embedder that made it.")
    return vector
