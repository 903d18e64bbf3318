"""The life of a document's revision: begun, acknowledged, switched to; and of points: condemned, purged, marked.

`begin` records what is wanted, `switch` makes it what searches see, in one step per document. Where store and ledger
share a database the caller runs both in one write transaction, with the points between them. Else each commits alone,
and a crash in between leaves a row in `sl_revisions`, from which `unfinished` hands the work to whoever comes next.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from shelflist.core.transaction import Database, Transaction
from shelflist.core.types import IndexStatus, Metadata
from shelflist.ledger.documents import current_revisions

LEASE_SECONDS = 60.0


@dataclass(slots=True)
class NewChunk:
    """A chunk row that a revision introduces. `chunk_key` is given by `begin`."""

    point_id: bytes
    chunk_id: bytes
    text_hash: bytes
    metadata_hash: bytes
    embedding_hash: bytes | None
    position: int
    token_count: int | None
    section: str | None
    chunk_strategy: str | None
    metadata: str
    content: str
    error: str | None = None
    attempts: int = 0
    chunk_key: int = 0
    vector_hash: bytes | None = None
    stored: Metadata | None = None
    """`metadata` as the dict it was made from, while it is at hand."""


@dataclass(frozen=True, slots=True)
class KeptChunk:
    chunk_key: int
    position: int
    moved: bool


@dataclass(slots=True)
class Revision:
    """One document's next content. `document_key` 0: the document is new. `digest` None: never a no-op next time."""

    document_id: str
    tenant: str
    document_key: int
    base_revision: int
    number: int
    source_id: int
    digest: bytes | None
    source_digest: bytes | None
    new: list[NewChunk] = field(default_factory=list)
    kept: list[KeptChunk] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    removes_document: bool = False


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A revision that somebody began and did not finish."""

    document_key: int
    number: int
    base_revision: int
    source_id: int
    digest: bytes | None
    source_digest: bytes | None
    members: list[int]


@dataclass(frozen=True, slots=True)
class Condemned:
    chunk_key: int
    point_id: bytes
    text_hash: bytes
    embedding_hash: bytes | None


class Revisions:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._pid = 0
        self._owner = ""

    @property
    def owner(self) -> str:
        """This process, as leases name it."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._owner = f"{socket.gethostname()}:{self._pid}:{os.urandom(4).hex()}"
        return self._owner

    def begin(
        self, collection_id: int, generation_id: int, revisions: Sequence[Revision], *, durable: bool
    ) -> list[Revision]:
        """Record new documents, chunks and their states; returns the revisions whose document has moved on meanwhile.

        With `durable` the intent outlives a crash and chunks are pending until `switch`; without, the caller commits
        everything in one transaction and chunks are written as they will be.
        """
        now = time.time()
        with self._database.write() as tx:
            good, conflicts = self._split(tx, collection_id, generation_id, revisions)
            (document_key,) = tx.execute("SELECT coalesce(max(document_key), 0) FROM sl_documents").fetchone()
            (chunk_key,) = tx.execute("SELECT coalesce(max(chunk_key), 0) FROM sl_chunks").fetchone()
            documents, chunks, states = [], [], []
            for revision in good:
                if not revision.document_key:
                    document_key += 1
                    revision.document_key = document_key
                    documents.append(
                        (
                            document_key,
                            collection_id,
                            revision.tenant,
                            revision.document_id,
                            revision.source_id,
                            0,
                            0,
                            0,
                            now,
                        )
                    )
                for chunk in revision.new:
                    chunk_key += 1
                    chunk.chunk_key = chunk_key
                    chunks.append(
                        (
                            chunk_key,
                            revision.document_key,
                            chunk.point_id,
                            chunk.chunk_id,
                            chunk.text_hash,
                            chunk.metadata_hash,
                            chunk.embedding_hash,
                            revision.number,
                            chunk.position,
                            chunk.token_count,
                            chunk.section,
                            chunk.chunk_strategy,
                            chunk.metadata,
                            chunk.content,
                        )
                    )
                    status = IndexStatus.PENDING if durable else _final(chunk)
                    acknowledged, vector_hash = int(not durable), chunk.vector_hash
                    states.append(
                        (generation_id, chunk_key, str(status), acknowledged, vector_hash, chunk.attempts, chunk.error)
                    )
            tx.insert(
                "sl_documents (document_key, collection_id, tenant_id, document_id, source_id, revision, "
                "next_revision, chunk_count, updated_at)",
                documents,
            )
            tx.insert("sl_chunks", chunks)
            tx.insert(
                "sl_states (generation_id, chunk_key, index_status, acknowledged, vector_hash, attempts, error)", states
            )
            if durable:
                self._record_intents(tx, generation_id, good, now)
        return conflicts

    def _split(
        self, tx: Transaction, collection_id: int, generation_id: int, revisions: Sequence[Revision]
    ) -> tuple[list[Revision], list[Revision]]:
        """Revisions that may begin, and those whose document is no longer as it was when they were planned."""
        found = current_revisions(tx, [one.document_key for one in revisions if one.document_key])
        taken = self._taken(tx, collection_id, [one for one in revisions if not one.document_key])
        hidden = self._hidden(tx, generation_id, revisions)
        good: list[Revision] = []
        conflicts: list[Revision] = []
        for one in revisions:
            if one.document_key:
                current, highest = found.get(one.document_key, (-1, -1))
                fits = current == one.base_revision and one.number > highest and one.document_key not in hidden
            else:
                fits = (one.tenant, one.document_id) not in taken
            (good if fits else conflicts).append(one)
        return good, conflicts

    def _hidden(self, tx: Transaction, generation_id: int, revisions: Sequence[Revision]) -> set[int]:
        """Documents of which a chunk that the plan keeps has been marked stale meanwhile."""
        kept = {kept.chunk_key for one in revisions for kept in one.kept}
        keys = [one.document_key for one in revisions if one.kept]
        hidden: set[int] = set()
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            rows = tx.execute(
                "SELECT c.document_key, c.chunk_key FROM sl_chunks c "
                "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                f"WHERE c.document_key IN ({', '.join('?' * len(part))}) AND s.index_status <> 'indexed'",
                (generation_id, *part),
            )
            hidden |= {document_key for document_key, chunk_key in rows if chunk_key in kept}
        return hidden

    def _taken(self, tx: Transaction, collection_id: int, revisions: Sequence[Revision]) -> set[tuple[str, str]]:
        """Of documents planned as new: those that somebody has made meanwhile."""
        taken: set[tuple[str, str]] = set()
        for start in range(0, len(revisions), 500):
            part = revisions[start : start + 500]
            marks = ", ".join(["(?, ?)"] * len(part))
            names = [value for one in part for value in (one.tenant, one.document_id)]
            taken |= set(
                tx.execute(
                    "SELECT tenant_id, document_id FROM sl_documents "
                    f"WHERE collection_id = ? AND (tenant_id, document_id) IN (VALUES {marks})",
                    (collection_id, *names),
                )
            )
        return taken

    def _record_intents(self, tx: Transaction, generation_id: int, revisions: Sequence[Revision], now: float) -> None:
        rows = []
        for one in revisions:
            members = sorted(
                [(kept.position, kept.chunk_key) for kept in one.kept]
                + [(new.position, new.chunk_key) for new in one.new]
            )
            rows.append(
                (
                    one.document_key,
                    one.number,
                    generation_id,
                    one.base_revision,
                    one.source_id,
                    one.digest,
                    one.source_digest,
                    orjson.dumps([key for _, key in members]).decode(),
                    self.owner,
                    now + LEASE_SECONDS,
                )
            )
        tx.insert("sl_revisions", rows)
        tx.executemany(
            "UPDATE sl_documents SET next_revision = ? WHERE document_key = ?",
            ((one.number, one.document_key) for one in revisions),
        )

    def acknowledge(self, generation_id: int, chunk_keys: Sequence[int]) -> None:
        """The store has these points."""
        with self._database.write() as tx:
            tx.executemany(
                "UPDATE sl_states SET acknowledged = 1 WHERE generation_id = ? AND chunk_key = ?",
                ((generation_id, key) for key in chunk_keys),
            )

    def switch(
        self, generation_id: int, revisions: Sequence[Revision], *, grace: float, durable: bool
    ) -> list[Revision]:
        """Make revisions the current ones; returns the losers, whose new points are condemned.

        `grace`: seconds until replaced points may be purged.
        """
        now = time.time()
        with self._database.write() as tx:
            found = current_revisions(tx, [one.document_key for one in revisions])
            hidden = self._hidden(tx, generation_id, revisions)
            losers = [
                one
                for one in revisions
                if found.get(one.document_key, (-1, -1))[0] != one.base_revision or one.document_key in hidden
            ]
            lost = {id(one) for one in losers}
            winners = [one for one in revisions if id(one) not in lost]
            tx.executemany(
                "UPDATE sl_documents SET revision = ?, next_revision = max(next_revision, ?), digest = ?, "
                "source_digest = ?, source_id = ?, chunk_count = ?, removed_at = ?, updated_at = ? WHERE document_key = ?",
                (
                    (
                        one.number,
                        one.number,
                        one.digest,
                        one.source_digest,
                        one.source_id,
                        len(one.new) + len(one.kept),
                        now if one.removes_document else None,
                        now,
                        one.document_key,
                    )
                    for one in winners
                ),
            )
            if durable:
                tx.executemany(
                    "UPDATE sl_states SET index_status = ?, error = ? WHERE generation_id = ? AND chunk_key = ?",
                    (
                        (str(_final(chunk)), chunk.error, generation_id, chunk.chunk_key)
                        for one in winners
                        for chunk in one.new
                    ),
                )
                tx.executemany(
                    "DELETE FROM sl_revisions WHERE document_key = ? AND revision = ?",
                    ((one.document_key, one.number) for one in revisions),
                )
            tx.executemany(
                "UPDATE sl_chunks SET position = ? WHERE chunk_key = ?",
                ((kept.position, kept.chunk_key) for one in winners for kept in one.kept if kept.moved),
            )
            self._condemn(tx, generation_id, [key for one in winners for key in one.removed], now + grace)
            self._condemn(tx, generation_id, [chunk.chunk_key for one in losers for chunk in one.new], now + grace)
        return losers

    def abandon(self, generation_id: int, revision: Revision, *, grace: float) -> None:
        """Give up a begun revision: its new points are condemned, the current revision stays."""
        with self._database.write() as tx:
            self._condemn(tx, generation_id, [chunk.chunk_key for chunk in revision.new], time.time() + grace)
            tx.execute(
                "DELETE FROM sl_revisions WHERE document_key = ? AND revision = ?",
                (revision.document_key, revision.number),
            )

    def mark(self, generation_id: int, document_key: int) -> list[tuple[int, bytes]]:
        """Hide every chunk of a document at once: `stale`, reason `marked`. Returns chunk keys and point ids."""
        with self._database.write() as tx:
            rows = tx.execute(
                "SELECT c.chunk_key, c.point_id FROM sl_chunks c "
                "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                "WHERE c.document_key = ? AND s.index_status = 'indexed'",
                (generation_id, document_key),
            ).fetchall()
            tx.executemany(
                "UPDATE sl_states SET index_status = 'stale', stale_reason = 'marked' "
                "WHERE generation_id = ? AND chunk_key = ?",
                ((generation_id, key) for key, _ in rows),
            )
            tx.execute("UPDATE sl_documents SET digest = NULL WHERE document_key = ?", (document_key,))
        return [(key, point_id) for key, point_id in rows]

    def renew(self, documents: Sequence[tuple[int, int, bytes | None]]) -> None:
        """(document_key, revision, source digest) of documents whose raw bytes or revision changed and no chunk did.

        The revision moves on all the same: it fences writers that come late.
        """
        with self._database.write() as tx:
            tx.executemany(
                "UPDATE sl_documents SET revision = max(revision, ?), next_revision = max(next_revision, ?), "
                "source_digest = ? WHERE document_key = ?",
                ((revision, revision, source_digest, key) for key, revision, source_digest in documents),
            )

    def due(self, generation_id: int, limit: int) -> list[Condemned]:
        """Condemned points whose grace has passed."""
        with self._database.read() as tx:
            rows = tx.execute(
                "SELECT c.chunk_key, c.point_id, c.text_hash, c.embedding_hash FROM sl_states s "
                "JOIN sl_chunks c ON c.chunk_key = s.chunk_key WHERE s.generation_id = ? AND s.purge_after <= ? "
                "LIMIT ?",
                (generation_id, time.time(), limit),
            )
            return [Condemned(*row) for row in rows]

    def purged(self, generation_id: int, chunk_keys: Sequence[int]) -> None:
        """The store no longer has these points: forget them."""
        with self._database.write() as tx:
            tx.executemany(
                "DELETE FROM sl_states WHERE generation_id = ? AND chunk_key = ?",
                ((generation_id, key) for key in chunk_keys),
            )
            tx.executemany("DELETE FROM sl_chunks WHERE chunk_key = ?", ((key,) for key in chunk_keys))

    def point_ids(self, chunk_keys: Sequence[int]) -> list[bytes]:
        ids: list[bytes] = []
        with self._database.read() as tx:
            for start in range(0, len(chunk_keys), 500):
                part = chunk_keys[start : start + 500]
                marks = ", ".join("?" * len(part))
                ids += [
                    row[0] for row in tx.execute(f"SELECT point_id FROM sl_chunks WHERE chunk_key IN ({marks})", part)
                ]
        return ids

    def unfinished(self, generation_id: int) -> list[Unfinished]:
        """Claim the revisions whose owner is gone: its lease has run out, or it was a process here that is dead."""
        now = time.time()
        with self._database.read() as tx:
            if tx.execute("SELECT 1 FROM sl_revisions WHERE generation_id = ?", (generation_id,)).fetchone() is None:
                return []
        with self._database.write() as tx:
            rows = tx.execute(
                "SELECT document_key, revision, base_revision, source_id, digest, source_digest, members, lease_owner, "
                "lease_until FROM sl_revisions WHERE generation_id = ?",
                (generation_id,),
            ).fetchall()
            open_work = [row for row in rows if row[8] < now or _is_dead(row[7])]
            tx.executemany(
                "UPDATE sl_revisions SET lease_owner = ?, lease_until = ? WHERE document_key = ? AND revision = ?",
                ((self.owner, now + LEASE_SECONDS, row[0], row[1]) for row in open_work),
            )
        return [Unfinished(*(*row[:6], orjson.loads(row[6]))) for row in open_work]

    def open_count(self, generation_id: int) -> int:
        """How many revisions were begun and not switched to, by anybody."""
        with self._database.read() as tx:
            (count,) = tx.execute(
                "SELECT count(*) FROM sl_revisions WHERE generation_id = ?", (generation_id,)
            ).fetchone()
        return int(count)

    def load(self, generation_id: int, work: Unfinished) -> Revision | None:
        """An unfinished revision as it was begun; None if a point of it has been condemned since."""
        with self._database.read() as tx:
            document = tx.execute(
                "SELECT document_id, tenant_id FROM sl_documents WHERE document_key = ?", (work.document_key,)
            ).fetchone()
            rows = tx.execute(
                "SELECT c.chunk_key, c.position, s.index_status, s.purge_after IS NOT NULL, s.attempts, c.point_id, "
                "c.chunk_id, c.text_hash, c.metadata_hash, c.embedding_hash, c.token_count, c.section, c.chunk_strategy, "
                "c.metadata, c.content, c.first_revision FROM sl_chunks c JOIN sl_states s ON s.generation_id = ? "
                "AND s.chunk_key = c.chunk_key WHERE c.document_key = ?",
                (generation_id, work.document_key),
            ).fetchall()
        known = {row[0]: row for row in rows}
        revision = Revision(
            document[0],
            document[1],
            work.document_key,
            work.base_revision,
            work.number,
            work.source_id,
            work.digest,
            work.source_digest,
        )
        whole = True
        for position, key in enumerate(work.members):
            row = known.pop(key, None)
            if row is None or row[3]:
                whole = False
            elif row[15] == work.number:
                revision.new.append(NewChunk(*(*row[5:10], position, *row[10:15], None, row[4], key)))
            else:
                revision.kept.append(KeptChunk(key, position, moved=row[1] != position))
        revision.removed = [key for key, row in known.items() if not row[3] and row[15] <= work.base_revision]
        if not whole:
            self.abandon(generation_id, revision, grace=LEASE_SECONDS)
            return None
        return revision

    def _condemn(self, tx: Transaction, generation_id: int, chunk_keys: Sequence[int], purge_after: float) -> None:
        tx.executemany(
            "UPDATE sl_states SET index_status = 'stale', stale_reason = 'superseded', purge_after = ? "
            "WHERE generation_id = ? AND chunk_key = ?",
            ((purge_after, generation_id, key) for key in chunk_keys),
        )


def _final(chunk: NewChunk) -> IndexStatus:
    return IndexStatus.FAILED if chunk.error else IndexStatus.INDEXED


def _is_dead(owner: str) -> bool:
    """Whether the owner was a process of this host that no longer runs."""
    host, pid, _ = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
