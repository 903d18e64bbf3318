"""What the ledger knows of documents and chunks: look-ups for the sync, the check of every hit, lists for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shelflist.core.transaction import Database, Transaction
from shelflist.core.types import IndexStatus, Metadata

_PART = 500


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    document_key: int
    document_id: str
    tenant: str
    source_id: int
    source: str
    revision: int
    next_revision: int
    digest: bytes | None
    source_digest: bytes | None
    chunk_count: int
    removed: bool
    updated_at: float


@dataclass(frozen=True, slots=True)
class ChunkRecord:
    """A point of a document, with its state in the active generation."""

    chunk_key: int
    document_key: int
    point_id: bytes
    chunk_id: bytes
    text_hash: bytes
    metadata_hash: bytes
    embedding_hash: bytes | None
    position: int
    index_status: IndexStatus
    attempts: int


@dataclass(frozen=True, slots=True)
class LiveChunk:
    """A chunk that the ledger lets through, with all that a hit shows."""

    point_id: bytes
    chunk_id: bytes
    document_id: str
    tenant: str | None
    content: str
    metadata: Metadata
    section: str | None
    position: int


_DOCUMENT = (
    "SELECT d.document_key, d.document_id, d.tenant_id, d.source_id, s.name, d.revision, d.next_revision, d.digest, "
    "d.source_digest, d.chunk_count, d.removed_at IS NOT NULL, d.updated_at "
    "FROM sl_documents d JOIN sl_sources s USING (source_id) "
)


class Documents:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, collection_id: int, tenant: str, document_ids: Sequence[str]) -> dict[str, DocumentRecord]:
        """Records by document_id, removed ones included: their revision still fences late writers."""
        found: dict[str, DocumentRecord] = {}
        with self._database.read() as tx:
            for part in _parts(document_ids):
                rows = tx.execute(
                    f"{_DOCUMENT} WHERE d.collection_id = ? AND d.tenant_id = ? AND d.document_id IN ({_marks(part)})",
                    (collection_id, tenant, *part),
                )
                found.update((row[1], _document(row)) for row in rows)
        return found

    def present(
        self, collection_id: int, tenant: str | None, *, prefix: str | None = None, limit: int | None = None
    ) -> list[DocumentRecord]:
        """Documents that searches see, by id; of all tenants when `tenant` is None."""
        sql = f"{_DOCUMENT} WHERE d.collection_id = ? AND d.removed_at IS NULL AND d.revision > 0"
        parameters: list[Any] = [collection_id]
        if tenant is not None:
            sql += " AND d.tenant_id = ?"
            parameters.append(tenant)
        if prefix:
            sql += " AND substr(d.document_id, 1, ?) = ?"
            parameters += [len(prefix), prefix]
        sql += " ORDER BY d.tenant_id, d.document_id LIMIT ?"
        with self._database.read() as tx:
            return [_document(row) for row in tx.execute(sql, (*parameters, -1 if limit is None else limit))]

    def source_digest(self, collection_id: int, tenant: str, document_id: str) -> bytes | None:
        """Digest of the raw bytes of a document; None where it is unknown or its chunks must be looked at."""
        with self._database.read() as tx:
            found = tx.execute(
                "SELECT source_digest FROM sl_documents WHERE collection_id = ? AND tenant_id = ? AND document_id = ? "
                "AND digest IS NOT NULL AND removed_at IS NULL",
                (collection_id, tenant, document_id),
            ).fetchone()
        return found[0] if found else None

    def absent(self, source_ids: Sequence[int], seen: bytearray) -> list[DocumentRecord]:
        """Documents of these sources whose bit (by document_key) is not set in `seen`."""
        gone: list[DocumentRecord] = []
        with self._database.read() as tx:
            for source_id in source_ids:
                keys = [
                    key
                    for (key,) in tx.execute(
                        "SELECT document_key FROM sl_documents WHERE source_id = ? AND removed_at IS NULL AND revision > 0",
                        (source_id,),
                    )
                    if key >> 3 >= len(seen) or not seen[key >> 3] & (1 << (key & 7))
                ]
                for part in _parts(keys):
                    rows = tx.execute(f"{_DOCUMENT} WHERE d.document_key IN ({_marks(part)})", part)
                    gone += [_document(row) for row in rows]
        return gone

    def count(self, collection_id: int, tenants: Sequence[str]) -> int:
        """How many documents these tenants have."""
        number = 0
        with self._database.read() as tx:
            for tenant in tenants:
                number += tx.execute(
                    "SELECT count(*) FROM sl_documents "
                    "WHERE collection_id = ? AND tenant_id = ? AND removed_at IS NULL AND revision > 0",
                    (collection_id, tenant),
                ).fetchone()[0]
        return number

    def members(self, generation_id: int, document_keys: Sequence[int]) -> dict[int, list[ChunkRecord]]:
        """Points of each document that its current revision consists of, by position: neither condemned nor pending."""
        found: dict[int, list[ChunkRecord]] = {key: [] for key in document_keys}
        with self._database.read() as tx:
            for part in _parts(document_keys):
                rows = tx.execute(
                    "SELECT c.chunk_key, c.document_key, c.point_id, c.chunk_id, c.text_hash, c.metadata_hash, "
                    "c.embedding_hash, c.position, s.index_status, s.attempts "
                    "FROM sl_chunks c JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE c.document_key IN ({_marks(part)}) AND s.purge_after IS NULL AND s.index_status <> 'pending' "
                    "ORDER BY c.document_key, c.position",
                    (generation_id, *part),
                )
                for row in rows:
                    found[row[1]].append(ChunkRecord(*(*row[:8], IndexStatus(row[8]), row[9])))
        return found

    def live(self, generation_id: int, point_ids: Sequence[bytes], tenant: str | None) -> dict[bytes, LiveChunk]:
        """The check of every search: of these points, those that may be shown to this tenant."""
        found: dict[bytes, LiveChunk] = {}
        own = "" if tenant is None else " AND d.tenant_id = ?"
        with self._database.read() as tx:
            for part in _parts(point_ids):
                rows = tx.execute(
                    "SELECT c.point_id, c.chunk_id, d.document_id, d.tenant_id, c.content, c.metadata, c.section, "
                    "c.position FROM sl_chunks c JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    "JOIN sl_documents d ON d.document_key = c.document_key "
                    f"WHERE c.point_id IN ({_marks(part)}) AND s.index_status = 'indexed'{own}",
                    (generation_id, *part, *(() if tenant is None else (tenant,))),
                )
                for point_id, chunk_id, document_id, owner, content, metadata, section, position in rows:
                    found[point_id] = LiveChunk(
                        point_id,
                        chunk_id,
                        document_id,
                        owner or None,
                        content,
                        orjson.loads(metadata),
                        section,
                        position,
                    )
        return found

    def moved(self, generation_id: int, asked: Sequence[bytes], passed: Sequence[bytes], since: float) -> bool:
        """Whether a document of the `asked` points was switched since then, or a point that had `passed` no longer does."""
        with self._database.read() as tx:
            for part in _parts(asked):
                found = tx.execute(
                    "SELECT 1 FROM sl_chunks c JOIN sl_documents d ON d.document_key = c.document_key "
                    f"WHERE c.point_id IN ({_marks(part)}) AND d.updated_at >= ? LIMIT 1",
                    (*part, since),
                ).fetchone()
                if found:
                    return True
            for part in _parts(passed):
                (alive,) = tx.execute(
                    "SELECT count(*) FROM sl_chunks c JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE c.point_id IN ({_marks(part)}) AND s.index_status = 'indexed'",
                    (generation_id, *part),
                ).fetchone()
                if alive < len(part):
                    return True
        return False

    def unserved(self, generation_id: int) -> list[bytes]:
        """Points that a store may hold and no search may show: pending, stale, failed, condemned."""
        with self._database.read() as tx:
            rows = tx.execute(
                "SELECT c.point_id FROM sl_states s JOIN sl_chunks c ON c.chunk_key = s.chunk_key "
                "WHERE s.generation_id = ? AND s.index_status <> 'indexed' ORDER BY s.chunk_key",
                (generation_id,),
            )
            return [point_id for (point_id,) in rows]

    def chunks(self, generation_id: int, document_key: int) -> list[dict[str, Any]]:
        """Every chunk of the document's current revision and of work under way, for people."""
        with self._database.read() as tx:
            rows = tx.execute(
                "SELECT c.point_id, c.chunk_id, c.position, c.section, c.content, c.metadata, c.chunk_strategy, "
                "c.token_count, s.index_status, s.stale_reason, s.error, s.attempts "
                "FROM sl_chunks c JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                "WHERE c.document_key = ? AND s.purge_after IS NULL ORDER BY c.position, s.index_status",
                (generation_id, document_key),
            ).fetchall()
        names = ["point_id", "chunk_id", "position", "section", "content", "metadata", "chunk_strategy", "token_count"]
        names += ["index_status", "stale_reason", "error", "attempts"]
        return [{**dict(zip(names, row, strict=True)), "metadata": orjson.loads(row[5])} for row in rows]

    def indexed_by_text(
        self, generation_id: int, text_hashes: Sequence[bytes], *, avoid: frozenset[int] = frozenset()
    ) -> dict[bytes, bytes]:
        """For each text hash that an indexed point embeds from its text: one such point_id. The store has its vector."""
        found: dict[bytes, bytes] = {}
        with self._database.read() as tx:
            for part in _parts(text_hashes):
                rows = tx.execute(
                    "SELECT c.text_hash, c.point_id, c.chunk_key FROM sl_chunks c "
                    "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE c.text_hash IN ({_marks(part)}) AND c.embedding_hash IS NULL "
                    "AND s.index_status IN ('indexed', 'stale') AND s.acknowledged = 1",
                    (generation_id, *part),
                )
                found.update((text_hash, point_id) for text_hash, point_id, key in rows if key not in avoid)
        return found

    def points(self, generation_id: int) -> Iterator[tuple[bytes, str, bool, str]]:
        """Every point of the generation: id, index status, whether it is condemned, its document_id."""
        last = 0
        while True:
            with self._database.read() as tx:
                rows = tx.execute(
                    "SELECT c.chunk_key, c.point_id, s.index_status, s.purge_after IS NOT NULL, d.document_id "
                    "FROM sl_states s JOIN sl_chunks c ON c.chunk_key = s.chunk_key "
                    "JOIN sl_documents d ON d.document_key = c.document_key "
                    "WHERE s.generation_id = ? AND s.chunk_key > ? ORDER BY s.chunk_key LIMIT 10000",
                    (generation_id, last),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for _, point_id, status, condemned, document_id in rows:
                yield point_id, status, bool(condemned), document_id

    def metadata(self, collection_id: int) -> Iterator[tuple[int, str, str | None, str | None, str]]:
        """Of every chunk: chunk_key, metadata as JSON, section, chunk_strategy, document_id."""
        last = 0
        while True:
            with self._database.read() as tx:
                rows = tx.execute(
                    "SELECT c.chunk_key, c.metadata, c.section, c.chunk_strategy, d.document_id FROM sl_chunks c "
                    "JOIN sl_documents d ON d.document_key = c.document_key "
                    "WHERE d.collection_id = ? AND c.chunk_key > ? ORDER BY c.chunk_key LIMIT 5000",
                    (collection_id, last),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from rows

    def metadata_by_point(self, generation_id: int) -> Iterator[tuple[bytes, Metadata]]:
        """Of every point of the generation: its id and metadata in stored form."""
        last = 0
        while True:
            with self._database.read() as tx:
                rows = tx.execute(
                    "SELECT c.chunk_key, c.point_id, c.metadata FROM sl_states s JOIN sl_chunks c USING (chunk_key) "
                    "WHERE s.generation_id = ? AND c.chunk_key > ? ORDER BY c.chunk_key LIMIT 5000",
                    (generation_id, last),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for _, point_id, metadata in rows:
                yield point_id, orjson.loads(metadata)

    def set_metadata(self, rows: Sequence[tuple[str, bytes, int]]) -> None:
        """Metadata and its hash by chunk_key, when a declaration changes its stored form and not its meaning."""
        with self._database.write() as tx:
            tx.executemany("UPDATE sl_chunks SET metadata = ?, metadata_hash = ? WHERE chunk_key = ?", rows)

    def sample(self, generation_id: int, tenant: str | None, size: int) -> list[bytes]:
        """Ids of up to `size` indexed points, the same ones each time: point ids are hashes, so their order is random."""
        own = "" if tenant is None else " AND d.tenant_id = ?"
        with self._database.read() as tx:
            rows = tx.execute(
                "SELECT c.point_id FROM sl_chunks c JOIN sl_documents d ON d.document_key = c.document_key "
                "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                f"WHERE s.index_status = 'indexed'{own} ORDER BY c.point_id LIMIT ?",
                (generation_id, *(() if tenant is None else (tenant,)), size),
            )
            return [point_id for (point_id,) in rows]

    def vector_hashes(self, generation_id: int, point_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Hash of each point's vector as it was written, where the ledger has no copy of the vector itself."""
        found: dict[bytes, bytes] = {}
        with self._database.read() as tx:
            for part in _parts(point_ids):
                rows = tx.execute(
                    "SELECT c.point_id, s.vector_hash FROM sl_chunks c "
                    "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE c.point_id IN ({_marks(part)}) AND s.vector_hash IS NOT NULL",
                    (generation_id, *part),
                )
                found.update(rows)
        return found

    def contents(self, point_ids: Sequence[bytes]) -> list[dict[str, Any]]:
        """What a store must hold of these points, for repair."""
        found: list[dict[str, Any]] = []
        names = (
            "point_id",
            "chunk_id",
            "document_id",
            "tenant_id",
            "content",
            "metadata",
            "text_hash",
            "embedding_hash",
        )
        with self._database.read() as tx:
            for part in _parts(point_ids):
                rows = tx.execute(
                    "SELECT c.point_id, c.chunk_id, d.document_id, d.tenant_id, c.content, c.metadata, c.text_hash, "
                    "c.embedding_hash FROM sl_chunks c JOIN sl_documents d ON d.document_key = c.document_key "
                    f"WHERE c.point_id IN ({_marks(part)})",
                    part,
                )
                found += [{**dict(zip(names, row, strict=True)), "metadata": orjson.loads(row[5])} for row in rows]
        return found

    def counts(self, generation_id: int, collection_id: int, tenant: str | None) -> dict[str, int]:
        """Chunks by index status; condemned ones apart."""
        own = "" if tenant is None else " AND d.tenant_id = ?"
        with self._database.read() as tx:
            rows = tx.execute(
                "SELECT CASE WHEN s.purge_after IS NOT NULL THEN 'condemned' ELSE s.index_status END AS status, count(*) "
                "FROM sl_documents d JOIN sl_chunks c ON c.document_key = d.document_key "
                "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                f"WHERE d.collection_id = ?{own} GROUP BY 1",
                (generation_id, collection_id, *(() if tenant is None else (tenant,))),
            ).fetchall()
        counts: Mapping[str, int] = dict(rows)
        return {name: counts.get(name, 0) for name in (*(str(status) for status in IndexStatus), "condemned")}


def _document(row: tuple[Any, ...]) -> DocumentRecord:
    return DocumentRecord(*(*row[:10], bool(row[10]), row[11]))


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _PART):
        yield items[start : start + _PART]


def _marks(items: Sequence[Any]) -> str:
    return ", ".join("?" * len(items))


def current_revisions(tx: Transaction, document_keys: Sequence[int]) -> dict[int, tuple[int, int]]:
    """(revision, next_revision) of documents, inside the caller's transaction."""
    found: dict[int, tuple[int, int]] = {}
    for part in _parts(document_keys):
        rows = tx.execute(
            f"SELECT document_key, revision, next_revision FROM sl_documents WHERE document_key IN ({_marks(part)})",
            part,
        )
        found.update((key, (revision, next_revision)) for key, revision, next_revision in rows)
    return found
