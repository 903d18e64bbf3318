"""Planned documents on their way to the writer: gathered into batches, one written while the next is read and planned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from shelflist.core.types import Document, OnFailed, SyncReport, Wait
from shelflist.indexing.plan import PlannedDocument
from shelflist.indexing.seen import Seen
from shelflist.indexing.write import Writer, Written

_DOCUMENTS_PER_WRITE = 5_000
_CHUNKS_PER_WRITE = 12_000
_BYTES_PER_WRITE = 48_000_000
_SECONDS_PER_WRITE = 2.0
"""A slow source is written, and searchable, bit by bit; and an interrupt loses no more than this of its work."""
_ATTEMPTS = 8


@dataclass(slots=True)
class _Batch:
    planned: list[PlannedDocument] = field(default_factory=list)
    documents: dict[int, Document] = field(default_factory=dict)
    """What was planned, by id() of the plan: another writer's change makes it be planned again."""
    claimed: set[tuple[str, str]] = field(default_factory=set)
    chunks: int = 0
    bytes: int = 0
    began: float = field(default_factory=time.monotonic)

    def is_full(self) -> bool:
        return (
            self.chunks >= _CHUNKS_PER_WRITE
            or self.bytes >= _BYTES_PER_WRITE
            or len(self.planned) >= _DOCUMENTS_PER_WRITE
            or time.monotonic() - self.began > _SECONDS_PER_WRITE
        )


class Handover:
    """Of one pass.

    Where store and ledger share a database, a thread writes; one batch at a time, in order, so at most two are in memory.
    Everything else stays on the caller's thread: embedding, counting, planning again what another writer was quicker at
    (`plan_again`). An error of the thread is raised by the next call. `overtaken`: see `Writer.write`.
    """

    def __init__(
        self,
        writer: Writer,
        report: SyncReport,
        seen: Seen,
        *,
        on_failed: OnFailed,
        wait: Wait,
        plan_again: Callable[[Sequence[Document]], None],
        give_up: Callable[[str], None],
        overtaken: Callable[[Sequence[Document]], None],
    ) -> None:
        self._writer = writer
        self._report = report
        self._seen = seen
        self._on_failed = on_failed
        self._wait = wait
        self._plan_again = plan_again
        self._give_up = give_up
        self._overtaken = overtaken
        self._gathered = _Batch()
        self._planning_again = False
        self._writing: tuple[_Batch, Future[Written]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def __contains__(self, document: tuple[str, str]) -> bool:
        """Whether (tenant, document_id) has been claimed and is not written yet: from then on it is among the seen."""
        return document in self._gathered.claimed or (
            self._writing is not None and document in self._writing[0].claimed
        )

    def claim(self, document: tuple[str, str]) -> None:
        self._gathered.claimed.add(document)

    def add(self, planned: PlannedDocument, document: Document) -> None:
        batch = self._gathered
        batch.planned.append(planned)
        batch.documents[id(planned)] = document
        batch.chunks += len(planned.revision.new)
        batch.bytes += sum([len(chunk.content) for chunk in planned.revision.new])
        if batch.is_full() and not self._planning_again:
            self._hand_over()

    def finish(self) -> None:
        """Return when everything is written; the last batch of a pass, often the only one, needs no thread."""
        if self._thread is not None:
            self._hand_over()
            self._settle()
        else:
            batch, self._gathered = self._gathered, _Batch()
            self._conclude(batch, self._write(batch))

    def close(self) -> None:
        """Wait for what is being written: neither an error nor an interrupt leaves a thread behind."""
        if self._thread is not None:
            self._thread.shutdown()

    def _hand_over(self) -> None:
        """Let what has been gathered be written, and gather anew."""
        batch, self._gathered = self._gathered, _Batch()
        if not self._writer.together:
            self._conclude(batch, self._write(batch))
            return
        ready = self._writer.ready(batch.planned, self._report, self._on_failed)
        self._settle()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="shelflist-writer")
        self._writing = batch, self._thread.submit(self._writer.write_together, ready)

    def _settle(self) -> None:
        if self._writing is not None:
            batch, future = self._writing
            written = future.result()
            self._writing = None
            written.count(self._report)
            self._conclude(batch, written.lost)

    def _conclude(self, batch: _Batch, lost: Sequence[PlannedDocument]) -> None:
        """Remember what was written; what another writer changed meanwhile is planned again, and written at once."""
        for attempt in range(_ATTEMPTS):
            for one in batch.planned:
                if one.revision.document_key:
                    self._seen.add(one.revision.document_key)
            if not lost:
                return
            time.sleep(0.01 * attempt)
            batch = self._planned_again([batch.documents[id(one)] for one in lost])
            lost = self._write(batch)
        for one in lost:
            self._give_up(one.revision.document_id)

    def _planned_again(self, documents: Sequence[Document]) -> _Batch:
        """Aside from what is being gathered."""
        gathered, self._gathered = self._gathered, _Batch()
        self._planning_again = True
        self._plan_again(documents)
        self._planning_again = False
        batch, self._gathered = self._gathered, gathered
        return batch

    def _write(self, batch: _Batch) -> list[PlannedDocument]:
        return self._writer.write(
            batch.planned,
            self._report,
            on_failed=self._on_failed,
            wait=self._wait,
            overtaken=partial(self._say_overtaken, batch.documents),
        )

    def _say_overtaken(self, documents: dict[int, Document], lost: Sequence[PlannedDocument]) -> None:
        if lost:
            self._overtaken([documents[id(one)] for one in lost])
