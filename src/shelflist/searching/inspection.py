"""What the ledger tells people about documents: which there are, what each holds, and why it is or is not found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shelflist.core.errors import InvalidInput
from shelflist.core.filters.nodes import Filter
from shelflist.core.index_text import index_text
from shelflist.generation import Generation
from shelflist.ledger.documents import DocumentRecord
from shelflist.searching.search import Ranks, str_id
from shelflist.stores.protocol import Scope


class Inspection:
    """Of one collection, as one tenant (or None) sees it."""

    def __init__(self, generation: Generation, tenant: str | None) -> None:
        self._generation = generation
        self._collection = generation.record
        self._documents = generation.ledger.documents
        self._tenant = tenant

    def status(self) -> dict[str, Any]:
        """Numbers and settings: documents, chunks by index status, condemned points, the store's own numbers.

        Of a tenant only what is its own: its points are counted, the store's numbers are of all.
        """
        record, store, spec = self._collection, self._generation.store, self._generation.spec
        own = None if self._tenant is None else {"points": store.count(spec, Scope(tenant=self._tenant))}
        documents, _ = self._documents.count(record.collection_id, None if self._tenant is None else [self._tenant])
        return {
            "documents": documents,
            "chunks": self._documents.counts(record.generation_id, record.collection_id, self._tenant),
            "unfinished": self._generation.ledger.revisions.open_count(record.generation_id, self._tenant),
            "embedder": record.embedder,
            "fingerprint": record.fingerprint,
            "dimensions": record.dimensions,
            "metric": record.metric,
            "tenancy": record.tenancy,
            "fields": record.fields.to_json(),
            "index": index_text(record.index),
            "target_recall": record.target_recall,
            "store": {"kind": store.capabilities.store, **(store.stats(spec) if own is None else own)},
        }

    def documents(self, limit: int | None, prefix: str | None) -> list[dict[str, Any]]:
        """Documents that searches see, by id."""
        records = self._documents.present(self._collection.collection_id, self._tenant, prefix=prefix, limit=limit)
        return [_shown(record) for record in records]

    def find(self, document_id: str) -> DocumentRecord | None:
        """The document if searches see it."""
        found = self._documents.find(self._collection.collection_id, self._tenant or "", [document_id]).get(document_id)
        return None if found is None or found.removed or found.revision == 0 else found

    def document(self, document_id: str) -> dict[str, Any]:
        """A document and its chunks with their states; InvalidInput if it is not known."""
        record = self.require(document_id)
        chunks = [
            {
                **{name: value for name, value in row.items() if name not in ("point_id", "chunk_id")},
                "chunk_id": str_id(row["chunk_id"]),
                "metadata": self._collection.fields.shown(row["metadata"]),
            }
            for row in self._documents.chunks(self._collection.generation_id, record.document_key)
        ]
        return {**_shown(record), "chunks": chunks}

    def why(self, document_id: str, query: str | None, condition: Filter | None, ranks: Ranks) -> dict[str, Any]:
        """Each chunk's state, whether the filter matches it, and its place in `ranks`; InvalidInput if it is not known."""
        record = self.require(document_id)
        chunks = [
            {
                **{name: row[name] for name in ("position", "section", "index_status", "stale_reason", "error")},
                "filter_matches": condition is None or condition.matches(row["metadata"]),
                **_places(row["point_id"], ranks),
                "content": row["content"],
            }
            for row in self._documents.chunks(self._collection.generation_id, record.document_key)
        ]
        legs = [leg for leg in ("dense", "keyword") if leg in ranks]
        return {"document": _shown(record), "query": query, "legs": legs, "chunks": chunks}

    def require(self, document_id: str) -> DocumentRecord:
        """The document if searches see it, or InvalidInput."""
        record = self.find(document_id)
        if record is None:
            raise InvalidInput(
                f"No document {document_id!r} in {self._collection.name!r}. List what is there with: shelflist documents"
            )
        return record


def _places(point: bytes, ranks: Ranks) -> Mapping[str, int | float | None]:
    nowhere = (None, None)
    places: dict[str, int | float | None] = {
        f"{leg}_rank": ranks.get(leg, {}).get(point, nowhere)[0] for leg in ("dense", "keyword", "exact", "hybrid")
    }
    return {**places, "distance": ranks.get("exact", {}).get(point, nowhere)[1]}


def _shown(record: DocumentRecord) -> dict[str, Any]:
    return {
        "document_id": record.document_id,
        "tenant": record.tenant or None,
        "source": record.source,
        "revision": record.fence or record.revision,
        "chunks": record.chunk_count,
        "updated_at": record.updated_at,
    }
