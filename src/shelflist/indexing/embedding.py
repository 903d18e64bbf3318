"""Vectors for new chunks: from the chunk itself, from the store, from the cache, and only then from the embedder."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set

import numpy as np

from shelflist.core.errors import ConfigError, EmbedderError, EmbedderMismatch, Transient
from shelflist.core.log import log
from shelflist.core.types import SyncReport, Vector
from shelflist.embedders.asking import named_errors, token_counts
from shelflist.generation import Generation
from shelflist.indexing.plan import PlannedDocument
from shelflist.ledger.leases import Owner
from shelflist.ledger.revisions import Condemned

_TEXTS_PER_CALL = 1024
_GIVE_UP_AFTER = 8
_WAIT = 0.05
_SLOW_WAIT = 5.0


class VectorSource:
    """Finds or makes vectors for one collection; what was paid for is cached before anything else happens."""

    def __init__(self, generation: Generation) -> None:
        self._ledger = generation.ledger
        self._store = generation.store
        self._spec = generation.spec
        self._collection = generation.record
        self._embedder = generation.embedder
        self._own_rows_serve = generation.together

    def fill(self, planned: Sequence[PlannedDocument], report: SyncReport) -> dict[bytes, Vector]:
        """Vectors by text hash for every new chunk without one. Chunks whose text cannot be embedded get an `error`."""
        texts: dict[bytes, str] = {}
        fresh: set[bytes] = set()
        for one in planned:
            fresh |= one.fresh
            texts.update((chunk.text_hash, chunk.content) for chunk in one.revision.new if chunk.embedding_hash is None)
        if not texts:
            return {}
        vectors = self.known([one for one in texts if one not in fresh])
        report.cached += len(vectors)
        missing = [one for one in texts if one not in vectors]
        counts = self._token_counts(texts)
        self._warn_of_cut_texts(planned, counts, report)
        errors = self._embed(missing, texts, vectors, report, counts, fresh)
        for planned_document in planned:
            for chunk in planned_document.revision.new:
                chunk.token_count = counts.get(chunk.text_hash)
                if chunk.embedding_hash is None and chunk.text_hash in errors:
                    chunk.error = errors[chunk.text_hash]
                    chunk.attempts += 1
        return vectors

    def _token_counts(self, texts: dict[bytes, str]) -> dict[bytes, int]:
        """Of all new texts: a chunk has its count, and a cut one is named, also where the vector is there already."""
        if self._embedder is None:
            return {}
        return dict(zip(texts, token_counts(self._embedder, list(texts.values())), strict=True))

    def _warn_of_cut_texts(
        self, planned: Sequence[PlannedDocument], counts: dict[bytes, int], report: SyncReport
    ) -> None:
        """The model reads no more than its limit: say which documents lose the end of a chunk."""
        limit = self._embedder.max_tokens if self._embedder else None
        if limit is None:
            return
        for one in planned:
            cut = [chunk.position for chunk in one.revision.new if counts.get(chunk.text_hash, 0) > limit]
            if cut:
                report.warnings.append(
                    f"{one.revision.document_id}: {len(cut)} chunks are longer than the {limit} tokens that the embedder "
                    f"reads (first: position {cut[0]}); their ends are not in the vectors. Cut smaller chunks."
                )

    def for_texts(self, texts: dict[bytes, str], report: SyncReport) -> dict[bytes, Vector]:
        """Vectors of texts by their hash, embedded where none exists; texts that cannot be embedded are left out."""
        vectors = self.known(list(texts))
        missing = [one for one in texts if one not in vectors]
        if missing and self._embedder is not None:
            self._embed(missing, texts, vectors, report, {}, set())
        return vectors

    def known(self, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
        """Vectors that exist already: cached, or in the store under a point with the same text."""
        vectors = self._ledger.embeddings.get(self._collection.fingerprint, hashes)
        rest = [one for one in hashes if one not in vectors]
        if rest:
            points = self._ledger.documents.indexed_by_text(self._collection.generation_id, rest)
            stored = self._store.vectors(self._spec, list(points.values()))
            vectors.update((text, stored[point]) for text, point in points.items() if point in stored)
        return vectors

    def remember(self, vectors: dict[bytes, Vector]) -> None:
        if vectors:
            self._ledger.embeddings.put(self._collection.fingerprint, vectors)

    def keep(self, condemned: Sequence[Condemned]) -> None:
        """These points are about to go: cache the vectors that nothing else has."""
        hashes = {one.point_id: one.text_hash for one in condemned if one.embedding_hash is None}
        texts = list(set(hashes.values()))
        going = frozenset(one.chunk_key for one in condemned)
        # A text that stands elsewhere has its vector there, perhaps a newer one than this.
        served = {
            *self._ledger.documents.indexed_by_text(self._collection.generation_id, texts, avoid=going),
            *self._ledger.embeddings.get(self._collection.fingerprint, texts),
        }
        stored = self._store.vectors(self._spec, [point for point, text in hashes.items() if text not in served])
        self.remember({hashes[point]: vector for point, vector in stored.items()})

    def settle(self, hashes: Sequence[bytes]) -> None:
        """These texts are in the store. Where its rows serve as the cache, a second copy is not kept."""
        if self._own_rows_serve:
            self._ledger.embeddings.forget(self._collection.fingerprint, hashes)

    def _embed(
        self,
        missing: Sequence[bytes],
        texts: dict[bytes, str],
        vectors: dict[bytes, Vector],
        report: SyncReport,
        counts: dict[bytes, int],
        fresh: Set[bytes],
    ) -> dict[bytes, str]:
        """Fill `vectors`; the errors of texts that cannot be embedded. What another writer is embedding is waited for.

        `fresh`: texts whose known vectors are not wanted.
        """
        errors: dict[bytes, str] = {}
        if missing and self._embedder is None:
            raise EmbedderError(f"The collection {self._collection.name!r} has no embedder for new texts.")
        while missing:
            elsewhere = self._embed_own(missing, texts, vectors, report, counts, fresh, errors)
            self._wait_for(elsewhere)
            found = self.known(elsewhere)
            report.cached += len(found)
            vectors.update(found)
            missing = [one for one in elsewhere if one not in found]
        return errors

    def _embed_own(
        self,
        missing: Sequence[bytes],
        texts: dict[bytes, str],
        vectors: dict[bytes, Vector],
        report: SyncReport,
        counts: dict[bytes, int],
        fresh: Set[bytes],
        errors: dict[bytes, str],
    ) -> list[bytes]:
        """Embed what nobody else is embedding; returns the rest."""
        cache, space = self._ledger.embeddings, self._collection.fingerprint
        owner = Owner().name
        elsewhere: list[bytes] = []
        for start in range(0, len(missing), _TEXTS_PER_CALL):
            part = missing[start : start + _TEXTS_PER_CALL]
            own = cache.claim(space, part, owner)
            elsewhere += [one for one in part if one not in own]
            try:
                # Looked for once more: somebody may have made and let go of them since they were found to be missing.
                found = self.known([one for one in own if one not in fresh])
                wanted = [one for one in part if one in own and one not in found]
                made = self._embed_part(wanted, texts, errors) if wanted else {}
            except BaseException:
                cache.release(space, owner)
                raise
            report.embedded += len(made)
            report.tokens += sum(counts.get(one, 0) for one in made)
            with self._ledger.database.write():
                self.remember(made)
                cache.release(space, owner)
            report.cached += len(found)
            vectors.update(found | made)
        return elsewhere

    def _wait_for(self, hashes: Sequence[bytes]) -> None:
        """Until nobody is at work on these texts: their vectors are there, or are ours to make."""
        waited = 0.0
        while hashes and self._ledger.embeddings.are_claimed(self._collection.fingerprint, hashes):
            if waited >= _SLOW_WAIT:
                log.warning("Waiting for another writer that embeds %d of the same texts.", len(hashes))
                waited = float("-inf")
            time.sleep(_WAIT)
            waited += _WAIT

    def _embed_part(
        self, part: Sequence[bytes], texts: dict[bytes, str], errors: dict[bytes, str]
    ) -> dict[bytes, Vector]:
        """One call; if it fails for good, one call a text, so that a bad text does not take the others with it."""
        try:
            rows = self._call([texts[one] for one in part])
            bad = [not (row.any() and np.isfinite(row).all()) for row in rows]
            for i in [i for i, is_bad in enumerate(bad) if is_bad]:
                errors[part[i]] = "The embedder returned NaN, infinity or only zeros."
            return {one: rows[i] for i, one in enumerate(part) if not bad[i]}
        except Exception as error:
            if isinstance(error, (Transient, EmbedderMismatch, ConfigError)):  # no text is to blame
                raise
            if len(part) == 1:
                errors[part[0]] = str(error) or type(error).__name__
                return {}
        made: dict[bytes, Vector] = {}
        for tried, one in enumerate(part):
            made.update(self._embed_part([one], texts, errors))
            if tried + 1 == _GIVE_UP_AFTER and not made:
                raise EmbedderError(errors[one])  # not the texts but the embedder is at fault
        return made

    def _call(self, texts: Sequence[str]) -> Vector:
        assert self._embedder is not None
        with named_errors(self._embedder):
            rows = np.asarray(self._embedder.embed_documents(texts), dtype=np.float32)
        if rows.shape != (len(texts), self._collection.dimensions):
            raise EmbedderError(
                f"{self._embedder.fingerprint} returned an array of shape {rows.shape} for {len(texts)} texts; the "
                f"collection has {self._collection.dimensions} dimensions."
            )
        return rows
