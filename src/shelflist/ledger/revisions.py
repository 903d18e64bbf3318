"""The life of a document's revision: begun, acknowledged, switched to; and of points: condemned, purged, marked.

`begin` records what is wanted, `switch` makes it what searches see, in one step per document. Where store and ledger
share a database the caller runs both in one write transaction, with the points between them. Else each commits alone,
and a crash in between leaves a row in `sl_revisions`, from which `unfinished` hands the work to whoever comes next.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import orjson

from shelflist.core.errors import CollectionNotFound
from shelflist.core.transaction import Database, Transaction
from shelflist.core.types import IndexStatus
from shelflist.ledger.dialect import dialect_of
from shelflist.ledger.documents import current_revisions
from shelflist.ledger.leases import LEASE_SECONDS, Owner, has_run_out, is_dead
from shelflist.ledger.records import Condemned, KeptChunk, NewChunk, Revision, Unfinished

__all__ = ["Condemned", "KeptChunk", "NewChunk", "Revision", "Revisions", "Unfinished"]


class Revisions:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._sql = dialect_of(database)
        self._owner = Owner()

    @property
    def owner(self) -> str:
        """This process, as leases name it."""
        return self._owner.name

    def begin(
        self, collection_id: int, generation_id: int, revisions: Sequence[Revision], *, durable: bool
    ) -> list[Revision]:
        """Record new documents, chunks and their states; returns the revisions whose document has moved on meanwhile.

        With `durable` the intent outlives a crash and chunks are pending until `switch`; without, the caller commits
        everything in one transaction and chunks are written as they will be.
        """
        with self._database.write():
            conflicts = self.claim(collection_id, generation_id, revisions)
            lost = {id(one) for one in conflicts}
            self.record(generation_id, [one for one in revisions if id(one) not in lost], durable=durable)
        return conflicts

    def claim(self, collection_id: int, generation_id: int, revisions: Sequence[Revision]) -> list[Revision]:
        """The first half of `begin`: make rows for new documents, hold those of known ones; returns the conflicts."""
        with self._database.write() as tx:
            self._require_collection(tx, collection_id)
            _, conflicts = self._split(tx, collection_id, generation_id, revisions, self._database.now())
        return conflicts

    def record(self, generation_id: int, revisions: Sequence[Revision], *, durable: bool) -> None:
        """The second half of `begin`, in the same transaction: write chunks and states of claimed documents."""
        with self._database.write() as tx:
            chunks, states = [], []
            begun, failed = str(IndexStatus.PENDING if durable else IndexStatus.INDEXED), str(IndexStatus.FAILED)
            acknowledged = int(not durable)
            keys = self._sql.new_keys(tx, "chunk", sum(len(revision.new) for revision in revisions))
            for revision in revisions:
                for chunk in revision.new:
                    chunk.chunk_key = next(keys)
                    chunks.append(
                        (
                            chunk.chunk_key,
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
                    status = failed if chunk.error and not durable else begun
                    state = (chunk.chunk_key, status, acknowledged, chunk.vector_hash, chunk.attempts, chunk.error)
                    states.append((generation_id, *state))
            tx.insert("sl_chunks", chunks)
            tx.insert(
                "sl_states (generation_id, chunk_key, index_status, acknowledged, vector_hash, attempts, error)", states
            )
            if durable:
                self._record_intents(tx, generation_id, revisions, self._database.now())
            self._sql.grown(tx, len(chunks))

    def _require_collection(self, tx: Transaction, collection_id: int) -> None:
        """Hold the collection against a drop; CollectionNotFound if one came first."""
        lock = "FOR KEY SHARE" if self._sql.lock else ""
        found = tx.execute(f"SELECT 1 FROM sl_collections WHERE collection_id = ? {lock}", (collection_id,)).fetchone()
        if found is None:
            raise CollectionNotFound(
                "The collection was dropped while this sync was writing to it. Nothing was written."
            )

    def _split(
        self, tx: Transaction, collection_id: int, generation_id: int, revisions: Sequence[Revision], now: float
    ) -> tuple[list[Revision], list[Revision]]:
        """Revisions that may begin, and those whose document is no longer as it was when they were planned.

        Rows of known documents are held until the transaction ends, rows of new ones are made.
        """
        found = current_revisions(tx, self._sql, [one.document_key for one in revisions if one.document_key])
        made = self._made(tx, collection_id, [one for one in revisions if not one.document_key], now)
        hidden = self._hidden(tx, generation_id, revisions)
        good: list[Revision] = []
        conflicts: list[Revision] = []
        for one in revisions:
            if one.document_key:
                current, highest = found.get(one.document_key, (-1, -1))
                fits = current == one.base_revision and one.number > highest and one.document_key not in hidden
            else:
                one.document_key = made.get((one.tenant, one.document_id), 0)
                fits = bool(one.document_key)
            (good if fits else conflicts).append(one)
        return good, conflicts

    def _hidden(self, tx: Transaction, generation_id: int, revisions: Sequence[Revision]) -> set[int]:
        """Documents of which a chunk that the plan keeps has been marked stale meanwhile."""
        kept = {kept.chunk_key for one in revisions for kept in one.kept}
        keys = [one.document_key for one in revisions if one.kept]
        hidden: set[int] = set()
        for part in self._sql.parts(keys):
            chosen, values = self._sql.among("c.document_key", part)
            rows = tx.execute(
                "SELECT c.document_key, c.chunk_key FROM sl_chunks c "
                "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                f"WHERE {chosen} AND s.index_status <> 'indexed'",
                (generation_id, *values),
            )
            hidden |= {document_key for document_key, chunk_key in rows if chunk_key in kept}
        return hidden

    def _made(
        self, tx: Transaction, collection_id: int, revisions: Sequence[Revision], now: float
    ) -> dict[tuple[str, str], int]:
        """Rows for documents planned as new: their keys by tenant and id, without those that somebody else has made."""
        keys = self._sql.new_keys(tx, "document", len(revisions))
        rows = [
            (next(keys), collection_id, one.tenant, one.document_id, one.source_id, 0, 0, 0, now)
            for one in sorted(revisions, key=lambda one: (one.tenant, one.document_id))
        ]
        return {(tenant, name): key for key, tenant, name in self._sql.insert_documents(tx, rows)}

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
                    orjson.dumps(None if one.removes_document else [key for _, key in members]).decode(),
                    self.owner,
                    now + LEASE_SECONDS,
                    one.fence,
                )
            )
        tx.insert("sl_revisions", rows)
        self._sql.each(
            tx,
            "UPDATE sl_documents SET next_revision = ? WHERE document_key = ?",
            "bigint bigint",
            ((one.number, one.document_key) for one in revisions),
        )

    def acknowledge(self, generation_id: int, chunk_keys: Sequence[int]) -> None:
        """The store has these points."""
        with self._database.write() as tx:
            self._sql.for_keys(
                tx,
                "UPDATE sl_states SET acknowledged = 1 WHERE generation_id = ?",
                (generation_id,),
                "chunk_key",
                chunk_keys,
            )

    def switch(
        self, generation_id: int, revisions: Sequence[Revision], *, grace: float, durable: bool
    ) -> list[Revision]:
        """Make revisions the current ones; returns the losers, whose new points are condemned.

        `grace`: seconds until replaced points may be purged.
        """
        with self._database.write() as tx:
            now = self._database.now()
            found = current_revisions(tx, self._sql, [one.document_key for one in revisions])
            hidden = self._hidden(tx, generation_id, revisions)
            wanted = self._intents(tx, generation_id, revisions) if durable else None
            losers: list[Revision] = []
            winners: list[Revision] = []
            for one in revisions:
                current = found.get(one.document_key, (-1, -1))[0]
                given_up = wanted is not None and (one.document_key, one.number) not in wanted
                if given_up and current == one.number:
                    continue  # our lease ran out, and whoever took the work up has finished it
                fits = current == one.base_revision and one.document_key not in hidden and not given_up
                (winners if fits else losers).append(one)
            # A removal comes after everything that was begun before it.
            begun = self.begun([one.document_key for one in winners if one.removes_document])
            if durable:
                self._sql.for_keys(
                    tx,
                    "UPDATE sl_states SET index_status = 'indexed', error = NULL WHERE generation_id = ?",
                    (generation_id,),
                    "chunk_key",
                    [chunk.chunk_key for one in winners for chunk in one.new if not chunk.error],
                )
                self._sql.each(
                    tx,
                    "UPDATE sl_states SET index_status = 'failed', error = ? WHERE generation_id = ? AND chunk_key = ?",
                    "text bigint bigint",
                    (
                        (chunk.error, generation_id, chunk.chunk_key)
                        for one in winners
                        for chunk in one.new
                        if chunk.error
                    ),
                )
                self._sql.each(
                    tx,
                    "DELETE FROM sl_revisions WHERE document_key = ? AND revision = ?",
                    "bigint bigint",
                    ((one.document_key, one.number) for one in revisions),
                )
            self._sql.each(
                tx,
                "UPDATE sl_chunks SET position = ? WHERE chunk_key = ?",
                "bigint bigint",
                ((kept.position, kept.chunk_key) for one in winners for kept in one.kept if kept.moved),
            )
            self._condemn(tx, generation_id, [key for one in winners for key in one.removed], now + grace)
            self._condemn(tx, generation_id, [chunk.chunk_key for one in losers for chunk in one.new], now + grace)
            # Last, so that the time it is stamped with is nearly that of the commit: searches compare it with their start.
            self._sql.each(
                tx,
                f"UPDATE sl_documents SET revision = ?, next_revision = {self._sql.greatest}(next_revision, ?), digest = ?, "
                "source_digest = ?, source_id = ?, chunk_count = ?, removed_at = ?, "
                f"fence = {self._sql.greatest}(fence, ?), updated_at = {self._sql.clock} WHERE document_key = ?",
                "bigint bigint bytea bytea bigint bigint float8 bigint bigint",
                (
                    (
                        one.number,
                        one.number,
                        one.digest,
                        one.source_digest,
                        one.source_id,
                        len(one.new) + len(one.kept),
                        now if one.removes_document else None,
                        max(one.fence, begun.get(one.document_key, 0)),
                        one.document_key,
                    )
                    for one in winners
                ),
            )
        return losers

    def _intents(self, tx: Transaction, generation_id: int, revisions: Sequence[Revision]) -> set[tuple[int, int]]:
        """Document and number of the revisions that are still open."""
        found: set[tuple[int, int]] = set()
        for part in self._sql.parts([one.document_key for one in revisions]):
            chosen, keys = self._sql.among("document_key", part)
            found |= set(
                tx.execute(
                    f"SELECT document_key, revision FROM sl_revisions WHERE generation_id = ? AND {chosen}",
                    (generation_id, *keys),
                )
            )
        return found

    def begun(self, document_keys: Sequence[int]) -> dict[int, int]:
        """The highest number that a caller gave a revision of these documents that was begun and is not finished."""
        found: dict[int, int] = {}
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(document_keys):
                chosen, keys = self._sql.among("document_key", part)
                found.update(
                    tx.execute(
                        f"SELECT document_key, max(fence) FROM sl_revisions WHERE {chosen} GROUP BY document_key", keys
                    )
                )
        return found

    def abandon(self, generation_id: int, revision: Revision, *, grace: float) -> None:
        """Give up a begun revision: its new points are condemned, the current revision stays."""
        with self._database.write() as tx:
            current_revisions(tx, self._sql, [revision.document_key])
            until = self._database.now() + grace
            self._condemn(tx, generation_id, [chunk.chunk_key for chunk in revision.new], until)
            tx.execute(
                "DELETE FROM sl_revisions WHERE document_key = ? AND revision = ?",
                (revision.document_key, revision.number),
            )

    def release(self, revisions: Sequence[Revision]) -> None:
        """Let go of revisions that could not be finished: whoever comes next may take them up at once."""
        with self._database.write() as tx:
            tx.executemany(
                "UPDATE sl_revisions SET lease_until = 0 WHERE document_key = ? AND revision = ?",
                ((one.document_key, one.number) for one in revisions),
            )

    def mark(
        self, generation_id: int, document_key: int, only: Collection[bytes] | None = None, *, reason: str = "marked"
    ) -> list[tuple[int, bytes]]:
        """Hide every chunk of a document, or those of these points, at once: `stale`, for this reason; its next sync writes
        them anew. Returns chunk keys and point ids."""
        with self._database.write() as tx:
            current_revisions(tx, self._sql, [document_key])
            rows = tx.execute(
                "SELECT c.chunk_key, c.point_id FROM sl_chunks c "
                "JOIN sl_states s ON s.generation_id = ? AND s.chunk_key = c.chunk_key "
                "WHERE c.document_key = ? AND s.index_status = 'indexed'",
                (generation_id, document_key),
            ).fetchall()
            if only is not None:
                rows = [(key, point_id) for key, point_id in rows if point_id in only]
            self._sql.for_keys(
                tx,
                "UPDATE sl_states SET index_status = 'stale', stale_reason = ? WHERE generation_id = ?",
                (reason, generation_id),
                "chunk_key",
                [key for key, _ in rows],
            )
            tx.execute("UPDATE sl_documents SET digest = NULL WHERE document_key = ?", (document_key,))
        return [(key, point_id) for key, point_id in rows]

    def renew(self, documents: Sequence[tuple[int, int, bytes | None]]) -> None:
        """(document_key, caller's number, source digest) of documents whose raw bytes or number changed and no chunk did.

        A higher number is a revision all the same: it fences writers that come late.
        """
        with self._database.write() as tx:
            current_revisions(tx, self._sql, [key for key, _, _ in documents])
            self._sql.each(
                tx,
                "UPDATE sl_documents SET revision = CASE WHEN ? > fence THEN next_revision + 1 ELSE revision END, "
                "next_revision = CASE WHEN ? > fence THEN next_revision + 1 ELSE next_revision END, "
                f"fence = {self._sql.greatest}(fence, ?), source_digest = ? WHERE document_key = ?",
                "bigint bigint bigint bytea bigint",
                ((fence, fence, fence, source_digest, key) for key, fence, source_digest in documents),
            )

    def due(self, generation_id: int, limit: int, *, grace: float = LEASE_SECONDS) -> list[Condemned]:
        """Condemned points whose grace, as long as this one or shorter, has passed. In a write transaction they are the caller's until it ends, and those
        that another transaction is purging are passed over."""
        with self._database.read(single=True) as tx:
            claim = self._sql.claim if tx.writable else ""
            now = self._database.now()
            # Condemned for long after that: by a clock that was set back since.
            rows = tx.execute(
                "SELECT c.chunk_key, c.point_id, c.text_hash, c.embedding_hash FROM sl_states s "
                "JOIN sl_chunks c ON c.chunk_key = s.chunk_key WHERE s.generation_id = ? "
                "AND (s.purge_after <= ? OR s.purge_after > ?) "
                f"LIMIT ? {claim}",
                (generation_id, now, now + 2 * max(grace, LEASE_SECONDS), limit),
            )
            return [Condemned(*row) for row in rows]

    def purged(self, generation_id: int, chunk_keys: Sequence[int]) -> None:
        """The store no longer has these points: forget them."""
        with self._database.write() as tx:
            keys = sorted(chunk_keys)
            self._sql.for_keys(tx, "DELETE FROM sl_states WHERE generation_id = ?", (generation_id,), "chunk_key", keys)
            self._sql.for_keys(tx, "DELETE FROM sl_chunks WHERE 1 = 1", (), "chunk_key", keys)

    def point_ids(self, chunk_keys: Sequence[int]) -> list[bytes]:
        ids: list[bytes] = []
        with self._database.read(single=True) as tx:
            for part in self._sql.parts(chunk_keys):
                chosen, keys = self._sql.among("chunk_key", part)
                ids += [row[0] for row in tx.execute(f"SELECT point_id FROM sl_chunks WHERE {chosen}", keys)]
        return ids

    def unfinished(self, generation_id: int) -> list[Unfinished]:
        """Claim the revisions whose owner is gone: its lease has run out, or it was a process here that is dead."""
        with self._database.read(single=True) as tx:
            now = self._database.now()
            rows = tx.execute(
                "SELECT document_key, revision, base_revision, source_id, digest, source_digest, fence, members, "
                "lease_owner, lease_until FROM sl_revisions WHERE generation_id = ?",
                (generation_id,),
            ).fetchall()
        open_work = [row for row in rows if has_run_out(row[9], now, LEASE_SECONDS) or is_dead(row[8])]
        claimed: list[tuple[Any, ...]] = []
        if not open_work:
            return []
        with self._database.write() as tx:
            for row in open_work:  # whoever else has claimed it meanwhile has changed its lease
                done = tx.execute(
                    "UPDATE sl_revisions SET lease_owner = ?, lease_until = ? "
                    "WHERE document_key = ? AND revision = ? AND lease_owner = ? AND lease_until = ?",
                    (self.owner, now + LEASE_SECONDS, row[0], row[1], row[8], row[9]),
                )
                if done.rowcount:
                    claimed.append(row)
        return [Unfinished(*(*row[:7], orjson.loads(row[7]))) for row in claimed]

    def open_count(self, generation_id: int, tenant: str | None = None) -> int:
        """How many revisions were begun and not switched to, by anybody; of one tenant's documents, if one is given."""
        own = "" if tenant is None else " AND d.tenant_id = ?"
        with self._database.read(single=True) as tx:
            (count,) = tx.execute(
                "SELECT count(*) FROM sl_revisions r JOIN sl_documents d ON d.document_key = r.document_key "
                f"WHERE r.generation_id = ?{own}",
                (generation_id, *(() if tenant is None else (tenant,))),
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
            removes_document=work.members is None,
            fence=work.fence,
        )
        whole = True
        for position, key in enumerate(work.members or ()):
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
        self._sql.for_keys(
            tx,
            "UPDATE sl_states SET index_status = 'stale', stale_reason = 'superseded', purge_after = ? "
            "WHERE generation_id = ?",
            (purge_after, generation_id),
            "chunk_key",
            chunk_keys,
        )
