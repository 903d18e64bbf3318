"""Writes planned revisions: points into the store, states into the ledger, and the switch that makes them visible.

Where store and ledger share a database all of it is one transaction. Else: begin (ledger), upsert (store), acknowledge
(ledger), flush (store), switch (ledger); a crash anywhere leaves work that `Writer.finish` takes up, never a ghost.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import orjson

from shelflist.core.errors import Transient
from shelflist.core.log import log
from shelflist.core.types import Failure, OnFailed, Point, SyncReport, Vector, Wait
from shelflist.generation import Generation
from shelflist.indexing.batches import upsert_all
from shelflist.indexing.embedding import VectorSource
from shelflist.indexing.identity import hash_of, vector_bytes
from shelflist.indexing.later import Later
from shelflist.indexing.plan import PlannedDocument
from shelflist.ledger.revisions import NewChunk, Revision

GRACE_SECONDS = 60.0
_PURGE_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Ready:
    """Documents that can be written, and the vectors, by text hash, of their chunks that brought none."""

    documents: list[PlannedDocument]
    vectors: dict[bytes, Vector]


@dataclass(frozen=True, slots=True)
class Written:
    """Documents that were switched to, and those that somebody else had changed meanwhile; how many points were purged;
    by id() of its plan, why the store has not taken a document."""

    won: list[PlannedDocument]
    lost: list[PlannedDocument]
    purged: int
    refused: dict[int, list[Failure]]

    def count(self, report: SyncReport) -> None:
        report.failures += [failure for failures in self.refused.values() for failure in failures]
        report.documents_failed += len(self.refused)
        count_changes(self.won, report)
        report.purged += self.purged


class Writer:
    def __init__(self, generation: Generation, vectors: VectorSource, *, grace: float | None = None) -> None:
        self._ledger = generation.ledger
        self._store = generation.store
        self._spec = generation.spec
        self._collection = generation.record
        self._keywords = generation.keywords
        self._vectors = vectors
        self._later = Later()
        self.together = generation.together
        self._grace = (0.0 if self.together else GRACE_SECONDS) if grace is None else grace

    def write(
        self,
        planned: Sequence[PlannedDocument],
        report: SyncReport,
        *,
        on_failed: OnFailed,
        wait: Wait,
        overtaken: Callable[[list[PlannedDocument]], None],
    ) -> list[PlannedDocument]:
        """Embed and write; returns the documents that somebody else changed meanwhile, to be planned again.

        With `wait="stored"` on a store that shows writes late, that is found out after the return: `overtaken` is called.
        """
        ready = self.ready(planned, report, on_failed)
        if not ready.documents:
            return []
        if not self.together:
            return self._apart(ready.documents, ready.vectors, report, wait, overtaken)
        written = self.write_together(ready)
        written.count(report)
        return written.lost

    def ready(self, planned: Sequence[PlannedDocument], report: SyncReport, on_failed: OnFailed) -> Ready:
        """Embed, and leave out documents with a chunk that could not be embedded, unless they are switched without it."""
        vectors = self._vectors.fill(planned, report)
        return Ready(self._accepted(planned, report, on_failed), vectors)

    def write_together(self, ready: Ready) -> Written:
        """Points, states and switch in one transaction, where store and ledger share a database. Any thread may do this."""
        generation = self._collection.generation_id
        for one in ready.documents:  # the store's rows are the only copy: hashes let `verify` tell a changed vector
            for chunk in one.revision.new:
                chunk.vector_hash = chunk.embedding_hash or self._vector_hash(one, chunk, ready.vectors)
        with _collector_at_rest(), self._ledger.database.write():
            conflicts = self._ledger.revisions.claim(
                self._collection.collection_id, generation, [one.revision for one in ready.documents]
            )
            lost = {id(one) for one in conflicts}
            won = [one for one in ready.documents if id(one.revision) not in lost]
            points = [point for one in won for point in self.points(one, ready.vectors)]
            failed = self._store.upsert(self._spec, points).failed  # early: it may do a part of it beside what follows
            refused = _refused(won, failed)
            unsaved: set[bytes] = set()
            if refused:
                whole = [one for one in won if id(one) not in refused]
                news = [chunk for one in won if id(one) in refused for chunk in one.revision.new]
                self._store.delete(self._spec, [chunk.point_id for chunk in news])
                won, unsaved = whole, {chunk.text_hash for chunk in news}
            self._ledger.revisions.record(generation, [one.revision for one in won], durable=False)
            removed = [key for one in won for key in one.revision.removed]
            if removed and self._grace:
                self._store.set_stale(self._spec, self._point_ids(removed))
            self._ledger.revisions.switch(generation, [one.revision for one in won], grace=self._grace, durable=False)
            purged = 0 if self._grace else self.purge()  # in this transaction, while its pages are at hand
            self._vectors.settle([one for one in ready.vectors if one not in unsaved])
        return Written(won, [one for one in ready.documents if id(one.revision) in lost], purged, refused)

    def remove(self, revisions: Sequence[Revision]) -> list[Revision]:
        """Switch documents to nothing; returns those that somebody else changed meanwhile."""
        generation = self._collection.generation_id
        with self._ledger.database.write():
            losers = self._ledger.revisions.switch(generation, revisions, grace=self._grace, durable=False)
            gone = self._point_ids([key for one in revisions if one not in losers for key in one.removed])
            if self.together:
                self._store.set_stale(self._spec, gone)
        if not self.together:
            self.hide(gone)
        return losers

    def hide(self, point_ids: Sequence[bytes]) -> None:
        """Spare searches these candidates. The ledger keeps them out all the same, so a store that is away is no failure."""
        if point_ids:
            try:
                self._store.set_stale(self._spec, point_ids)
            except Exception as error:
                if not isinstance(error, Transient):
                    raise
                log.warning("%s What was replaced is not marked stale there; no search shows it.", error)

    def build(self, *, changed: bool = True) -> None:
        """Wait for the index that the store has still to build, or have it begun; `changed`: whether this pass wrote."""
        if changed or self._store.capabilities.builds_aside:
            self._store.build(self._spec)

    def settle(self) -> None:
        """Wait for what `wait="stored"` left to be revealed."""
        self._later.wait()

    def purge(self) -> int:
        """Delete the condemned points whose grace has passed, in bounded batches; returns how many."""
        purged = 0
        generation = self._collection.generation_id
        while self._ledger.revisions.due(generation, 1, grace=self._grace):
            if self.together:
                with self._ledger.database.write():  # what is due in here is ours alone
                    done = self._purge_some(generation)
            else:
                done = self._purge_some(generation)
            if not done:
                break
            purged += done
        return purged

    def _purge_some(self, generation: int) -> int:
        due = self._ledger.revisions.due(generation, _PURGE_BATCH, grace=self._grace)
        if not due:
            return 0
        self._vectors.keep(due)
        self._store.delete(self._spec, [one.point_id for one in due])
        self._ledger.revisions.purged(generation, [one.chunk_key for one in due])
        if self._keywords is not None:
            self._keywords.remove([one.chunk_key for one in due])
        return len(due)

    def finish(self, report: SyncReport) -> int:
        """Take up revisions that a dead process began; returns how many documents were finished."""
        finished = 0
        generation = self._collection.generation_id
        for work in self._ledger.revisions.unfinished(generation):
            revision = self._ledger.revisions.load(generation, work)
            if revision is None:
                continue
            planned = PlannedDocument(revision)
            hashes = [chunk.embedding_hash for chunk in revision.new if chunk.embedding_hash is not None]
            given = self._ledger.embeddings.get(self._collection.fingerprint, hashes)
            for chunk in revision.new:
                if chunk.embedding_hash is not None and chunk.embedding_hash in given:
                    planned.given[chunk.point_id] = given[chunk.embedding_hash]
            vectors = self._vectors.fill([planned], report)
            lost = any(chunk.error or self._vector(planned, chunk, vectors) is None for chunk in revision.new)
            if lost:
                self._ledger.revisions.abandon(generation, revision, grace=self._grace)
                continue
            failed = self._store_points([planned], vectors)
            if failed:
                continue  # the lease runs out, and the next sync tries again
            if self._reveal([planned]):
                continue  # somebody else has changed the document since
            finished += 1
            log.info("Finished an interrupted revision of %s.", revision.document_id)
        return finished

    def points(self, planned: PlannedDocument, vectors: dict[bytes, Vector]) -> list[Point]:
        revision = planned.revision
        tenant = revision.tenant or None
        rows = []
        for chunk in revision.new:
            vector = self._vector(planned, chunk, vectors)
            if chunk.error is None and vector is not None:
                metadata = orjson.loads(chunk.metadata) if chunk.stored is None else chunk.stored
                rows.append(
                    Point(chunk.point_id, chunk.chunk_id, revision.document_id, tenant, chunk.content, metadata, vector)
                )
        return rows

    def _accepted(
        self, planned: Sequence[PlannedDocument], report: SyncReport, on_failed: OnFailed
    ) -> list[PlannedDocument]:
        accepted = []
        for one in planned:
            errors = [chunk for chunk in one.revision.new if chunk.error]
            report.failures += [
                Failure(one.revision.document_id, chunk.error or "", chunk.position) for chunk in errors
            ]
            if errors:
                one.revision.digest = one.revision.source_digest = None
            if errors and on_failed == "keep_old":
                report.documents_failed += 1
                continue
            accepted.append(one)
        return accepted

    def _apart(
        self,
        planned: Sequence[PlannedDocument],
        vectors: dict[bytes, Vector],
        report: SyncReport,
        wait: Wait,
        overtaken: Callable[[list[PlannedDocument]], None],
    ) -> list[PlannedDocument]:
        generation = self._collection.generation_id
        self._vectors.remember(  # the ledger keeps given vectors as it keeps cached ones
            {
                chunk.embedding_hash: one.given[chunk.point_id]
                for one in planned
                for chunk in one.revision.new
                if chunk.embedding_hash
            }
        )
        conflicts = self._ledger.revisions.begin(
            self._collection.collection_id, generation, [one.revision for one in planned], durable=True
        )
        lost = {id(one) for one in conflicts}
        begun = [one for one in planned if id(one.revision) not in lost]
        try:
            failed = self._store_points(begun, vectors)
        except BaseException:
            self._ledger.revisions.release([one.revision for one in begun])  # the next sync goes on at once
            raise
        whole = []
        refused = _refused(begun, failed)
        for one in begun:
            if id(one) in refused:
                report.failures += refused[id(one)]
                report.documents_failed += 1
                self._ledger.revisions.abandon(generation, one.revision, grace=self._grace)
            else:
                whole.append(one)
        if wait == "stored" and self._store.capabilities.visibility != "immediate":
            self._later.submit(lambda: overtaken(self._reveal(whole)))
            count_changes(whole, report)
            return [one for one in planned if id(one.revision) in lost]
        lost |= {id(one.revision) for one in self._reveal(whole)}
        won = [one for one in whole if id(one.revision) not in lost]
        count_changes(won, report)
        return [one for one in planned if id(one.revision) in lost]

    def _reveal(self, planned: Sequence[PlannedDocument]) -> list[PlannedDocument]:
        """Switch to revisions once the store can find all of them; returns those that somebody else has overtaken."""
        revisions = [one.revision for one in planned]
        try:
            if self._keywords is not None:
                self._keywords.add([chunk.chunk_key for one in revisions for chunk in one.new])
            self._store.flush(self._spec)
        except BaseException:
            self._ledger.revisions.release(revisions)
            raise
        losers = self._ledger.revisions.switch(
            self._collection.generation_id, revisions, grace=self._grace, durable=True
        )
        lost = {id(one) for one in losers}
        self.hide(self._point_ids([key for one in revisions if id(one) not in lost for key in one.removed]))
        return [one for one in planned if id(one.revision) in lost]

    def _store_points(self, planned: Sequence[PlannedDocument], vectors: dict[bytes, Vector]) -> dict[bytes, str]:
        """Upsert in batches, acknowledging id by id; returns the error of each point that the store refused."""
        failed: dict[bytes, str] = {}
        keys = {chunk.point_id: chunk.chunk_key for one in planned for chunk in one.revision.new}
        points = (point for one in planned for point in self.points(one, vectors))
        for result in upsert_all(self._store, self._spec, points):
            failed.update(result.failed)
            self._ledger.revisions.acknowledge(self._collection.generation_id, [keys[one] for one in result.stored])
        return failed

    def _vector(self, planned: PlannedDocument, chunk: NewChunk, vectors: dict[bytes, Vector]) -> Vector | None:
        if chunk.embedding_hash is None:
            return vectors.get(chunk.text_hash)
        return planned.given.get(chunk.point_id)

    def _vector_hash(self, planned: PlannedDocument, chunk: NewChunk, vectors: dict[bytes, Vector]) -> bytes | None:
        vector = self._vector(planned, chunk, vectors)
        return None if vector is None else hash_of(vector_bytes(vector))

    def _point_ids(self, chunk_keys: Sequence[int]) -> list[bytes]:
        return self._ledger.revisions.point_ids(chunk_keys)


def _refused(planned: Sequence[PlannedDocument], failed: Mapping[bytes, str]) -> dict[int, list[Failure]]:
    """By id() of its plan, the errors of each document of which the store has not taken a point."""
    if not failed:
        return {}
    found = {
        id(one): [
            Failure(one.revision.document_id, failed[chunk.point_id], chunk.position)
            for chunk in one.revision.new
            if chunk.point_id in failed
        ]
        for one in planned
    }
    return {key: failures for key, failures in found.items() if failures}


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Tens of thousands of rows are made here, live for a second and hold no cycle: a fifth of the time would go into
    the collector's walks through them."""
    was_at_work = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_at_work:
            gc.enable()


def count_changes(planned: Sequence[PlannedDocument], report: SyncReport) -> None:
    """Counts of documents that were switched to (or, for a plan, would be)."""
    for one in planned:
        revision = one.revision
        moved = sum(kept.moved for kept in revision.kept)
        report.added += len(revision.new) - one.metadata_only
        report.metadata_only += one.metadata_only
        report.removed += len(revision.removed) - one.metadata_only
        report.moved += moved
        report.unchanged += len(revision.kept) - moved
        if one.is_new:
            report.documents_added += 1
        else:
            report.documents_changed += 1
