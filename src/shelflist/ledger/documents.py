"""What the ledger knows of documents and chunks: look-ups for the sync, the check of every hit, lists for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import orjson

from shelflist.core.errors import InvalidInput
from shelflist.core.filters.nodes import Filter
from shelflist.core.transaction import Database, LiveClause, Transaction
from shelflist.core.types import IndexStatus, Metadata
from shelflist.ledger.dialect import Dialect, dialect_of

_ALL = 2**62
"""As a LIMIT: SQLite takes -1 for "no limit", Postgres NULL, and each refuses the other's."""


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
    fence: int
    """The highest number that callers gave its revisions; 0: none."""


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


class LiveChunk(NamedTuple):  # a frozen dataclass takes four times as long to make, for every hit
    """A chunk that the ledger lets through, with all that a hit shows. `declared`: its collection's fields, as JSON."""

    point_id: bytes
    chunk_id: bytes
    document_id: str
    tenant: str | None
    content: str
    metadata: Metadata
    section: str | None
    position: int
    declared: str


_DOCUMENT = (
    "SELECT d.document_key, d.document_id, d.tenant_id, d.source_id, s.name, d.revision, d.next_revision, d.digest, "
    "d.source_digest, d.chunk_count, d.removed_at IS NOT NULL, d.updated_at, d.fence "
    "FROM sl_documents d JOIN sl_sources s USING (source_id) "
)


_CHUNK = "c.point_id, c.chunk_id, d.document_id, d.tenant_id, c.content, c.metadata, c.section, c.position"
# The fields are looked up once, not for each row: every chunk of a generation is of one collection. And by its own key
# alone: in Postgres another table and its index cost as much as to check a few hits.
_FIELDS = "SELECT k.fields FROM sl_collections k WHERE k.collection_id = ?"
_SHOWN = f"{_CHUNK}, ({_FIELDS}) AS fields"
_LIVE = (
    f"SELECT {_SHOWN} FROM sl_chunks c JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
    "JOIN sl_documents d ON d.document_key = c.document_key"
)


class Documents:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = dialect_of(database)
        # What is stamped with a time to come was switched before the clock was set back, not since then.
        self._switched_since = f"d.updated_at BETWEEN ? AND {self._sql.clock}"

    def find(self, collection_id: int, tenant: str, document_ids: Sequence[str]) -> dict[str, DocumentRecord]:
        """Records by document_id, removed ones included: their revision still fences late writers.

        InvalidInput for an id that is not there and too long for the ledger's database.
        """
        found: dict[str, DocumentRecord] = {}
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(document_ids):
                chosen, ids = self._sql.among("d.document_id", part)
                rows = tx.execute(
                    f"{_DOCUMENT} WHERE d.collection_id = ? AND d.tenant_id = ? AND {chosen}",
                    (collection_id, tenant, *ids),
                )
                found.update((row[1], _document(row)) for row in rows)
        if len(found) < len(document_ids):
            self._require_short(tenant, [one for one in document_ids if one not in found])
        return found

    def _require_short(self, tenant: str, document_ids: Sequence[str]) -> None:
        most = self._sql.longest_id
        for one in document_ids:
            if 4 * (len(tenant) + len(one)) > most and len(tenant.encode()) + len(one.encode()) > most:
                raise InvalidInput(
                    f"The document_id {one[:60] + '…'!r} has {len(one.encode()):,} bytes. In a ledger in Postgres it may have "
                    f"{most:,}, with its tenant. Use a shorter one, such as a hash of it."
                )

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
            sql += " AND substr(d.document_id, 1, CAST(? AS INTEGER)) = ?"
            parameters += [len(prefix), prefix]
        sql += " ORDER BY d.tenant_id, d.document_id LIMIT ?"
        with self._database.read(single=True) as tx:
            return [_document(row) for row in tx.execute(sql, (*parameters, _ALL if limit is None else limit))]

    def source_digest(self, collection_id: int, tenant: str, document_id: str) -> bytes | None:
        """Digest of the raw bytes of a document; None where it is unknown or its chunks must be looked at."""
        with self._database.read(single=True) as tx:
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
                for part in self._sql.parts(keys):
                    chosen, values = self._sql.among("d.document_key", part)
                    rows = tx.execute(f"{_DOCUMENT} WHERE {chosen}", values)
                    gone += [_document(row) for row in rows]
        return gone

    def count(self, collection_id: int, tenants: Sequence[str] | None = None) -> tuple[int, int]:
        """How many documents these tenants have, or all of them where none are named, and how many chunks."""
        counted = (
            "SELECT count(*), coalesce(sum(chunk_count), 0) FROM sl_documents "
            "WHERE collection_id = ? AND removed_at IS NULL AND revision > 0"
        )
        asked: list[tuple[str, tuple[int | str, ...]]] = [(counted, (collection_id,))]
        if tenants is not None:
            asked = [(f"{counted} AND tenant_id = ?", (collection_id, tenant)) for tenant in tenants]
        documents = chunks = 0
        with self._database.read() as tx:
            for sql, parameters in asked:
                number, members = tx.execute(sql, parameters).fetchone()
                documents, chunks = documents + number, chunks + int(members)
        return documents, chunks

    def members(self, generation_id: int, document_keys: Sequence[int]) -> dict[int, list[ChunkRecord]]:
        """Points of each document that its current revision consists of, by position: neither condemned nor pending."""
        found: dict[int, list[ChunkRecord]] = {key: [] for key in document_keys}
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(document_keys):
                chosen, keys = self._sql.among("c.document_key", part)
                rows = tx.execute(
                    "SELECT c.chunk_key, c.document_key, c.point_id, c.chunk_id, c.text_hash, c.metadata_hash, "
                    "c.embedding_hash, c.position, s.index_status, s.attempts "
                    "FROM sl_chunks c JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE {chosen} AND s.purge_after IS NULL AND s.index_status <> 'pending' "
                    "ORDER BY c.document_key, c.position",
                    (generation_id, *keys),
                )
                for row in rows:
                    found[row[1]].append(ChunkRecord(*(*row[:8], IndexStatus(row[8]), row[9])))
        return found

    def live(
        self, collection_id: int, generation_id: int, point_ids: Sequence[bytes], tenant: str | None
    ) -> dict[bytes, LiveChunk]:
        """The check of every search: of these points, those that may be shown to this tenant."""
        found: dict[bytes, LiveChunk] = {}
        own = "" if tenant is None else " AND d.tenant_id = ?"
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(point_ids):
                chosen, ids = self._sql.among("c.point_id", part)
                rows = tx.execute(
                    f"{_LIVE} WHERE {chosen} AND s.index_status = 'indexed'{own}",
                    (collection_id, generation_id, *ids, *(() if tenant is None else (tenant,))),
                )
                for row in rows:
                    found[row[0]] = _live_chunk(row)
        return found

    def live_since(
        self, collection_id: int, generation_id: int, point_ids: Sequence[bytes], tenant: str | None, since: float
    ) -> tuple[dict[bytes, LiveChunk], bool]:
        """`live`, and whether a document of one of these points was switched since then: both of one moment."""
        found: dict[bytes, LiveChunk] = {}
        has_moved = False
        own = "" if tenant is None else " AND d.tenant_id = ?"
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(point_ids):
                chosen, ids = self._sql.among("c.point_id", part)
                rows = tx.execute(
                    f"SELECT {self._switched_since}, s.index_status = 'indexed', {_SHOWN} FROM sl_chunks c "
                    "JOIN sl_documents d ON d.document_key = c.document_key "
                    "LEFT JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE {chosen}{own}",
                    (since, collection_id, generation_id, *ids, *(() if tenant is None else (tenant,))),
                )
                for switched, indexed, *row in rows:
                    has_moved = has_moved or bool(switched)
                    if indexed:
                        found[row[0]] = _live_chunk(row)
        return found, has_moved

    def live_clause(self, collection_id: int, generation_id: int, tenant: str | None) -> LiveClause:
        """The same check, for a store in the same database to join to its own statement; `live_from` reads its rows."""
        own = "" if tenant is None else " AND d.tenant_id = ?"
        return LiveClause(
            f"SELECT {_SHOWN} FROM sl_chunks c "
            "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
            "JOIN sl_documents d ON d.document_key = c.document_key "
            f"WHERE c.point_id = found.point_id AND s.index_status = 'indexed'{own}",
            (collection_id, generation_id, *(() if tenant is None else (tenant,))),
        )

    def live_from(self, rows: Mapping[bytes, Sequence[Any]]) -> dict[bytes, LiveChunk]:
        """The chunks of a live clause's rows, by point id."""
        return {point_id: _live_chunk(row) for point_id, row in rows.items()}

    def matching(self, generation_id: int, filter: Filter, tenant: str | None, most: int) -> list[bytes]:
        """Point ids of up to `most` indexed chunks whose metadata matches."""
        return list(islice(self._matching(generation_id, filter, tenant), most))

    def count_matching(self, generation_id: int, filter: Filter, tenant: str | None) -> int:
        return sum(1 for _ in self._matching(generation_id, filter, tenant))

    def _matching(self, generation_id: int, filter: Filter, tenant: str | None) -> Iterator[bytes]:
        own = "" if tenant is None else " AND d.tenant_id = ?"
        last = 0
        with self._database.read() as tx:
            while True:
                rows = tx.execute(
                    "SELECT c.chunk_key, c.point_id, c.metadata FROM sl_documents d "
                    "JOIN sl_chunks c ON c.document_key = d.document_key "
                    "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE s.index_status = 'indexed' AND c.chunk_key > ?{own} ORDER BY c.chunk_key LIMIT 5000",
                    (generation_id, last, *(() if tenant is None else (tenant,))),
                ).fetchall()
                if not rows:
                    return
                last = rows[-1][0]
                yield from (point_id for _, point_id, metadata in rows if filter.matches(orjson.loads(metadata)))

    def moved(self, generation_id: int, asked: Sequence[bytes], passed: Sequence[bytes], since: float) -> bool:
        """Whether a document of the `asked` points was switched since then, or a point that had `passed` no longer does."""
        alive: set[bytes] = set()
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(asked):
                chosen, ids = self._sql.among("c.point_id", part)
                rows = tx.execute(
                    f"SELECT c.point_id, {self._switched_since}, s.index_status = 'indexed' FROM sl_chunks c "
                    "JOIN sl_documents d ON d.document_key = c.document_key "
                    "LEFT JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE {chosen}",
                    (since, generation_id, *ids),
                )
                for point_id, switched, indexed in rows:
                    if switched:
                        return True
                    if indexed:
                        alive.add(point_id)
        return not alive.issuperset(passed)

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
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(text_hashes):
                chosen, hashes = self._sql.among("c.text_hash", part)
                rows = tx.execute(
                    "SELECT c.text_hash, c.point_id, c.chunk_key FROM sl_chunks c "
                    "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE {chosen} AND c.embedding_hash IS NULL "
                    "AND s.index_status IN ('indexed', 'stale') AND s.acknowledged = 1",
                    (generation_id, *hashes),
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
            sql = "UPDATE sl_chunks SET metadata = ?, metadata_hash = ? WHERE chunk_key = ?"
            self._sql.each(tx, sql, "text bytea bigint", rows)

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

    def indexed(self, generation_id: int, tenant: str | None) -> int:
        """How many chunks searches may show to this tenant."""
        own = ""
        whose: tuple[str, ...] = ()
        sql = "SELECT count(*) FROM sl_states s"
        if tenant is not None:
            sql += " JOIN sl_chunks c USING (chunk_key) JOIN sl_documents d ON d.document_key = c.document_key"
            own, whose = " AND d.tenant_id = ?", (tenant,)
        with self._database.read(single=True) as tx:
            found = tx.execute(
                f"{sql} WHERE s.generation_id = ? AND s.index_status = 'indexed'{own}", (generation_id, *whose)
            )
            return int(found.fetchone()[0])

    def vector_hashes(self, generation_id: int, point_ids: Sequence[bytes]) -> dict[bytes, bytes]:
        """Hash of each point's vector as it was written, where the ledger has no copy of the vector itself."""
        found: dict[bytes, bytes] = {}
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(point_ids):
                chosen, ids = self._sql.among("c.point_id", part)
                rows = tx.execute(
                    "SELECT c.point_id, s.vector_hash FROM sl_chunks c "
                    "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                    f"WHERE {chosen} AND s.vector_hash IS NOT NULL",
                    (generation_id, *ids),
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
            "document_key",
        )
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(point_ids):
                chosen, ids = self._sql.among("c.point_id", part)
                rows = tx.execute(
                    "SELECT c.point_id, c.chunk_id, d.document_id, d.tenant_id, c.content, c.metadata, c.text_hash, "
                    "c.embedding_hash, d.document_key FROM sl_chunks c JOIN sl_documents d ON d.document_key = c.document_key "
                    f"WHERE {chosen}",
                    ids,
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
    return DocumentRecord(*(*row[:10], bool(row[10]), *row[11:]))


def _live_chunk(row: Sequence[Any]) -> LiveChunk:
    point_id, chunk_id, document_id, owner, content, metadata, section, position, declared = row
    shown = orjson.loads(metadata)
    return LiveChunk(point_id, chunk_id, document_id, owner or None, content, shown, section, position, declared)


def current_revisions(tx: Transaction, sql: Dialect, document_keys: Sequence[int]) -> dict[int, tuple[int, int]]:
    """(revision, next_revision) of documents, which nobody else changes until the caller's transaction ends."""
    found: dict[int, tuple[int, int]] = {}
    for part in sql.parts(document_keys):
        chosen, keys = sql.among("document_key", part)
        rows = tx.execute(
            f"SELECT document_key, revision, next_revision FROM sl_documents WHERE {chosen} "
            f"ORDER BY document_key {sql.lock}",
            keys,
        )
        found.update((key, (revision, next_revision)) for key, revision, next_revision in rows)
    return found
