"""What a copy reads of a ledger: whole documents, page by page, with all that a revision of them needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from shelflist.core.transaction import Database
from shelflist.core.types import IndexStatus
from shelflist.ledger.revisions import NewChunk

_PART = 500
_HEAD = (
    "SELECT d.document_key, d.document_id, d.tenant_id, s.name, d.revision, d.digest, d.source_digest, d.chunk_count, "
    "d.fence, d.removed_at IS NOT NULL FROM sl_documents d JOIN sl_sources s USING (source_id) "
)


@dataclass(frozen=True, slots=True)
class DocumentHead:
    """A document as far as a copy compares it; `removed` ones too, since their revision still fences late writers."""

    document_key: int
    document_id: str
    tenant: str
    source: str
    revision: int
    digest: bytes | None
    source_digest: bytes | None
    chunk_count: int
    fence: int
    removed: bool


@dataclass(frozen=True, slots=True)
class WholeChunk:
    """A member of a document's current revision. `vector_hash`: of its vector as written, where the ledger knows it."""

    chunk: NewChunk
    index_status: IndexStatus
    vector_hash: bytes | None


class Reading:
    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, collection_id: int, after: int, limit: int) -> list[DocumentHead]:
        """The next documents by key that ever had a revision."""
        with self._database.read() as tx:
            rows = tx.execute(
                f"{_HEAD} WHERE d.collection_id = ? AND d.document_key > ? AND d.revision > 0 "
                "ORDER BY d.document_key LIMIT ?",
                (collection_id, after, limit),
            )
            return [DocumentHead(*(*row[:9], bool(row[9]))) for row in rows]

    def heads(self, document_keys: Sequence[int]) -> list[DocumentHead]:
        """These documents as they are now, by key."""
        found: list[DocumentHead] = []
        with self._database.read() as tx:
            for start in range(0, len(document_keys), _PART):
                part = document_keys[start : start + _PART]
                rows = tx.execute(f"{_HEAD} WHERE d.document_key IN ({_marks(part)}) ORDER BY d.document_key", part)
                found += [DocumentHead(*(*row[:9], bool(row[9]))) for row in rows]
        return found

    def chunks(self, generation_id: int, document_keys: Sequence[int]) -> dict[int, list[WholeChunk]]:
        """Every chunk of each document's current revision, by position; neither condemned nor pending ones."""
        found: dict[int, list[WholeChunk]] = {key: [] for key in document_keys}
        with self._database.read() as tx:
            for start in range(0, len(document_keys), _PART):
                part = document_keys[start : start + _PART]
                rows = tx.execute(
                    "SELECT c.document_key, s.index_status, s.vector_hash, s.error, s.attempts, c.point_id, c.chunk_id, "
                    "c.text_hash, c.metadata_hash, c.embedding_hash, c.position, c.token_count, c.section, "
                    "c.chunk_strategy, c.metadata, c.content "
                    "FROM sl_chunks c JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE c.document_key IN ({_marks(part)}) AND s.purge_after IS NULL "
                    "AND s.index_status <> 'pending' ORDER BY c.document_key, c.position",
                    (generation_id, *part),
                )
                for document_key, status, vector_hash, error, attempts, *values in rows:
                    chunk = NewChunk(*values)
                    chunk.error, chunk.attempts = error, attempts
                    found[document_key].append(WholeChunk(chunk, IndexStatus(status), vector_hash))
        return found

    def taken(self, point_ids: Sequence[bytes]) -> set[bytes]:
        """Those of these point ids that the ledger has rows for, condemned ones included."""
        found: set[bytes] = set()
        with self._database.read() as tx:
            for start in range(0, len(point_ids), _PART):
                part = point_ids[start : start + _PART]
                rows = tx.execute(f"SELECT point_id FROM sl_chunks WHERE point_id IN ({_marks(part)})", part)
                found |= {point_id for (point_id,) in rows}
        return found

    def copied_as(self, collection_id: int, tenant: str, document_id: str) -> int | None:
        """The revision under which a copy last wrote this document, where it could not be the original's."""
        with self._database.read() as tx:
            rows = tx.execute(
                "SELECT detail FROM sl_events WHERE collection_id = ? AND kind = 'renumbered' AND document_id = ? "
                "ORDER BY event_id DESC",
                (collection_id, document_id),
            ).fetchall()
        for (text,) in rows:
            detail = orjson.loads(text)
            if detail["tenant"] == tenant:
                return int(detail["revision"])
        return None


def _marks(items: Sequence[object]) -> str:
    return ", ".join("?" * len(items))
