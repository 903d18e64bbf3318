"""Proves that what is searched is what was written, and restores what is not."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from shelflist.core.types import Metric, Point, Progress, ProgressListener, SyncReport, Vector
from shelflist.engine.exact import prepared
from shelflist.generation import Generation
from shelflist.indexing.batches import upsert_all
from shelflist.indexing.embedding import VectorSource
from shelflist.indexing.identity import hash_of, vector_bytes
from shelflist.indexing.write import Writer

_BATCH = 1_000
Row = TypeVar("Row")


class Maintenance:
    def __init__(
        self,
        generation: Generation,
        vectors: VectorSource,
        writer: Writer,
        progress: ProgressListener | None = None,
    ) -> None:
        self._ledger = generation.ledger
        self._store = generation.store
        self._spec = generation.spec
        self._collection = generation.record
        self._keywords = generation.keywords
        self._vectors = vectors
        self._writer = writer
        self._progress = progress

    def verify(self, sample: int) -> dict[str, Any]:
        """Compare ledger and store both ways, sample vectors against the cache, and count the keyword rows."""
        generation = self._collection.generation_id
        wanted: dict[bytes, str] = {}
        live: set[bytes] = set()
        condemned: set[bytes] = set()
        pending: set[bytes] = set()
        for point_id, status, is_condemned, document_id in self._told(
            "reading the ledger", self._ledger.documents.points(generation), None
        ):
            if is_condemned:
                condemned.add(point_id)
            elif status in ("indexed", "stale"):
                wanted[point_id] = document_id
                if status == "indexed":
                    live.add(point_id)
            else:
                pending.add(point_id)
        self._store.flush(self._spec)  # a delete that does not show yet is no ghost
        expected = len(wanted) + len(condemned) + len(pending)
        stored = dict(self._told("reading the store", self._store.scan(self._spec), expected))
        hidden = [point for point in wanted if point in live and stored.get(point) == "stale"]
        missing = [
            point for point in wanted if point in live and point not in stored
        ]  # nobody searches for a stale one
        ghosts = [point for point in stored if point not in wanted and point not in condemned and point not in pending]
        different = self._different([point for point in wanted if point in stored], sample)
        stats = self._store.stats(self._spec)
        if self._keywords is None:
            # A store that does not count them has the words in the points themselves; None is an index that is damaged.
            keyword_rows = stats.get("keyword_rows", len(stored))
            keywords_ok = keyword_rows == len(stored)
        else:  # it may hold what a crash left over, which no search shows; it must not lack anything
            keyword_rows = self._keywords.rows()
            keywords_ok = keyword_rows >= len(wanted)
        snapshot_ok = stats.get("snapshot_rows", 0) is not None
        doubled = self._doubled(stats, len(stored))
        unfinished = self._ledger.revisions.open_count(generation)
        return {
            "ok": not (missing or ghosts or hidden or different or doubled) and keywords_ok and snapshot_ok,
            "ledger": len(wanted),
            "store": len(stored),
            "hidden": [point.hex() for point in hidden],
            "missing": [point.hex() for point in missing],
            "missing_documents": sorted({wanted[point] for point in missing}),
            "ghosts": [point.hex() for point in ghosts],
            "doubled": doubled,
            "condemned": sum(1 for point in condemned if point in stored),
            "unfinished": unfinished,
            "vectors_checked": min(sample, len(wanted) - len(missing)),
            "vectors_different": [point.hex() for point in different],
            "keyword_rows": keyword_rows,
            "keywords_ok": keywords_ok,
            "snapshot_ok": snapshot_ok,
        }

    def repair(self, sample: int) -> dict[str, Any]:
        """Finish, purge, restore missing points from the ledger, delete ghosts, rebuild damaged caches; `sample`: how many
        vectors are compared."""
        actions: list[str] = []
        report = SyncReport()
        self._store.create(self._spec)  # somebody may have dropped it
        if self._store.capabilities.upkeep:
            self._tell("repairing the store", 0, None)
            actions += self._store.repair(self._spec)
        finished = self._writer.finish(report)
        if finished:
            actions.append(f"{finished} interrupted documents finished")
        purged = self._writer.purge()
        if purged:
            actions.append(f"{purged} condemned chunks purged")
        found = self.verify(sample)
        ghosts = [bytes.fromhex(one) for one in found["ghosts"]]
        wrong = [bytes.fromhex(one) for one in found["vectors_different"]]
        hidden = [bytes.fromhex(one) for one in found["hidden"] if one not in found["vectors_different"]]
        rows = {row["point_id"]: row for row in self._ledger.documents.contents(hidden)}
        kept = self._store.vectors(self._spec, hidden)  # their rows may be the only place that has them
        self._vectors.remember(
            {rows[one]["embedding_hash"] or rows[one]["text_hash"]: vector for one, vector in kept.items()}
        )
        wrong += hidden
        if ghosts or wrong:
            self._store.delete(self._spec, ghosts + wrong)
        if ghosts:
            actions.append(f"{len(ghosts)} ghosts deleted from the store")
        missing = [bytes.fromhex(one) for one in found["missing"]] + wrong
        lost: list[dict[str, Any]] = []
        restored = 0
        for start in range(0, len(missing), _BATCH):
            self._tell("restoring", start, len(missing))
            done, without = self._restore(missing[start : start + _BATCH], report)
            restored += done
            lost += without
        self._give_up(lost)
        if restored:
            actions.append(f"{restored} chunks restored, {report.embedded} of them embedded again")
        if not (found["keywords_ok"] and found["snapshot_ok"]):
            self._tell("rebuilding the caches", 0, None)
            actions += self.rebuild_caches()
            if not self._keywords_ok():
                actions.append(f"{self._rewrite(report)} chunks written again, with their words")
        if restored:
            self._writer.build()
        documents = sorted({row["document_id"] for row in lost})
        return {"actions": actions, "restored": restored, "lost": documents, "finished": finished, "purged": purged}

    def _give_up(self, lost: Sequence[dict[str, Any]]) -> None:
        """Chunks that nothing here can give a vector are searchable no more, and come again with the next sync."""
        for key in dict.fromkeys(row["document_key"] for row in lost):
            points = {row["point_id"] for row in lost if row["document_key"] == key}
            self._ledger.revisions.mark(self._collection.generation_id, key, points, reason="lost")

    def rebuild_caches(self) -> list[str]:
        """Rebuild what the rows can give again: the store's caches, and the keyword index beside the ledger."""
        if self._keywords is None:
            return self._store.repair(self._spec)
        self._keywords.rebuild()
        return [f"keyword index rebuilt from {self._keywords.rows()} chunks"]

    def _doubled(self, stats: Mapping[str, Any], ids: int) -> int:
        """How many rows the store has beyond one for each id; looked at once more if any, as others may write meanwhile."""
        rows = int(stats.get("rows", 0))
        if rows > ids:
            again = int(self._store.stats(self._spec).get("rows", 0))
            rows = ids + min(rows - ids, again - sum(1 for _ in self._store.scan(self._spec)))
        return max(0, rows - ids)

    def _keywords_ok(self) -> bool:
        stats = self._store.stats(self._spec)
        return self._keywords is not None or stats.get("keyword_rows", stats["points"]) == stats["points"]

    def _rewrite(self, report: SyncReport) -> int:
        """Take every point out of the store and put it in again, from the ledger; returns how many."""
        written = 0
        points = [point for point, _ in self._store.scan(self._spec)]
        for start in range(0, len(points), _BATCH):
            self._tell("writing again", start, len(points))
            part = points[start : start + _BATCH]
            rows = self._ledger.documents.contents(part)
            vectors = self._store.vectors(self._spec, part)
            self._vectors.remember(
                {row["embedding_hash"] or row["text_hash"]: vectors[row["point_id"]] for row in rows}
            )
            self._store.delete(self._spec, part)
            done, _ = self._restore(part, report)
            written += done
        return written

    def _restore(self, point_ids: Sequence[bytes], report: SyncReport) -> tuple[int, list[dict[str, Any]]]:
        rows = self._ledger.documents.contents(point_ids)
        texts = {row["text_hash"]: row["content"] for row in rows if row["embedding_hash"] is None}
        vectors = self._vectors.for_texts(texts, report)
        given = [row["embedding_hash"] for row in rows if row["embedding_hash"] is not None]
        vectors.update(self._ledger.embeddings.get(self._collection.fingerprint, given))
        points: list[Point] = []
        lost: list[dict[str, Any]] = []
        for row in rows:
            vector = vectors.get(row["embedding_hash"] or row["text_hash"])
            if vector is None:
                lost.append(row)
                continue
            points.append(
                Point(
                    point_id=row["point_id"],
                    chunk_id=row["chunk_id"],
                    document_id=row["document_id"],
                    tenant_id=row["tenant_id"] or None,
                    content=row["content"],
                    metadata=row["metadata"],
                    vector=vector,
                )
            )
        refused = {one for result in upsert_all(self._store, self._spec, points) for one in result.failed}
        lost += [row for row in rows if row["point_id"] in refused]
        points = [point for point in points if point.point_id not in refused]
        unserved = set(self._ledger.documents.unserved(self._collection.generation_id))
        marked = [point.point_id for point in points if point.point_id in unserved]
        if marked:
            self._store.set_stale(self._spec, marked)
        self._store.flush(self._spec)
        self._vectors.settle(list(vectors))
        return len(points), lost

    def _different(self, point_ids: Sequence[bytes], sample: int) -> list[bytes]:
        """Of a sample of points: those whose vector is not the one that was paid for, or not usable at all."""
        chosen = random.Random(0).sample(point_ids, min(sample, len(point_ids)))
        different: list[bytes] = []
        for start in range(0, len(chosen), _BATCH):
            self._tell("comparing vectors", start, len(chosen))
            different += self._different_of(chosen[start : start + _BATCH])
        return different

    def _different_of(self, chosen: Sequence[bytes]) -> list[bytes]:
        stored = self._store.vectors(self._spec, chosen)
        rows = self._ledger.documents.contents(chosen)
        hashes = {row["point_id"]: row["embedding_hash"] or row["text_hash"] for row in rows}
        paid = self._ledger.embeddings.get(self._collection.fingerprint, list(hashes.values()))
        written = self._ledger.documents.vector_hashes(self._collection.generation_id, chosen)
        return [
            point
            for point in chosen
            if _differs(stored.get(point), paid.get(hashes[point]), self._spec.metric)
            or (point in written and hash_of(vector_bytes(stored[point])) != written[point])
        ]

    def _told(self, stage: str, items: Iterable[Row], total: int | None) -> Iterator[Row]:
        """The items, with a word now and then on how many have come."""
        for done, item in enumerate(items):
            if done % _BATCH == 0:
                self._tell(stage, done, total)
            yield item

    def _tell(self, stage: str, done: int, total: int | None) -> None:
        if self._progress:
            self._progress(Progress(stage, done, total))


def _differs(stored: Vector | None, paid: Vector | None, metric: Metric) -> bool:
    if stored is None or not np.isfinite(stored).all():
        return True
    if paid is None:
        return False
    if metric == "cosine":  # the direction counts: some stores keep nothing else
        stored, paid = prepared(stored, metric), prepared(paid, metric)
    return not np.allclose(stored, paid, rtol=1e-3, atol=1e-4)
