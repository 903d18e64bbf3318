"""The diff: what a document's new chunks change, compared with what the ledger has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from shelflist.core.errors import ShelflistError, WrongFieldType
from shelflist.core.types import Chunk, Document, Failure, IndexStatus, OnFailed, SyncReport, Vector
from shelflist.indexing.identity import Digest, chunk_id, document_name, metadata_hash, point_id, require_text
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


def plan_document(
    collection: CollectionRecord,
    document: Document,
    digest: Digest,
    vectors: Sequence[Vector | ShelflistError | None],
    known: DocumentRecord | None,
    members: Sequence[ChunkRecord],
    source_id: int,
    report: SyncReport,
    on_failed: OnFailed,
) -> PlannedDocument | None:
    """The new revision of a changed document; None (with failures in the report) if it cannot be accepted whole.

    `vectors`: what each chunk brings, or why that cannot be used.
    """
    base = known.revision if known else 0
    fence = int(document.revision or 0)
    number = max(fence, (known.next_revision if known else 0) + 1)
    revision = Revision(
        document_id=document.document_id,
        tenant=document.tenant or "",
        document_key=known.document_key if known else 0,
        base_revision=base,
        number=number,
        source_id=source_id,
        digest=digest.whole,
        source_digest=document.source_digest,
        fence=fence,
    )
    planned = PlannedDocument(revision, is_new=known is None or known.removed)
    old = {member.chunk_id: member for member in members}
    failures: list[Failure] = []
    occurrences: dict[bytes, int] = {}
    own_name = document_name(document.tenant, document.document_id)
    position = 0
    for at, chunk in enumerate(document.chunks):
        try:
            refused = digest.refused.get(at)
            if refused is not None:
                raise _better_named(refused, collection, chunk)
            require_text(chunk.content)
            stored = collection.fields.stored(chunk.metadata)
            shown_hash = metadata_hash(stored, chunk.section, chunk.chunk_strategy)
            vector = vectors[at]
            if isinstance(vector, ShelflistError):
                raise vector
        except ShelflistError as error:
            failures.append(Failure(document.document_id, str(error), at))
            continue
        text_hash, embedding_hash = digest.texts[at], digest.vectors[at]
        occurrence = occurrences.get(text_hash, 0)
        occurrences[text_hash] = occurrence + 1
        name = chunk_id(collection.uid, own_name, text_hash, occurrence)
        member = old.get(name)
        if member is not None and member.index_status is IndexStatus.INDEXED:
            if (member.metadata_hash, member.embedding_hash) == (shown_hash, embedding_hash):
                del old[name]
                revision.kept.append(KeptChunk(member.chunk_key, position, moved=member.position != position))
                position += 1
                continue
            planned.metadata_only += 1
        if member is not None and member.index_status is IndexStatus.STALE:
            planned.fresh.add(text_hash)
        point = point_id(name, shown_hash, embedding_hash, number)
        if vector is not None:
            planned.given[point] = vector
        new = NewChunk(
            point,
            name,
            text_hash,
            shown_hash,
            embedding_hash,
            position,
            None,
            chunk.section,
            chunk.chunk_strategy,
            orjson.dumps(stored).decode(),
            chunk.content,
            stored=stored,
        )
        if member is not None and member.index_status is IndexStatus.FAILED:
            new.attempts = member.attempts
        revision.new.append(new)
        position += 1
    report.failures += failures
    if failures and on_failed == "keep_old":
        return None
    if failures:
        revision.digest = revision.source_digest = None
    revision.removed = [member.chunk_key for member in old.values()]
    return planned


def _better_named(refused: ShelflistError, collection: CollectionRecord, chunk: Chunk) -> ShelflistError:
    """Why a chunk cannot be hashed; of metadata, what the check of fields says, because that names the key."""
    if isinstance(refused, WrongFieldType):
        try:
            collection.fields.stored(chunk.metadata)
        except ShelflistError as error:
            return error
    return refused
