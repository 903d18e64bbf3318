"""The sync: batches of documents are compared with the ledger by digest; what differs is planned, embedded, written.

Removal of missing documents is the last step, of a pass that read everything, inside one source and tenant.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from shelflist.core.errors import (
    InvalidInput,
    RemovalRefused,
    ShelflistError,
    SourceConflict,
    TenantForbidden,
    TenantRequired,
)
from shelflist.core.types import (
    Document,
    Failure,
    OnFailed,
    Progress,
    ProgressListener,
    SyncReport,
    Wait,
)
from shelflist.generation import Generation
from shelflist.indexing.embedding import VectorSource
from shelflist.indexing.identity import document_digest, label_bytes
from shelflist.indexing.plan import PlannedDocument, plan_document
from shelflist.indexing.protocol import Source, Unchanged, Unreadable
from shelflist.indexing.write import Writer, count_changes
from shelflist.ledger.catalog import CollectionRecord
from shelflist.ledger.documents import DocumentRecord
from shelflist.ledger.ledger import Ledger
from shelflist.ledger.revisions import Revision

_DOCUMENTS_PER_BATCH = 1_000
_DOCUMENTS_PER_WRITE = 5_000
_CHUNKS_PER_WRITE = 12_000
_BYTES_PER_WRITE = 48_000_000
_SECONDS_PER_BATCH = 0.5
_SECONDS_PER_WRITE = 2.0
"""A slow source is written, and searchable, bit by bit; and an interrupt loses no more than this of its work."""
_ATTEMPTS = 8
_REMOVAL_SHARE = 1 / 3

Item = Document | Unchanged | Unreadable


class Sync:
    """One pass over documents of one collection.

    `tenant` owns the documents that name none. `single`: a sync of one document raises a conflict of sources,
    which a pass over many only reports. `dry`: count what would be done, and do nothing.
    """

    def __init__(
        self,
        generation: Generation,
        writer: Writer,
        vectors: VectorSource,
        *,
        source: str,
        tenant: str | None = None,
        on_failed: OnFailed = "keep_old",
        wait: Wait = "searchable",
        progress: ProgressListener | None = None,
        single: bool = False,
        dry: bool = False,
    ) -> None:
        self._generation = generation
        self._ledger = generation.ledger
        self._collection = generation.record
        self._writer = writer
        self._vectors = vectors
        self._embedder = generation.embedder
        self._source = source
        self._default_tenant = tenant
        self._single = single
        self._replanning = False
        self._on_failed = on_failed
        self._wait = wait
        self._progress = progress
        self._dry = dry
        self._report = SyncReport()
        self._seen = bytearray()
        self._kept_prefixes: list[str] = []
        self._kept_ids: set[str] = set()
        self._sources: dict[str, int] = {}
        self._planned: list[PlannedDocument] = []
        self._documents: dict[int, Document] = {}
        self._pending_chunks = 0
        self._written_at = time.monotonic()
        self._pending_bytes = 0
        self._planned_texts: set[bytes] = set()
        self._done = 0
        self._total: int | None = None
        self._batch_ids: set[tuple[str, str]] = set()

    def run(
        self, documents: Iterable[Document] | Source, *, delete_missing: bool = False, allow_removal: bool = False
    ) -> SyncReport:
        if not self._dry:
            self._writer.finish(self._report)
            self._report.purged += self._writer.purge()
        if self._default_tenant is not None or self._collection.tenancy == "none":
            self._source_id(self._default_tenant or "")
        for batch in _batches(self._items(documents)):
            self._take(batch)
        self._write()
        if isinstance(documents, Source):
            self._report.documents_parsed = getattr(documents, "parsed", 0)
        if delete_missing:
            self._remove_missing(allow_removal)
        if not self._dry:
            self._report.purged += self._writer.purge()
            if self._wait == "searchable" and self._has_changed():
                self._writer.build()
            if not self._single and not any(failure.position is None for failure in self._report.failures):
                self._ledger.catalog.complete_pass(list(self._sources.values()), changed=self._has_changed())
            self._log()
        return self._report

    def _items(self, documents: Iterable[Document] | Source) -> Iterator[Item]:
        if not isinstance(documents, Source):
            yield from documents
            return
        self._total = documents.total()
        yield from documents.documents(_KnownDigests(self._ledger, self._collection, self._default_tenant or ""))

    def _take(self, items: Sequence[Item]) -> None:
        by_tenant: dict[str, list[Document | Unchanged]] = {}
        for item in items:
            if isinstance(item, Unreadable):
                self._report.failures.append(Failure(item.document_id, item.error))
                self._report.documents_failed += 1
                if item.prefix:
                    self._kept_prefixes.append(item.document_id)
                else:
                    self._kept_ids.add(item.document_id)
                continue
            if not self._acceptable(item):
                continue
            tenant = self._tenant_of(item)
            by_tenant.setdefault(tenant, []).append(item)
        for tenant, group in by_tenant.items():
            self._compare(tenant, group)
        self._done += len(items)
        if self._progress:
            self._progress(Progress("planning" if self._dry else "syncing", self._done, self._total, "documents"))

    def _acceptable(self, item: Document | Unchanged) -> bool:
        """Whether this can be a document at all; if not, it is reported and the pass goes on."""
        try:
            if not isinstance(item, (Document, Unchanged)):
                raise InvalidInput(
                    f"A pass holds {type(item).__name__} {item!r:.80}. Give Document(document_id, chunks)."
                )
            checked_document_id(item.document_id)
            if isinstance(item, Document):
                if item.tenant is not None:
                    label_bytes("tenant", item.tenant)
                if item.revision is not None and (type(item.revision) is not int or not 1 <= item.revision < 2**62):
                    raise InvalidInput(
                        f"The revision {item.revision!r} is not an int from 1 on. Leave it out to let the ledger count."
                    )
        except InvalidInput as error:
            if self._single:
                raise
            name = str(getattr(item, "document_id", "?"))
            self._fail(name.encode(errors="backslashreplace").decode(), str(error))
            return False
        return True

    def _tenant_of(self, item: Document | Unchanged) -> str:
        tenant = item.tenant if isinstance(item, Document) else self._default_tenant
        if tenant is None:
            tenant = self._default_tenant
        if self._default_tenant is not None and tenant != self._default_tenant:
            raise TenantForbidden(
                f"A document names the tenant {tenant!r}, and this collection is bound to {self._default_tenant!r}. "
                "Sync it through its own tenant, or through the collection that is not bound."
            )
        if self._collection.tenancy == "required" and not tenant:
            raise TenantRequired(
                f"The collection {self._collection.name!r} has tenants. Use collection.tenant(id), or give every "
                "Document its tenant."
            )
        if self._collection.tenancy == "none" and tenant:
            raise TenantForbidden(
                f"The collection {self._collection.name!r} has no tenants; a document names {tenant!r}."
            )
        return tenant or ""

    def _compare(self, tenant: str, items: Sequence[Document | Unchanged], *, again: bool = False) -> None:
        source_id = self._source_id(tenant)
        ids = [item.document_id for item in items]
        known = self._ledger.documents.find(self._collection.collection_id, tenant, ids)
        changed: list[tuple[Document, bytes]] = []
        renewed: list[tuple[int, int, bytes | None]] = []
        for item in items:
            record = known.get(item.document_id)
            if (tenant, item.document_id) in self._batch_ids or (record and not again and self._was_seen(record)):
                self._fail(item.document_id, "The document comes twice in one pass. Give each document_id once.")
                continue
            if record and not record.removed and record.source_id != source_id:
                error = self._conflict(record)
                if self._single:
                    raise error
                self._fail(item.document_id, str(error))
                continue
            if record:
                self._see(record.document_key)
            if isinstance(item, Unchanged):
                self._report.documents_unchanged += 1
                self._report.unchanged += record.chunk_count if record else 0
                continue
            try:
                digest = document_digest(item)
            except ShelflistError as error:
                self._fail(item.document_id, str(error))
                continue
            if record and not record.removed and record.digest == digest:
                revision = max(record.revision, item.revision or 0)
                if (revision, item.source_digest) != (record.revision, record.source_digest):
                    renewed.append((record.document_key, revision, item.source_digest))
                self._report.documents_unchanged += 1
                self._report.unchanged += record.chunk_count
                continue
            self._batch_ids.add((tenant, item.document_id))
            changed.append((item, digest))
        if renewed and not self._dry:
            self._ledger.revisions.renew(renewed)
        if changed:
            self._plan(tenant, changed, known, source_id)

    def _plan(
        self,
        tenant: str,
        changed: Sequence[tuple[Document, bytes]],
        known: Mapping[str, DocumentRecord],
        source_id: int,
    ) -> None:
        keys = [known[document.document_id].document_key for document, _ in changed if document.document_id in known]
        members = self._ledger.documents.members(self._collection.generation_id, keys)
        for document, digest in changed:
            record = known.get(document.document_id)
            if record and document.revision is not None and document.revision <= record.revision:
                self._report.documents_superseded += 1
                continue
            failures = len(self._report.failures)
            if tenant and document.tenant != tenant:
                document = Document(
                    document.document_id, document.chunks, tenant, document.revision, document.source_digest
                )
            planned = plan_document(
                self._collection,
                document,
                digest,
                record,
                members.get(record.document_key, []) if record else [],
                source_id,
                self._report,
                self._on_failed,
            )
            if planned is None:
                self._report.documents_failed += 1
                continue
            if len(self._report.failures) > failures:
                planned.revision.digest = None
            if self._dry:
                self._estimate([planned])
                continue
            self._planned.append(planned)
            self._documents[id(planned)] = document
            self._pending_chunks += len(planned.revision.new)
            self._pending_bytes += sum(len(chunk.content) for chunk in planned.revision.new)
            if not self._replanning and self._is_full():
                self._write()

    def _is_full(self) -> bool:
        return (
            self._pending_chunks >= _CHUNKS_PER_WRITE
            or self._pending_bytes >= _BYTES_PER_WRITE
            or len(self._planned) >= _DOCUMENTS_PER_WRITE
            or time.monotonic() - self._written_at > _SECONDS_PER_WRITE
        )

    def _write(self) -> None:
        """Write what has been planned; documents that another writer changed meanwhile are planned again."""
        planned, documents = self._planned, self._documents
        self._planned, self._documents = [], {}
        self._pending_chunks = self._pending_bytes = 0
        self._written_at = time.monotonic()
        for attempt in range(_ATTEMPTS):
            if not planned:
                return
            lost = self._writer.write(
                planned,
                self._report,
                on_failed=self._on_failed,
                wait=self._wait,
                overtaken=partial(self._sync_overtaken, documents),
            )
            for one in planned:
                if one.revision.document_key:
                    self._see(one.revision.document_key)
            if not lost:
                self._batch_ids.clear()  # from here on what was seen is remembered by one bit a document
                return
            time.sleep(0.01 * attempt)
            retry = [documents[id(one)] for one in lost]
            self._batch_ids -= {(document.tenant or "", document.document_id) for document in retry}
            self._take_again(retry)
            planned, documents = self._planned, self._documents
            self._planned, self._documents = [], {}
        for one in planned:
            self._fail(one.revision.document_id, "Other writers kept changing this document. Sync it again.")

    def _sync_overtaken(self, documents: Mapping[int, Document], lost: Sequence[PlannedDocument]) -> None:
        """Once more, as a sync of its own: this one has returned."""
        if lost:
            again = [documents[id(one)] for one in lost]
            once_more = Sync(
                self._generation,
                self._writer,
                self._vectors,
                source=self._source,
                tenant=self._default_tenant,
                on_failed=self._on_failed,
            )
            once_more.run(again)

    def _take_again(self, documents: Sequence[Document]) -> None:
        by_tenant: dict[str, list[Document | Unchanged]] = {}
        for document in documents:
            by_tenant.setdefault(document.tenant or "", []).append(document)
        self._replanning = True  # no write from inside a write
        for tenant, group in by_tenant.items():
            self._compare(tenant, group, again=True)
        self._replanning = False
        self._pending_chunks = self._pending_bytes = 0

    def _estimate(self, planned: Sequence[PlannedDocument]) -> None:
        texts = {
            chunk.text_hash: chunk.content
            for one in planned
            for chunk in one.revision.new
            if chunk.embedding_hash is None and chunk.text_hash not in self._planned_texts
        }
        fresh = {text for one in planned for text in one.fresh}
        cached = self._vectors.known([text for text in texts if text not in fresh])
        self._planned_texts |= set(texts)
        needed = [content for text, content in texts.items() if text not in cached]
        self._report.cached += len(cached)
        self._report.embedded += len(needed)
        if self._embedder and needed:
            self._report.tokens += sum(self._embedder.token_counts(needed))
        count_changes(planned, self._report)

    def _remove_missing(self, allow_removal: bool) -> None:
        absent = self._ledger.documents.absent(list(self._sources.values()), self._seen)
        gone = [
            record
            for record in absent
            if record.document_id not in self._kept_ids
            and not any(record.document_id.startswith(prefix) for prefix in self._kept_prefixes)
        ]
        if not gone:
            return
        before = self._ledger.documents.count(self._collection.collection_id, list(self._sources)) - (
            0 if self._dry else self._report.documents_added
        )
        if len(gone) > before * _REMOVAL_SHARE and not allow_removal:
            raise RemovalRefused(
                f"This pass would delete {len(gone)} of {before} documents of {self._collection.name!r} "
                f"({', '.join(record.document_id for record in gone[:3])}, …), more than a third. Nothing was deleted; "
                "what was added or changed is kept. If it is meant, say so with --allow-removal (allow_removal=True)."
            )
        members = self._ledger.documents.members(self._collection.generation_id, [one.document_key for one in gone])
        revisions = [removal(record, [one.chunk_key for one in members[record.document_key]]) for record in gone]
        kept: set[int] = set()
        if not self._dry:
            for start in range(0, len(revisions), _DOCUMENTS_PER_BATCH):
                kept |= {id(one) for one in self._writer.remove(revisions[start : start + _DOCUMENTS_PER_BATCH])}
        for one in revisions:
            if id(one) in kept:
                self._fail(
                    one.document_id, "It was to be removed, and another writer changed it meanwhile. Sync again."
                )
            else:
                self._report.documents_removed += 1
                self._report.removed += len(one.removed)

    def _source_id(self, tenant: str) -> int:
        if tenant not in self._sources:
            catalog = self._ledger.catalog
            self._sources[tenant] = catalog.source(
                self._collection.collection_id, tenant, self._source, create=not self._dry
            )
        return self._sources[tenant]

    def _see(self, document_key: int) -> None:
        byte = document_key >> 3
        if byte >= len(self._seen):
            self._seen.extend(bytes(byte + 1024 - len(self._seen)))
        self._seen[byte] |= 1 << (document_key & 7)

    def _was_seen(self, record: DocumentRecord) -> bool:
        byte = record.document_key >> 3
        return byte < len(self._seen) and bool(self._seen[byte] & (1 << (record.document_key & 7)))

    def _fail(self, document_id: str, error: str) -> None:
        self._report.failures.append(Failure(str(document_id), error))
        self._report.documents_failed += 1
        self._kept_ids.add(document_id)

    def _conflict(self, record: DocumentRecord) -> SourceConflict:
        return SourceConflict(
            f"The document {record.document_id!r} belongs to the source {record.source!r}, not to {self._source!r}. "
            "Two places with files of the same name: give one a prefix (--prefix NAME/). One place under a new name: "
            f"sync it as --source {record.source} (source={record.source!r}); as a folder, what it lacks is then removed."
        )

    def _has_changed(self) -> bool:
        report = self._report
        return bool(report.documents_added or report.documents_changed or report.documents_removed)

    def _log(self) -> None:
        if self._has_changed() or self._report.failures:
            detail = self._report.to_dict()
            detail["failures"] = detail["failures"][:100]
            self._ledger.catalog.log(self._collection.collection_id, "synced", None, {**detail, "source": self._source})


class _KnownDigests:
    """Digests of source bytes by document_id, asked of the ledger one by one: a folder may be larger than memory."""

    def __init__(self, ledger: Ledger, collection: CollectionRecord, tenant: str) -> None:
        self._documents = ledger.documents
        self._collection_id = collection.collection_id
        self._tenant = tenant

    def get(self, document_id: str) -> bytes | None:
        return self._documents.source_digest(self._collection_id, self._tenant, document_id)


def removal(record: DocumentRecord, chunk_keys: list[int]) -> Revision:
    """The revision that makes a document vanish."""
    return Revision(
        document_id=record.document_id,
        tenant=record.tenant,
        document_key=record.document_key,
        base_revision=record.revision,
        number=record.next_revision + 1,
        source_id=record.source_id,
        digest=None,
        source_digest=None,
        removed=chunk_keys,
        removes_document=True,
    )


def checked_document_id(document_id: object) -> str:
    if not isinstance(document_id, str) or not document_id:
        raise InvalidInput(f"A document_id is a non-empty str, got {document_id!r}. Convert it with str().")
    try:
        document_id.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"The document_id {document_id!r} is not valid Unicode.") from None
    return document_id


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Up to a thousand items, fewer when they bring many chunks or take long to come."""
    batch: list[Item] = []
    chunks = 0
    began = time.monotonic()
    for item in items:
        batch.append(item)
        if isinstance(item, Document):
            chunks += len(item.chunks)
        full = len(batch) >= _DOCUMENTS_PER_BATCH or chunks >= _CHUNKS_PER_WRITE
        if full or time.monotonic() - began > _SECONDS_PER_BATCH:
            yield batch
            batch, chunks, began = [], 0, time.monotonic()
    if batch:
        yield batch
