"""The side that a copy reads: documents page by page, and vectors as they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from shelflist.core.types import Vector
from shelflist.generation import Generation
from shelflist.indexing.identity import hash_of, vector_bytes
from shelflist.ledger.reading import DocumentHead, Reading, WholeChunk

DOCUMENTS_PER_PAGE = 1_000


class Original:
    """A collection that is only read. `reading`: what its ledger tells of whole documents."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self.reading = Reading(generation.ledger.database)

    def pages(self) -> Iterator[list[DocumentHead]]:
        """Every document that ever had a revision, by key, removed ones included."""
        last = 0
        while page := self.reading.page(self.generation.record.collection_id, last, DOCUMENTS_PER_PAGE):
            last = page[-1].document_key
            yield page

    def chunk_count(self) -> int:
        """How many chunks the current revisions have."""
        record = self.generation.record
        counts = self.generation.ledger.documents.counts(record.generation_id, record.collection_id, None)
        return sum(counts[status] for status in ("indexed", "stale", "failed"))

    def vectors(self, rows: Sequence[WholeChunk]) -> dict[bytes, Vector]:
        """Sound vectors by point id: from the store, or where that normalises them, from the ledger if it has them."""
        found: dict[bytes, Vector] = {}
        looks = (self._from_store, self._from_ledger)
        exact = self.generation.store.capabilities.vectors == "exact"
        for look in looks if exact else reversed(looks):
            missing = [row for row in rows if row.chunk.point_id not in found]
            if missing:
                found.update(look(missing))
        return found

    def _from_store(self, rows: Sequence[WholeChunk]) -> dict[bytes, Vector]:
        stored = self.generation.store.vectors(self.generation.spec, [row.chunk.point_id for row in rows])
        return self._sound(rows, stored, {row.chunk.point_id: row.chunk.point_id for row in rows})

    def _from_ledger(self, rows: Sequence[WholeChunk]) -> dict[bytes, Vector]:
        names = {row.chunk.point_id: row.chunk.embedding_hash or row.chunk.text_hash for row in rows}
        cached = self.generation.ledger.embeddings.get(self.generation.record.fingerprint, list(names.values()))
        return self._sound(rows, cached, names)

    def _sound(
        self, rows: Sequence[WholeChunk], vectors: Mapping[bytes, Vector], names: Mapping[bytes, bytes]
    ) -> dict[bytes, Vector]:
        found = {}
        for row in rows:
            vector = vectors.get(names[row.chunk.point_id])
            if vector is not None and self._is_sound(row, vector):
                found[row.chunk.point_id] = vector
        return found

    def _is_sound(self, row: WholeChunk, vector: Vector) -> bool:
        record = self.generation.record
        if vector.shape != (record.dimensions,) or not np.isfinite(vector).all():
            return False
        if record.metric == "cosine" and not vector.any():
            return False
        written = row.chunk.embedding_hash or row.vector_hash
        return written is None or hash_of(vector_bytes(vector)) == written
