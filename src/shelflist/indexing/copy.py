"""Copies a collection into another store and ledger, with its vectors as they are: nothing is embedded.

Each document is read whole in one snapshot of the source and goes through the ordinary writer, so a copy keeps every promise
that a sync keeps. It resumes by looking: a document that is there at the source's revision is not touched. Uid, chunk
ids, point ids and revisions stay; only a point id that the destination has condemned meanwhile gets a new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shelflist.core.errors import CopyDiffers
from shelflist.core.types import Failure, IndexStatus, Progress, ProgressListener, SyncReport, Vector
from shelflist.generation import Generation
from shelflist.indexing.comparison import Comparison, compare
from shelflist.indexing.embedding import VectorSource
from shelflist.indexing.identity import point_id
from shelflist.indexing.maintenance import Maintenance
from shelflist.indexing.original import Original
from shelflist.indexing.plan import PlannedDocument
from shelflist.indexing.write import Writer
from shelflist.ledger.documents import ChunkRecord, DocumentRecord
from shelflist.ledger.reading import DocumentHead, Reading, WholeChunk
from shelflist.ledger.revisions import KeptChunk, NewChunk, Revision

_CHUNKS_PER_WRITE = 5_000
_WRITES_UNTIL_SETTLED = 8
"""What waits to be revealed is held in memory, so it must not grow without bound."""
_MOST_PASSES = 5
_MOST_COMPARISONS = 3


@dataclass(slots=True)
class CopyReport:
    """What a copy did, and what its last look found. Plain counts are chunks; documents are `documents_*`.

    `added`, `moved`, `removed`: of the destination, in all passes; `unchanged`: there already. `marked`: documents that are
    marked stale in the source; a copy would serve nothing of them, so they are left out. `chunks`, `documents`: in both
    collections. `vectors_checked`, `answers_checked`: how many were compared.
    """

    source: str = ""
    destination: str = ""
    added: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    documents_added: int = 0
    documents_changed: int = 0
    documents_removed: int = 0
    documents_unchanged: int = 0
    passes: int = 0
    documents: int = 0
    chunks: int = 0
    vectors_checked: int = 0
    answers_checked: int = 0
    marked: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The same names as in `--json`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class CopiedVectors(VectorSource):
    """The vectors that come with the copied chunks. Kept in the ledger as a sync keeps those that were paid for."""

    def fill(self, planned: Sequence[PlannedDocument], report: SyncReport) -> dict[bytes, Vector]:
        came: dict[bytes, Vector] = {}
        missing: list[bytes] = []
        for one in planned:
            for chunk in one.revision.new:
                if chunk.embedding_hash is not None or chunk.error is not None:
                    continue
                if chunk.point_id in one.given:
                    came[chunk.text_hash] = one.given[chunk.point_id]
                else:
                    missing.append(chunk.text_hash)
        if not self._own_rows_serve:
            self.remember(came)
        return self.known(missing) if missing else {}


class CopyWriter(Writer):
    """The ordinary writer; only that every chunk brings its vector, also one that was made from its text."""

    def _vector(self, planned: PlannedDocument, chunk: NewChunk, vectors: dict[bytes, Vector]) -> Vector | None:
        brought = planned.given.get(chunk.point_id)
        return super()._vector(planned, chunk, vectors) if brought is None else brought


class Copier:
    """One copy of one collection. Both generations are open; the destination has the source's uid and vector space."""

    def __init__(
        self,
        source: Generation,
        destination: Generation,
        *,
        sample: int = 200,
        progress: ProgressListener | None = None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._original = Original(source)
        self._to = Reading(destination.ledger.database)
        self._vectors = CopiedVectors(destination)
        self._writer = CopyWriter(destination, self._vectors)
        self._sample = sample
        self._progress = progress
        self._report = CopyReport()
        self._sources: dict[tuple[str, str], int] = {}
        self._failures: list[Failure] = []
        self._marked: set[tuple[str, str]] = set()
        self._renumbered: set[int] = set()
        """Planned documents whose revision cannot be the source's: the destination has given that number up once."""

    def run(self) -> CopyReport:
        """Copy until a pass finds nothing to do, then compare. CopyDiffers if the copy is not what the source is."""
        try:
            return self._run()
        except BaseException:
            with suppress(Exception):  # what is stored already is revealed, before somebody closes the store
                self._writer.settle()
            raise

    def _run(self) -> CopyReport:
        for _ in range(_MOST_PASSES):
            if not self._pass():
                break
        self._writer.build()  # the answers that are compared next are to be its
        self._destination.store.wait_for_build(
            lambda done, total: self._tell("building the vector index", done, total, "vectors")
        )
        for attempt in range(_MOST_COMPARISONS):
            found = self._compare()
            # A source that is being written differs until the next pass; only what a pass cannot mend is a difference.
            if not found.differences or attempt + 1 == _MOST_COMPARISONS or not self._pass():
                break
        self._note(found)
        if found.differences:
            raise CopyDiffers(self._complaint(found))
        self._destination.ledger.catalog.log(
            self._destination.record.collection_id, "copied", None, self._report.to_dict()
        )
        return self._report

    # One pass.

    def _pass(self) -> int:
        """Bring the destination to where the source is now; returns how many documents had to be written."""
        first = self._report.passes == 0
        self._report.passes += 1
        self._failures, self._marked = [], set()
        self._writer.finish(SyncReport())
        self._writer.purge()
        total = self._original.chunk_count()
        done = written = writes = 0
        for page in self._original.pages():
            due = self._due(page)
            waiting = sum(head.chunk_count for head, _ in due)
            done += sum(head.chunk_count for head in page if not head.removed) - waiting
            for group in _groups(due):
                written += self._copy(group)
                writes += 1
                if writes % _WRITES_UNTIL_SETTLED == 0:
                    self._writer.settle()
                done += sum(head.chunk_count for head, _ in group if not head.removed)
                self._tell("copying" if first else "catching up", done, total)
            self._tell("copying" if first else "catching up", done, total)
        self._writer.settle()
        return written

    def _due(self, page: Sequence[DocumentHead]) -> list[tuple[DocumentHead, DocumentRecord | None]]:
        """Documents of which revision and digest do not already say that they are the same on both sides."""
        known = self._known(page)
        due = []
        for head in page:
            record = known.get((head.tenant, head.document_id))
            if record is not None and _is_same(head, record):
                self._count_unchanged(head)
            else:
                due.append((head, record))
        return due

    def _known(self, heads: Sequence[DocumentHead]) -> dict[tuple[str, str], DocumentRecord]:
        by_tenant: dict[str, list[str]] = {}
        for head in heads:
            by_tenant.setdefault(head.tenant, []).append(head.document_id)
        collection_id = self._destination.record.collection_id
        return {
            (tenant, document_id): record
            for tenant, ids in by_tenant.items()
            for document_id, record in self._destination.ledger.documents.find(collection_id, tenant, ids).items()
        }

    def _copy(self, group: Sequence[tuple[DocumentHead, DocumentRecord | None]]) -> int:
        source, destination = self._source, self._destination
        keys = [head.document_key for head, _ in group]
        with source.ledger.database.read():  # head, chunks and, in one database, vectors of one moment
            heads = self._original.reading.heads(keys)
            chunks = self._original.reading.chunks(source.record.generation_id, keys)
            known = self._known(heads)
            members = destination.ledger.documents.members(
                destination.record.generation_id, [record.document_key for record in known.values()]
            )
            there = {
                member.point_id
                for rows in members.values()
                for member in rows
                if member.index_status is IndexStatus.INDEXED
            }
            new = [
                row
                for head in heads
                if not head.removed
                for row in chunks[head.document_key]
                if row.chunk.point_id not in there
            ]
            vectors = self._original.vectors([row for row in new if row.index_status is IndexStatus.INDEXED])
        taken = self._to.taken([row.chunk.point_id for row in new])
        planned: list[PlannedDocument] = []
        marked = 0
        for head in heads:
            record = known.get((head.tenant, head.document_id))
            old = members.get(record.document_key, []) if record else []
            rows = [] if head.removed else chunks[head.document_key]
            if any(row.index_status is IndexStatus.STALE for row in rows):
                marked += self._mark(head, record, old)
                continue
            one = self._plan(head, record, rows, old, vectors, taken)
            if one is not None:
                planned.append(one)
        return marked + self._write(planned)

    def _write(self, planned: Sequence[PlannedDocument]) -> int:
        if not planned:
            return 0
        report = SyncReport()
        lost = self._writer.write(
            planned,
            report,
            on_failed="switch_without",
            wait="stored",
            overtaken=lambda _: None,  # the next pass finds them
        )
        self._note_renumbered(planned, lost)
        carried = {
            (one.revision.document_id, chunk.position) for one in planned for chunk in one.revision.new if chunk.error
        }
        self._failures += [
            one for one in report.failures if (one.document_id, one.position) not in carried
        ]  # what failed in the source is copied as failed, which is no failure of the copy
        fences = [one for one in planned if one.revision.removes_document]
        self._report.added += report.added
        self._report.moved += report.moved
        self._report.removed += report.removed
        self._report.documents_removed += sum(one.revision.base_revision > 0 for one in fences)
        self._report.documents_added += report.documents_added
        self._report.documents_changed += max(0, report.documents_changed - len(fences))
        return len(planned) - len(lost) - report.documents_failed

    def _note_renumbered(self, planned: Sequence[PlannedDocument], lost: Sequence[PlannedDocument]) -> None:
        """Leave a word in the log, so that a later pass does not take the higher revision for somebody's change."""
        for one in planned:
            if id(one) in self._renumbered and one not in lost:
                detail = {"tenant": one.revision.tenant, "revision": one.revision.number}
                collection = self._destination.record.collection_id
                self._destination.ledger.catalog.log(collection, "renumbered", one.revision.document_id, detail)
        self._renumbered.clear()

    # One document.

    def _plan(
        self,
        head: DocumentHead,
        record: DocumentRecord | None,
        rows: Sequence[WholeChunk],
        old: Sequence[ChunkRecord],
        vectors: Mapping[bytes, Vector],
        taken: set[bytes],
    ) -> PlannedDocument | None:
        """The revision that makes the destination's document the source's; None if it is so, or cannot be made so."""
        if record is not None and record.revision >= head.revision:
            if head.removed == record.removed and _names(rows) == _member_names(old):
                self._count_unchanged(head)
                return None
            destination = self._destination.record.collection_id
            if self._to.copied_as(destination, head.tenant, head.document_id) != record.revision:
                self._fail(
                    head,
                    f"It was changed in the destination (revision {record.revision} there, {head.revision} in the "
                    "source), which a copy does not overwrite. Delete it there and copy again, or sync it there from "
                    "now on.",
                )
                return None
        number = max(head.revision, record.next_revision + 1 if record else 0)
        revision = Revision(
            document_id=head.document_id,
            tenant=head.tenant,
            document_key=record.document_key if record else 0,
            base_revision=record.revision if record else 0,
            number=number,
            source_id=self._source_id(head),
            digest=head.digest,
            source_digest=head.source_digest,
            removes_document=head.removed,
            fence=head.fence,
        )
        was_there = record is not None and not record.removed and record.revision > 0
        planned = PlannedDocument(revision, is_new=not head.removed and not was_there)
        if number != head.revision:
            self._renumbered.add(id(planned))
        unused = {member.point_id: member for member in old}
        for row in rows:
            chunk = row.chunk
            member = unused.get(chunk.point_id)
            if member is not None and row.index_status is member.index_status is IndexStatus.INDEXED:
                del unused[chunk.point_id]
                moved = member.position != chunk.position
                revision.kept.append(KeptChunk(member.chunk_key, chunk.position, moved=moved))
                continue
            vector = vectors.get(chunk.point_id)
            if row.index_status is IndexStatus.FAILED:
                chunk.error = chunk.error or "failed"
            elif vector is None:
                self._fail(
                    head,
                    f"The source has no sound vector of its chunk {chunk.position}. Look with shelflist verify and mend "
                    "with shelflist repair, both on the source; then copy again.",
                )
                return None
            if chunk.point_id in taken:
                chunk.point_id = point_id(chunk.chunk_id, chunk.metadata_hash, chunk.embedding_hash, number)
            if vector is not None:
                planned.given[chunk.point_id] = vector
            revision.new.append(chunk)
        revision.removed = [member.chunk_key for member in unused.values()]
        return planned

    def _mark(self, head: DocumentHead, record: DocumentRecord | None, old: Sequence[ChunkRecord]) -> int:
        """The source hides this document: so does the destination, if it has it. Returns 1 if something was hidden."""
        self._marked.add((head.tenant, head.document_id))
        if record is None or not any(member.index_status is IndexStatus.INDEXED for member in old):
            return 0
        destination = self._destination
        with destination.ledger.database.write():
            marked = destination.ledger.revisions.mark(destination.record.generation_id, record.document_key)
            if destination.together:
                destination.store.set_stale(destination.spec, [point for _, point in marked])
        if not destination.together:
            destination.store.set_stale(destination.spec, [point for _, point in marked])
        return 1

    def _source_id(self, head: DocumentHead) -> int:
        key = (head.tenant, head.source)
        if key not in self._sources:
            self._sources[key] = self._destination.ledger.catalog.source(
                self._destination.record.collection_id, head.tenant, head.source
            )
        return self._sources[key]

    # What is said of it.

    def _compare(self) -> Comparison:
        maintenance = Maintenance(self._destination, self._vectors, self._writer)

        def tell(done: int, total: int) -> None:
            if self._progress:
                self._progress(Progress("verifying", done, total, "chunks"))

        found = compare(self._source, self._destination, maintenance, self._marked, self._sample, tell)
        found.differences[:0] = [f"{one.document_id} was not copied: {one.error}" for one in self._failures]
        return found

    def _note(self, found: Comparison) -> None:
        report = self._report
        report.documents, report.chunks = found.documents, found.chunks
        report.vectors_checked, report.answers_checked = found.vectors_checked, found.answers_checked
        report.marked = sorted(document_id for _, document_id in self._marked)
        if report.marked:
            report.warnings.append(
                f"{len(report.marked)} documents are marked stale in the source and were left out "
                f"({', '.join(report.marked[:3])}{', …' if len(report.marked) > 3 else ''}): sync them into the copy."
            )

    def _complaint(self, found: Comparison) -> str:
        name = self._destination.record.name
        shown = found.differences[:10]
        more = len(found.differences) - len(shown)
        lines = [*shown, *([f"and {more} more"] if more else [])]
        return (
            f"The copy {name!r} is not what its source is:\n  "
            + "\n  ".join(lines)
            + "\nWhat was copied is kept. Run the "
            "same copy again to bring it up to date; if somebody is writing to the source, let them finish first."
        )

    def _fail(self, head: DocumentHead, error: str) -> None:
        self._failures.append(Failure(head.document_id, error))

    def _count_unchanged(self, head: DocumentHead) -> None:
        if not head.removed and self._report.passes == 1:
            self._report.documents_unchanged += 1
            self._report.unchanged += head.chunk_count

    def _tell(self, stage: str, done: int, total: int, unit: str = "chunks") -> None:
        if self._progress:
            self._progress(Progress(stage, min(done, total), total, unit))


def _is_same(head: DocumentHead, record: DocumentRecord) -> bool:
    if head.removed or record.removed:
        return head.removed and record.removed and record.revision >= head.revision
    return record.revision == head.revision and record.digest is not None and record.digest == head.digest


def _names(rows: Sequence[WholeChunk]) -> list[tuple[object, ...]]:
    return [
        (
            row.chunk.chunk_id,
            row.chunk.metadata_hash,
            row.chunk.embedding_hash,
            row.chunk.position,
            row.index_status,
        )
        for row in rows
    ]


def _member_names(members: Sequence[ChunkRecord]) -> list[tuple[object, ...]]:
    return [(one.chunk_id, one.metadata_hash, one.embedding_hash, one.position, one.index_status) for one in members]


def _groups(
    due: Sequence[tuple[DocumentHead, DocumentRecord | None]],
) -> Iterator[Sequence[tuple[DocumentHead, DocumentRecord | None]]]:
    """Documents with no more than a few thousand chunks in all; a larger document alone."""
    group: list[tuple[DocumentHead, DocumentRecord | None]] = []
    chunks = 0
    for one in due:
        if group and chunks + one[0].chunk_count > _CHUNKS_PER_WRITE:
            yield group
            group, chunks = [], 0
        group.append(one)
        chunks += one[0].chunk_count
    if group:
        yield group
