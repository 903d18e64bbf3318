"""The sync: batches of documents are compared with the ledger by digest; what differs is planned, embedded, written.

Removal of missing documents is the last step, of a pass that read everything, inside one source and tenant.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

from shelflist.core.errors import (
    InvalidInput,
    RemovalRefused,
    ShelflistError,
    SourceConflict,
    TenantForbidden,
    TenantRequired,
    UnreadableSource,
)
from shelflist.core.fields import whole
from shelflist.core.types import (
    Chunk,
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
from shelflist.indexing.estimate import Estimate
from shelflist.indexing.given import given_vectors
from shelflist.indexing.handover import Handover
from shelflist.indexing.identity import Digest, digest, label_bytes
from shelflist.indexing.nesting import nesting_warnings
from shelflist.indexing.plan import PlannedDocument, plan_document
from shelflist.indexing.protocol import FileSource, Source, Unchanged, Unreadable
from shelflist.indexing.removal import Going, Spared, removal, require_few
from shelflist.indexing.seen import Seen
from shelflist.indexing.write import Writer
from shelflist.ledger.catalog import CollectionRecord
from shelflist.ledger.documents import DocumentRecord
from shelflist.ledger.ledger import Ledger

_DOCUMENTS_PER_BATCH = 1_000
_CHUNKS_PER_BATCH = 12_000
_CHARACTERS_PER_BATCH = 16_000_000
_SECONDS_PER_BATCH = 0.5
_SKIPPED_NAMED = 5

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
        self._source = source
        self._default_tenant = tenant
        self._single = single
        self._on_failed = on_failed
        self._wait = wait
        self._progress = progress
        self._dry = dry
        self._report = SyncReport()
        self._seen = Seen()
        self._spared = Spared()
        self._outsiders: ShelflistError | None = None
        self._has_tenant = False
        self._sources: dict[str, int] = {}
        self._emptied: list[tuple[PlannedDocument, Document]] | None = None if single else []
        self._done = 0
        self._total: int | None = None
        self._planned: Handover | Estimate
        if dry:
            self._planned = Estimate(vectors, generation.embedder, self._report)
        else:
            self._planned = Handover(
                writer,
                self._report,
                self._seen,
                on_failed=on_failed,
                wait=wait,
                plan_again=self._plan_again,
                give_up=self._give_up,
                overtaken=self._sync_overtaken,
            )

    def run(
        self, documents: Iterable[Document] | Source, *, delete_missing: bool = False, allow_removal: bool = False
    ) -> SyncReport:
        """The report; an error that ends the pass carries it, because what failed until then is not said again."""
        try:
            self._run(documents, delete_missing, allow_removal)
        except ShelflistError as error:
            error.report = self._report
            if isinstance(error, (RemovalRefused, UnreadableSource)) and not self._dry:
                self._log(error=str(error))
            raise
        return self._report

    def _run(self, documents: Iterable[Document] | Source, delete_missing: bool, allow_removal: bool) -> None:
        if not self._dry:
            self._writer.finish(self._report)
            self._report.purged += self._writer.purge()
        if self._default_tenant is not None or self._collection.tenancy == "none":
            self._source_id(self._default_tenant or "")
        with closing(self._planned):
            try:
                for batch in _batches(self._items(documents)):
                    self._take(batch)
            except UnreadableSource as error:
                self._planned.finish()  # what came before it broke off is as good as ever
                if said := self._kept_before():
                    raise UnreadableSource(f"{error} {said}") from error
                raise
            self._require_tenant()
            self._planned.finish()
            gone = self._missing() if delete_missing else []
            self._require_few(gone, allow_removal)
            self._empty()
            self._remove(gone)
        if isinstance(documents, Source):
            if isinstance(documents, FileSource):
                self._report.documents_parsed = documents.parsed
                self._report.files_skipped = len(documents.skipped)
                self._report.skipped = list(documents.skipped[:_SKIPPED_NAMED])
            for tenant in self._sources:
                self._report.warnings += nesting_warnings(
                    self._ledger, self._collection.collection_id, tenant, self._source
                )
        if not self._dry:
            self._report.purged += self._writer.purge()
            if self._wait == "searchable":
                self._build()
            if not self._single and not any(failure.position is None for failure in self._report.failures):
                self._ledger.catalog.complete_pass(list(self._sources.values()), changed=self._has_changed())
            self._log()

    def _kept_before(self) -> str:
        """What a source that broke off has brought, as a sentence; empty if nothing."""
        report = self._report
        kept = report.documents_added + report.documents_changed + report.documents_unchanged
        if self._dry or not kept:
            return ""
        return f"{kept:,} documents before it were synced." if kept > 1 else "1 document before it was synced."

    def _build(self) -> None:
        changed, claims = self._has_changed(), self._generation.store.capabilities
        if self._progress and changed and not claims.builds_aside and claims.index_kinds > {"flat"}:
            self._progress(Progress("building the vector index", 0, None, "vectors"))
        self._writer.build(changed=changed)

    def _items(self, documents: Iterable[Document] | Source) -> Iterator[Item]:
        if not isinstance(documents, Source):
            yield from map(_with_a_list, documents)
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
                    self._spared.prefixes.append(item.document_id)
                else:
                    self._spared.ids.add(item.document_id)
                continue
            if not self._acceptable(item):
                continue
            try:
                tenant = self._tenant_of(item)
            except (TenantRequired, TenantForbidden) as error:
                if self._single:
                    raise
                self._fail(item.document_id, str(error))
                self._outsiders = self._outsiders or error
                continue
            by_tenant.setdefault(tenant, []).append(item)
        self._has_tenant = self._has_tenant or bool(by_tenant)
        if len(self._report.failures) >= _DOCUMENTS_PER_BATCH:
            self._require_tenant()
        for tenant, group in by_tenant.items():
            self._compare(tenant, group)
        self._done += len(items)
        if self._progress:
            self._progress(Progress("planning" if self._dry else "syncing", self._done, self._total, "documents"))

    def _require_tenant(self) -> None:
        """Raises the first error if no document had a tenant that may be here: then it is not about single documents."""
        if self._outsiders is not None and not self._has_tenant:
            raise self._outsiders

    def _acceptable(self, item: Document | Unchanged) -> bool:
        """Whether this can be a document at all; if not, it is reported and the pass goes on."""
        try:
            if not isinstance(item, (Document, Unchanged)):
                raise InvalidInput(
                    f"A pass holds {type(item).__name__} {item!r:.80}. Give Document(document_id, chunks)."
                )
            checked_document_id(item.document_id)
            if isinstance(item, Document):
                if not isinstance(item.chunks, (list, tuple)):
                    raise InvalidInput(
                        f"The chunks of {item.document_id!r} are {type(item.chunks).__name__}. Give a list of Chunk(content=…)."
                    )
                if item.tenant is not None:
                    label_bytes("tenant", item.tenant)
                if item.revision is not None and not 1 <= (whole(item.revision) or 0) < 2**62:
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
                f"The document names the tenant {tenant!r}, and this collection is bound to {self._default_tenant!r}. "
                "Sync it through its own tenant, or through the collection that is not bound."
            )
        if self._collection.tenancy == "required" and not (tenant or "").strip():
            raise TenantRequired(
                f"The collection {self._collection.name!r} has tenants. Use collection.tenant(id) (--tenant ID), or "
                "give every Document its tenant (a column `tenant` in a file of rows)."
            )
        # An empty tenant is refused too: beside no tenant it would give the same document other chunk ids.
        if self._collection.tenancy == "none" and tenant is not None:
            raise TenantForbidden(
                f"The collection {self._collection.name!r} has no tenants; the document names {tenant!r}. In a file of rows the "
                "column `tenant` or `tenant_id` says so: leave it out with --column tenant= (columns={'tenant': None}), or "
                "sync into a collection made with --tenancy required (tenancy='required')."
            )
        return tenant or ""

    def _compare(self, tenant: str, items: Sequence[Document | Unchanged], *, again: bool = False) -> None:
        source_id = self._source_id(tenant)
        ids = [item.document_id for item in items]
        known = self._ledger.documents.find(self._collection.collection_id, tenant, ids)
        changed: list[tuple[Document, Digest]] = []
        renewed: list[tuple[int, int, bytes | None]] = []
        for item in items:
            record = known.get(item.document_id)
            if not again and (
                (tenant, item.document_id) in self._planned or (record and record.document_key in self._seen)
            ):
                self._fail(item.document_id, "The document comes twice in one pass. Give each document_id once.")
                continue
            if record and not record.removed and record.source_id != source_id:
                conflict = self._conflict(record)
                if self._single:
                    raise SourceConflict(f"The document {record.document_id!r} {conflict}")
                self._fail(item.document_id, f"It {conflict}")
                continue
            if record:
                self._seen.add(record.document_key)
            if isinstance(item, Unchanged):
                self._report.documents_unchanged += 1
                self._report.unchanged += record.chunk_count if record else 0
                continue
            found = digest(item)
            if record and not record.removed and found.whole is not None and record.digest == found.whole:
                fence = max(record.fence, int(item.revision or 0))
                if (fence, item.source_digest) != (record.fence, record.source_digest):
                    renewed.append((record.document_key, fence, item.source_digest))
                self._report.documents_unchanged += 1
                self._report.unchanged += record.chunk_count
                continue
            self._planned.claim((tenant, item.document_id))
            changed.append((item, found))
        if renewed and not self._dry:
            self._ledger.revisions.renew(renewed)
        if changed:
            self._plan(tenant, changed, known, source_id)

    def _plan(
        self,
        tenant: str,
        changed: Sequence[tuple[Document, Digest]],
        known: Mapping[str, DocumentRecord],
        source_id: int,
    ) -> None:
        keys = [known[document.document_id].document_key for document, _ in changed if document.document_id in known]
        members = self._ledger.documents.members(self._collection.generation_id, keys)
        begun = self._ledger.revisions.begun(keys) if any(document.revision for document, _ in changed) else {}
        vectors = given_vectors(self._collection, [chunk for document, _ in changed for chunk in document.chunks])
        first = 0
        for document, hashes in changed:
            given = vectors[first : first + len(document.chunks)]
            first += len(document.chunks)
            record = known.get(document.document_id)
            if record and _is_superseded(document, record, begun.get(record.document_key, 0)):
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
                hashes,
                given,
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
            if (
                self._emptied is not None
                and planned.revision.removed
                and not (planned.revision.new or planned.revision.kept)
            ):
                self._emptied.append((planned, document))
                continue
            self._planned.add(planned, document)

    def _sync_overtaken(self, documents: Sequence[Document]) -> None:
        """Once more, as a sync of its own: this one has returned."""
        once_more = Sync(
            self._generation,
            self._writer,
            self._vectors,
            source=self._source,
            tenant=self._default_tenant,
            on_failed=self._on_failed,
        )
        once_more.run(documents)

    def _plan_again(self, documents: Sequence[Document]) -> None:
        by_tenant: dict[str, list[Document | Unchanged]] = {}
        for document in documents:
            by_tenant.setdefault(document.tenant or "", []).append(document)
        for tenant, group in by_tenant.items():
            self._compare(tenant, group, again=True)

    def _missing(self) -> list[DocumentRecord]:
        absent = self._ledger.documents.absent(list(self._sources.values()), self._seen.bits)
        return [record for record in absent if record.document_id not in self._spared]

    def _require_few(self, gone: Sequence[DocumentRecord], allow_removal: bool) -> None:
        emptied = self._emptied or []
        if allow_removal or not (gone or emptied):
            return
        documents, chunks = self._ledger.documents.count(self._collection.collection_id, list(self._sources))
        if not self._dry:  # as it was before this pass
            documents -= self._report.documents_added
            chunks -= self._report.added - self._report.removed
        going = Going(
            [record.document_id for record in gone] + [document.document_id for _, document in emptied],
            sum(record.chunk_count for record in gone) + sum(len(one.revision.removed) for one, _ in emptied),
        )
        require_few(going, documents, chunks, self._collection.name, self._report if self._dry else None)

    def _empty(self) -> None:
        """Write the documents that have nothing in them any more: they were held back until it was clear how many they are."""
        emptied, self._emptied = self._emptied, None
        for planned, document in emptied or []:
            self._planned.add(planned, document)
        if emptied:
            self._planned.finish()

    def _remove(self, gone: Sequence[DocumentRecord]) -> None:
        if not gone:
            return
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

    def _fail(self, document_id: str, error: str) -> None:
        self._report.failures.append(Failure(str(document_id), error))
        self._report.documents_failed += 1
        self._spared.ids.add(document_id)

    def _give_up(self, document_id: str) -> None:
        self._fail(document_id, "Other writers kept changing this document. Sync it again.")

    def _conflict(self, record: DocumentRecord) -> str:
        return (
            f"belongs to the source {record.source!r}, not to {self._source!r}. "
            "Two places with files of the same name: give one a prefix (--prefix NAME/). One place under a new name: "
            f"sync it as --source {record.source} (source={record.source!r})"
            + ("; what the folder lacks is then removed." if record.source.startswith("folder:") else ".")
        )

    def _has_changed(self) -> bool:
        report = self._report
        return bool(report.documents_added or report.documents_changed or report.documents_removed)

    def _log(self, **more: str) -> None:
        if self._has_changed() or self._report.failures:
            detail = self._report.to_dict()
            detail["failures"] = detail["failures"][:100]
            self._ledger.catalog.log(
                self._collection.collection_id, "synced", None, {**detail, "source": self._source, **more}
            )


class _KnownDigests:
    """Digests of source bytes by document_id, asked of the ledger one by one: a folder may be larger than memory."""

    def __init__(self, ledger: Ledger, collection: CollectionRecord, tenant: str) -> None:
        self._documents = ledger.documents
        self._collection_id = collection.collection_id
        self._tenant = tenant

    def get(self, document_id: str) -> bytes | None:
        return self._documents.source_digest(self._collection_id, self._tenant, document_id)


def _is_superseded(document: Document, record: DocumentRecord, begun: int) -> bool:
    """Whether a caller has given a higher number, or this one to other content. What is to be made good, because it was
    marked stale or came in part, has no digest and may come again under its own number."""
    if document.revision is None:
        return False
    number = int(document.revision)
    if number < max(record.fence, begun):
        return True
    return number == record.fence and (record.removed or record.digest is not None)


def checked_document_id(document_id: object) -> str:
    if not isinstance(document_id, str) or not document_id:
        raise InvalidInput(f"A document_id is text that is not empty, got {document_id!r}. Write ids as text.")
    try:
        document_id.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"The document_id {document_id!r} is not valid Unicode.") from None
    return document_id


def _with_a_list(item: Item) -> Item:
    """A document whose chunks are counted more than once, where they came as something that can be read only once."""
    if (
        isinstance(item, Document)
        and isinstance(item.chunks, Iterable)
        and not isinstance(item.chunks, (list, tuple, str))
    ):
        return replace(item, chunks=list(item.chunks))
    return item


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Up to a thousand items, fewer when they bring many chunks or much text, or take long to come."""
    batch: list[Item] = []
    chunks = characters = 0
    began = time.monotonic()
    try:
        for item in items:
            batch.append(item)
            if isinstance(item, Document) and isinstance(item.chunks, (list, tuple)):
                chunks += len(item.chunks)
                characters += sum(
                    [len(one.content) for one in item.chunks if type(one) is Chunk and type(one.content) is str]
                )
            full = (
                len(batch) >= _DOCUMENTS_PER_BATCH or chunks >= _CHUNKS_PER_BATCH or characters >= _CHARACTERS_PER_BATCH
            )
            if full or time.monotonic() - began > _SECONDS_PER_BATCH:
                yield batch
                batch, chunks, characters, began = [], 0, 0, time.monotonic()
    except UnreadableSource:
        yield batch
        raise
    if batch:
        yield batch
