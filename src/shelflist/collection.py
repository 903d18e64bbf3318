"""The facade that every surface uses: a Collection, bound to a tenant or not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from shelflist.core.errors import (
    CacheDamaged,
    ConfigError,
    FieldError,
    InvalidInput,
    TenantForbidden,
    TenantRequired,
)
from shelflist.core.fields import Fields
from shelflist.core.filters import Filter, prepare
from shelflist.core.index_text import given_index
from shelflist.core.log import log
from shelflist.core.types import (
    Chunk,
    Document,
    Hits,
    IndexSpec,
    Metric,
    Mode,
    OnFailed,
    Progress,
    ProgressListener,
    Recall,
    Reranker,
    SearchParams,
    SyncReport,
    Tenancy,
    Vector,
    Wait,
)
from shelflist.embedders.protocol import Embedder
from shelflist.indexing.given import usable_vector
from shelflist.indexing.identity import label_bytes
from shelflist.indexing.protocol import Source
from shelflist.indexing.removal import removal
from shelflist.indexing.sync import Sync, checked_document_id
from shelflist.ledger.documents import DocumentRecord
from shelflist.opening import Opened, collection_names, open_parts
from shelflist.searching.fusion import Fusion
from shelflist.searching.inspection import Inspection
from shelflist.searching.request import Request, require_whole
from shelflist.searching.search import Searcher
from shelflist.wanted import UNSET, Unset, Wanted

if TYPE_CHECKING:
    from shelflist.indexing.copy import CopyReport
    from shelflist.indexing.maintenance import Maintenance

Where = Filter | Mapping[str, Any] | str | None
Query = str | Vector
Answer = TypeVar("Answer")


class Collection:
    """A named set of documents indexed the same way. Get one from `shelflist.open`. Safe to share between threads."""

    def __init__(self, parts: Opened, tenant: str | None = None) -> None:
        self._opened = parts
        self._tenant = tenant
        self._owns_parts = True

    @property
    def _parts(self) -> Opened:
        """The parts as the ledger has them now: another process may have declared a field, or dropped the collection."""
        self._opened.refresh()
        return self._opened

    def __repr__(self) -> str:
        owner = f", tenant {self._tenant!r}" if self._tenant else ""
        return f"<Collection {self.name!r} at {self.url}{owner}>"

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The name that it was opened by."""
        return self._opened.record.name

    @property
    def url(self) -> str:
        """Where the collection is, without secrets."""
        return self._opened.url

    @property
    def fields(self) -> Fields:
        """The declared metadata fields and their types, read anew from the ledger."""
        return self._parts.record.fields

    @property
    def tenancy(self) -> Tenancy:
        """`none`, or `required`: then it is searched and written through `tenant(id)` only."""
        return self._opened.record.tenancy

    @property
    def embedder(self) -> Embedder | None:
        """The embedder, loaded on first use; None for collections of given vectors."""
        return self._opened.embedder

    @property
    def fingerprint(self) -> str:
        """Which vector space its vectors are of: model, dimensions, normalisation, prefixes."""
        return self._opened.record.fingerprint

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""
        return self._opened.record.dimensions

    @property
    def metric(self) -> Metric:
        """How far two vectors are apart: `cosine`, `dot` or `l2`."""
        return self._opened.record.metric

    def tenant(self, tenant_id: str) -> Collection:
        """The same collection, seen and written as one tenant. Closing it leaves the collection open.

        TenantRequired for an id that is no str or is blank, TenantForbidden where the collection has no tenants, or is
        bound to another one: what is handed to code that serves one tenant opens no other.
        """
        if self.tenancy == "none":
            raise TenantForbidden(
                f"The collection {self.name!r} has no tenants: leave the tenant out, or make another collection with "
                "tenancy='required' (shelflist init --tenancy required)."
            )
        if not isinstance(tenant_id, str) or not tenant_id.strip():
            raise TenantRequired(f"A tenant id is a str that is not blank, got {tenant_id!r}.")
        label_bytes("tenant", tenant_id)
        if self._tenant not in (None, tenant_id):
            raise TenantForbidden(
                f"This collection {self.name!r} is bound to the tenant {self._tenant!r}, not to {tenant_id!r}. Call tenant() "
                "on the collection that is not bound."
            )
        bound = copy.copy(self)
        bound._tenant = tenant_id
        bound._owns_parts = False
        return bound

    # The way in.

    def sync(
        self,
        document_id: str,
        chunks: Sequence[Chunk],
        *,
        source: str = "default",
        revision: int | None = None,
        wait: Wait = "searchable",
        on_failed: OnFailed = "keep_old",
    ) -> SyncReport:
        """Make `chunks` the whole content of a document, in one step.

        Returns when they can be found (`wait="searchable"`) or when the store has them (`"stored"`). If a chunk fails,
        the old revision stays (`on_failed="keep_old"`) or the good chunks replace it (`"switch_without"`); the report
        names each failure. `revision`: the caller's own monotonic number; what comes with an older one than a caller gave
        before, or with the same and other content, is superseded. The same number may come again for what was marked stale or
        came in part.
        """
        tenant = self._own_tenant()
        if isinstance(chunks, (str, bytes)):
            raise InvalidInput(
                f"The chunks of {document_id!r} are text. Give a list of Chunk(content=…); shelflist.Chunker cuts a text."
            )
        if not isinstance(chunks, Iterable):
            raise InvalidInput(
                f"The chunks of {document_id!r} are {_kind(chunks)}. Give a list of Chunk(content=…), also where there is "
                "one or none."
            )
        document = Document(checked_document_id(document_id), list(chunks), tenant, revision)
        return self._sync(source, on_failed, wait, None, single=True).run([document])

    def sync_all(
        self,
        documents: Iterable[Document] | Source,
        *,
        source: str | None = None,
        delete: Literal["missing"] | None = None,
        allow_removal: bool = False,
        wait: Wait = "searchable",
        on_failed: OnFailed = "keep_old",
        progress: ProgressListener | None = None,
    ) -> SyncReport:
        """Sync a stream of documents. Interrupted, it keeps what it acknowledged; run again, it goes on.

        `delete="missing"` removes, as the last step of a pass that read everything, the documents of the same source and
        tenant that did not come; on an iterable it needs an explicit `source`. RemovalRefused if that would be more than
        a third of the collection, unless `allow_removal`.
        """
        return self._run_pass(documents, source, delete, allow_removal, wait, on_failed, progress, dry=False)

    def plan(
        self,
        documents: Iterable[Document] | Source,
        *,
        source: str | None = None,
        delete: Literal["missing"] | None = None,
        allow_removal: bool = False,
        on_failed: OnFailed = "keep_old",
        progress: ProgressListener | None = None,
    ) -> SyncReport:
        """What `sync_all` would do: the same counts, `embedded` and `tokens` as they would be paid, and nothing done."""
        return self._run_pass(documents, source, delete, allow_removal, "searchable", on_failed, progress, dry=True)

    def delete(self, document_id: str) -> int:
        """Remove a document; its chunks are not found from now on. Returns how many chunks went (0: unknown document)."""
        record = self._find(document_id)
        if record is None:
            return 0
        parts = self._parts
        while True:
            members = parts.ledger.documents.members(parts.record.generation_id, [record.document_key])
            keys = [member.chunk_key for member in members[record.document_key]]
            if not parts.writer.remove([removal(record, keys)]):
                break
            record = self._find(document_id)
            if record is None:
                return 0
        parts.ledger.catalog.log(parts.record.collection_id, "deleted", document_id, {"chunks": len(keys)})
        parts.writer.purge()
        parts.writer.build(changed=False)  # an index most of whose rows are gone is due to be built anew
        return len(keys)

    def mark_stale(self, document_id: str) -> int:
        """Hide a document at once, for content known to be wrong; the next sync of it embeds it again.

        Returns how many chunks were hidden.
        """
        record = self._find(document_id)
        if record is None:
            return 0
        parts = self._parts
        with parts.ledger.database.write():
            marked = parts.ledger.revisions.mark(parts.record.generation_id, record.document_key)
            if parts.writer.together:
                parts.store.set_stale(parts.spec, [point for _, point in marked])
        if not parts.writer.together:
            parts.writer.hide([point for _, point in marked])
        parts.ledger.catalog.log(parts.record.collection_id, "marked", document_id, {"chunks": len(marked)})
        parts.writer.build(changed=False)
        return len(marked)

    # The way out.

    def search(
        self,
        query: Query,
        *,
        limit: int = 10,
        where: Where = None,
        mode: Mode | None = None,
        params: SearchParams = SearchParams(),
        min_score: float | None = None,
        group_by: Literal["document_id"] | None = None,
        fusion: Fusion = "convex",
        alpha: float | None = None,
        rerank: Reranker | None = None,
        rerank_pool: int = 50,
    ) -> Hits:
        """The best chunks for a text or a vector (float32, shape (dimensions,)), best first.

        `mode`: `dense`, `keyword` or `hybrid`; by default hybrid for text and dense for a vector. `where`: a filter as
        `F(...)`, Mongo-style dict or text. `fusion`/`alpha`: see `searching.fusion`. `min_score` cuts after fusion and
        reranking. `group_by="document_id"` keeps each document's best chunk. `rerank(query, hits)` scores the best
        `rerank_pool` hits again. If `limit` chunks match the filter, `limit` come back (keyword: of those sharing a term).
        """
        text, vector = self._query(query)
        if rerank is not None and text is None:
            raise InvalidInput("A reranker reads the query's text; a vector has none. Search with the text.")
        request = Request(
            limit, self._prepared(where), mode, params, min_score, group_by, fusion, alpha, rerank, rerank_pool
        )
        request.require_settings(self._opened.store.capabilities)
        return self._search(text, vector, request)

    def search_many(self, queries: Sequence[Query], **options: Any) -> list[Hits]:
        """`search` for each query, with the same options. InvalidInput for one text in the place of several."""
        if isinstance(queries, (str, bytes)):
            raise InvalidInput(
                f"search_many takes a list of queries, not one text: search({queries!r}) or search_many([…])."
            )
        if not isinstance(queries, Iterable):
            raise InvalidInput(f"search_many takes a list of queries, not {_kind(queries)}: search_many([…]).")
        return [self.search(query, **options) for query in queries]

    def count(self, where: Where = None) -> int:
        """How many chunks are searchable and match. TenantRequired as in `search`."""
        return self._searcher().count(prepare(where, self.fields), self._own_tenant())

    def recall(
        self,
        queries: Sequence[Query] | None = None,
        *,
        target: float | None = None,
        limit: int = 10,
        where: Where = None,
        sample: int = 100,
    ) -> Recall:
        """Measured recall@limit, 0 to 1, of plain dense search against exact search, over these queries or a sample of chunks.

        It is a float that says whether it reaches `target` (default: the collection's own): `recall().is_met`. TenantRequired
        as in `search`; InvalidInput without a query and a chunk.
        """
        parts = self._parts
        tenant = self._own_tenant()
        limit, sample = require_whole("limit", limit), require_whole("sample", sample)
        target = parts.record.target_recall if target is None else target
        if not isinstance(target, (int, float)) or not 0 < target <= 1:
            raise InvalidInput(f"target={target!r} is not a share between 0 and 1.")
        if isinstance(queries, (str, bytes)) or not (queries is None or isinstance(queries, Iterable)):
            raise InvalidInput(
                f"recall takes a list of queries, not {_kind(queries)}: recall([…]), or recall() for a sample."
            )
        if queries is None:
            ids = parts.ledger.documents.sample(parts.record.generation_id, tenant, sample)
            vectors = list(parts.store.vectors(parts.spec, ids).values())
        else:
            vectors = [self._searcher().embed(one) if isinstance(one, str) else self._vector(one) for one in queries]
        return Recall(self._searcher().recall(vectors, limit, prepare(where, self.fields), tenant), target)

    # What is there, and whether it is right.

    def status(self) -> dict[str, Any]:
        """Numbers and settings: documents, chunks by index status, condemned points, the store's own numbers.

        Of one tenant where it is bound to one (of the store: its points), else of all of them: it is for those who run the
        collection.
        """
        parts = self._parts
        place = {"collection": parts.record.name, "url": parts.url, "ledger": parts.ledger_url, "tenant": self._tenant}
        return {**place, **self._inspection().status()}

    def documents(self, limit: int | None = None, prefix: str | None = None) -> list[dict[str, Any]]:
        """Documents that searches see, by id: of one tenant where it is bound to one, else of all of them.

        Each has `document_id`, `tenant`, `source`, `revision`, `chunks` (how many) and `updated_at` (seconds since 1970).
        """
        if limit is not None:
            limit = require_whole("limit", limit, least=0)
        if prefix is not None and not isinstance(prefix, str):
            raise InvalidInput(f"prefix={prefix!r} is not text that document ids begin with.")
        return self._inspection().documents(limit, prefix)

    def show(self, document_id: str) -> dict[str, Any]:
        """A document as in `documents`, with its chunks: text, metadata, `index_status`, error and attempts of each.

        InvalidInput if it is not known, TenantRequired as in `search`.
        """
        self._own_tenant()
        return self._inspection().document(checked_document_id(document_id))

    def why(self, document_id: str, query: Query, where: Where = None) -> dict[str, Any]:
        """Why a document is, or is not, among the answers: each chunk's state, filter, and rank in every leg.

        `dense_rank` and `hybrid_rank` are of an ordinary search's 100 candidates (asked with a vector: of its ten hits, and what
        a search for a hundred finds beyond them), `exact_rank` and `keyword_rank` of all that match; `legs` are those that the
        query can ask: a vector (whose `query` is None) the dense one, words without an embedder the other. `plan` says which way the search goes.
        """
        text, vector = self._query(query)
        tenant, condition = self._own_tenant(), prepare(where, self.fields)
        inspection, document_id = self._inspection(), checked_document_id(document_id)
        inspection.require(document_id)
        ranks, plan = self._recovering(lambda: self._searcher().ranks(text, vector, tenant, condition))
        return {**inspection.why(document_id, text, condition, ranks), "plan": plan}

    def verify(self, sample: int = 200, *, progress: ProgressListener | None = None) -> dict[str, Any]:
        """Compare ledger and store both ways, and `sample` vectors; `ok`: whether what is searched is what was written.

        Beside it stand the numbers that were compared. TenantForbidden on a collection bound to a tenant.
        """
        self._whole("verify")
        sample = require_whole("sample", sample, least=0)
        return self._maintenance(progress).verify(sample)

    def repair(self, sample: int = 1_000, *, progress: ProgressListener | None = None) -> dict[str, Any]:
        """Restore from the ledger what `verify` misses, delete what it must not have, rebuild damaged caches. `sample`: how
        many vectors are compared.

        `actions` says what was done, in sentences. TenantForbidden on a collection bound to a tenant.
        """
        self._whole("repair")
        sample = require_whole("sample", sample, least=0)
        return self._maintenance(progress).repair(sample)

    def wait_for_build(self, *, progress: ProgressListener | None = None) -> None:
        """Return when the vector index that a pass has begun to build aside is built. Searches answer without it; `close`
        waits too. What interrupts the wait stops the building, and the next sync begins it again."""

        def tell(done: int, total: int) -> None:
            if progress:
                progress(Progress("building the vector index", done, total or None, "vectors"))

        self._parts.generation.store.wait_for_build(tell)

    def purge(self) -> int:
        """Delete condemned points whose grace has passed; returns how many."""
        self._whole("purge")
        return self._parts.writer.purge()

    def add_field(self, name: str, type: Any) -> None:
        """Declare a field: it becomes filterable, for the chunks that are there too. Refused if a stored value misfits."""
        self._whole("add_field")
        parts = self._parts
        if name in self.fields:
            raise ConfigError(f"The field {name!r} is declared already, as {self.fields[name].value}.")
        fields = Fields({**self.fields.to_json(), name: type})
        parts.add_fields(fields)

    def drop(self) -> None:
        """Remove the collection, its points and its ledger entries."""
        self._whole("drop")
        parts = self._parts
        if parts.generation.keywords is not None:
            parts.generation.keywords.drop()
        with parts.ledger.database.write():
            parts.ledger.catalog.drop(parts.record.collection_id)
            if parts.writer.together:
                self._drop_from_store()
        if not parts.writer.together:
            self._drop_from_store()

    def _drop_from_store(self) -> None:
        self._opened.store.drop(self._opened.spec.name)
        self._opened.store.write_marker(self.name, None)

    def copy_to(
        self,
        destination: str,
        *,
        to: str | None = None,
        ledger: str | None = None,
        index: IndexSpec | str | None = None,
        sample: int = 200,
        progress: ProgressListener | None = None,
    ) -> CopyReport:
        """`shelflist.copy` of this collection: into the store at `destination`, whose ledger is at `ledger`."""
        from shelflist.copying import copy_opened

        self._whole("copy")
        return copy_opened(
            self._parts,
            destination,
            to=to,
            ledger=ledger,
            index=given_index(index),
            sample=sample,
            progress=progress,
            busy_timeout=30.0,
        )

    def close(self) -> None:
        """Close connections and files, when work in the background is done. What is used afterwards is opened again."""
        if self._owns_parts:
            self._opened.close()

    def _run_pass(
        self,
        documents: Iterable[Document] | Source,
        source: str | None,
        delete: Literal["missing"] | None,
        allow_removal: bool,
        wait: Wait,
        on_failed: OnFailed,
        progress: ProgressListener | None,
        *,
        dry: bool,
    ) -> SyncReport:
        if isinstance(documents, (str, bytes)):
            raise InvalidInput(
                f"{documents!r} is text, not documents. For a folder or file use: shelflist.open_source({documents!r})"
            )
        if not isinstance(documents, (Iterable, Source)):
            raise InvalidInput(
                f"A pass is over documents, not over {_kind(documents)}. Give a list of Document(document_id, chunks), or "
                "a source: shelflist.open_source(place)."
            )
        if source is None and isinstance(documents, Source):
            source = documents.name
        if delete not in (None, "missing"):
            raise InvalidInput(f"delete={delete!r} is not known. Use delete='missing', or leave it out.")
        if delete == "missing" and source is None:
            raise InvalidInput(
                "delete='missing' removes every document of a source that does not come. Name the source, for example "
                "source='handbook'."
            )
        run = self._sync(source or "default", on_failed, wait, progress, dry=dry)
        return run.run(documents, delete_missing=delete == "missing", allow_removal=allow_removal)

    def _sync(
        self,
        source: str,
        on_failed: OnFailed,
        wait: Wait,
        progress: ProgressListener | None,
        *,
        single: bool = False,
        dry: bool = False,
    ) -> Sync:
        if wait not in ("searchable", "stored"):
            raise InvalidInput(f"wait={wait!r} is not known. Use 'searchable' or 'stored'.")
        if on_failed not in ("keep_old", "switch_without"):
            raise InvalidInput(f"on_failed={on_failed!r} is not known. Use 'keep_old' or 'switch_without'.")
        label_bytes("source", source)
        parts = self._parts
        return Sync(
            parts.generation,
            parts.writer,
            parts.vectors,
            source=source,
            tenant=self._tenant,
            on_failed=on_failed,
            wait=wait,
            progress=progress,
            single=single,
            dry=dry,
        )

    def _search(self, text: str | None, vector: Vector | None, request: Request) -> Hits:
        """What the ledger says beside the hits is as good as asking it first whether the collection is as it was known
        here; only an answer without hits, or an error, is checked by a question of its own."""
        tenant = self._own_tenant()
        known = self._opened.generation
        searcher = Searcher(known)
        try:
            hits = self._recovering(lambda: searcher.search(text, vector, tenant, request))
        except Exception:  # of whatever kind: its tables may have gone with the collection
            self._opened.refresh()
            if self._opened.generation is known:
                raise
            return self._recovering(lambda: self._searcher().search(text, vector, tenant, request))
        if (searcher.is_outdated or not hits) and self._parts.generation is not known:
            return self._recovering(lambda: self._searcher().search(text, vector, tenant, request))
        return hits

    def _recovering(self, ask: Callable[[], Answer]) -> Answer:
        """Run a search; if a cache of the store is damaged, rebuild it from the rows, say so, and ask again."""
        try:
            return ask()
        except CacheDamaged as error:
            log.warning("%s Rebuilding it from the rows.", error)
            self._maintenance().rebuild_caches()
            return ask()

    def _searcher(self) -> Searcher:
        return Searcher(self._parts.generation)

    def _inspection(self) -> Inspection:
        return Inspection(self._parts.generation, self._tenant)

    def _maintenance(self, progress: ProgressListener | None = None) -> Maintenance:
        from shelflist.indexing.maintenance import Maintenance  # a search pays for nothing that it does not need

        parts = self._parts
        return Maintenance(parts.generation, parts.vectors, parts.writer, progress)

    def _prepared(self, where: Where) -> Filter | None:
        try:
            return prepare(where, self._opened.record.fields)
        except FieldError:  # perhaps of a field that another process has declared
            return prepare(where, self.fields)

    def _query(self, query: Query) -> tuple[str | None, Vector | None]:
        if isinstance(query, str):
            if not query.strip():
                raise InvalidInput("The query is empty. Give words to search for, or a vector (--vector FILE).")
            label_bytes("query", query)
            return query, None
        if query is None or np.ndim(query) == 0:
            raise InvalidInput(f"A query is a text or a vector of {self.dimensions} numbers, not {query!r}.")
        return None, self._vector(query)

    def _vector(self, query: Any) -> Vector:
        record = self._opened.record
        is_cosine = record.metric == "cosine"
        return usable_vector(
            query, record.dimensions, record.fingerprint, cosine=is_cosine, what="The vector searched for"
        )

    def _whole(self, operation: str) -> None:
        if self._tenant is not None:
            raise TenantForbidden(
                f"{operation} works on the whole collection {self.name!r}, not on the tenant {self._tenant!r}. Call it on "
                "the collection itself (leave --tenant out)."
            )

    def _own_tenant(self) -> str | None:
        if self.tenancy == "required" and self._tenant is None:
            raise TenantRequired(f"The collection {self.name!r} has tenants. Use collection.tenant(id) (--tenant ID).")
        return self._tenant

    def _find(self, document_id: str) -> DocumentRecord | None:
        self._own_tenant()
        return self._inspection().find(checked_document_id(document_id))


def open(
    url: str,
    collection: str,
    *,
    embedder: str | Embedder | Unset | None = UNSET,
    fields: Mapping[str, Any] | None = None,
    index: IndexSpec | str | None = None,
    tenancy: Tenancy | None = None,
    metric: Metric | None = None,
    fingerprint: str | None = None,
    dimensions: int | None = None,
    ledger: str | None = None,
    target_recall: float | None = None,
    create: bool = True,
    emptied: bool = False,
    busy_timeout: float = 30.0,
) -> Collection:
    """Open a collection, or make it (unless `create` is False: then CollectionNotFound).

    `url`: `file:DIRECTORY`, `memory:` or a server (`pgvector://`, `qdrant://`, `weaviate://`, `chroma://`, `milvus://`).
    Options that are left out are what is stored or, for a new collection,
    `embedder="static"`, no fields, the best index of the store, `tenancy="none"`, `metric="cosine"`,
    `target_recall=0.95`. An option that differs from what is stored raises CollectionMismatch, naming every difference.
    `index`: `Flat()`, `Ivf()`, `Hnsw()`, or as on the command line, `"hnsw(m=16)"`.
    `embedder=None` takes given vectors and needs `fingerprint` (the name of their space) and `dimensions`.
    `ledger`: `sqlite:FILE` or `postgresql://HOST/DATABASE`, where it is not to share the store's database. `emptied=True`
    accepts a store that has lost the whole collection, for `repair` to fill it again: without, MarkerMismatch is raised.
    `busy_timeout`: seconds to wait for another writer.
    """
    wanted = Wanted(embedder, fields, given_index(index), tenancy, metric, fingerprint, dimensions, target_recall)
    return Collection(
        open_parts(url, collection, wanted, ledger=ledger, create=create, busy_timeout=busy_timeout, emptied=emptied)
    )


def _kind(value: object) -> str:
    return "None" if value is None else f"one {type(value).__name__}"


def collections(url: str, ledger: str | None = None) -> list[str]:
    """Names of the collections at this place; empty if there is none."""
    return collection_names(url, ledger)
