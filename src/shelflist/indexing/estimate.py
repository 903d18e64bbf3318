"""What a pass would do, counted without doing it."""

from __future__ import annotations

from collections.abc import Sequence

from shelflist.core.types import Document, SyncReport
from shelflist.embedders.asking import token_counts
from shelflist.embedders.protocol import Embedder
from shelflist.indexing.embedding import VectorSource
from shelflist.indexing.identity import document_name
from shelflist.indexing.plan import PlannedDocument
from shelflist.indexing.seen import Names
from shelflist.indexing.write import count_changes

_DOCUMENTS_AT_ONCE = 100


class Estimate:
    """Counts planned documents into a report. No text is counted twice, and memory does not grow with the pass."""

    def __init__(self, vectors: VectorSource, embedder: Embedder | None, report: SyncReport) -> None:
        self._vectors = vectors
        self._embedder = embedder
        self._report = report
        self._documents = Names()
        self._texts = Names()
        self._gathered: list[PlannedDocument] = []

    def __contains__(self, document: tuple[str, str]) -> bool:
        """Whether (tenant, document_id) has been claimed."""
        return document_name(*document) in self._documents

    def claim(self, document: tuple[str, str]) -> None:
        self._documents.add([document_name(*document)])

    def add(self, planned: PlannedDocument, document: Document) -> None:
        self._gathered.append(planned)
        if len(self._gathered) >= _DOCUMENTS_AT_ONCE:
            self.finish()

    def finish(self) -> None:
        planned, self._gathered = self._gathered, []
        self._count(planned)

    def close(self) -> None:
        self._documents.close()
        self._texts.close()

    def _count(self, planned: Sequence[PlannedDocument]) -> None:
        texts = {
            chunk.text_hash: chunk.content
            for one in planned
            for chunk in one.revision.new
            if chunk.embedding_hash is None and chunk.text_hash not in self._texts
        }
        fresh = {text for one in planned for text in one.fresh}
        cached = self._vectors.known([text for text in texts if text not in fresh])
        self._texts.add(texts)
        needed = [content for text, content in texts.items() if text not in cached]
        self._report.cached += len(cached)
        self._report.embedded += len(needed)
        if self._embedder and needed:
            self._report.tokens += sum(token_counts(self._embedder, needed))
        count_changes(planned, self._report)
