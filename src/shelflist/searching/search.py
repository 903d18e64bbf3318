"""The way out: embed the query, ask the store, check every candidate against the ledger, fuse, explain.

A leg asks for more until enough of its candidates have passed the check or the store has no more: never fewer than
asked in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from shelflist.core.errors import EmbedderMismatch, InvalidInput, SearchUnsettled
from shelflist.core.fields import shown_value
from shelflist.core.filters.nodes import Filter
from shelflist.core.log import log
from shelflist.core.types import (
    Candidate,
    Candidates,
    Explanation,
    Hit,
    Hits,
    IndexStatus,
    Mode,
    SearchParams,
    Vector,
)
from shelflist.embedders.asking import named_errors
from shelflist.engine.exact import distances, prepared, score
from shelflist.generation import Generation
from shelflist.ledger.documents import LiveChunk
from shelflist.searching.fusion import convex, rrf
from shelflist.searching.recall import measure_recall
from shelflist.searching.request import Request
from shelflist.searching.scope import scope_of, unclaimed
from shelflist.stores.protocol import Scope

POOL = 100
"""Candidates that each leg of a hybrid search contributes."""
_TRIES = 50
_SAID: set[bytes] = set()
"""Collections whose store is known to lack chunks, by uid: searchers come and go."""
Answer = TypeVar("Answer")
Ranks = dict[str, dict[bytes, tuple[int, float]]]


@dataclass(slots=True)
class _Leg:
    """What one leg found: live chunks best first, the value of each, and how."""

    ids: list[bytes]
    values: dict[bytes, float]
    live: dict[bytes, LiveChunk]
    exact: bool
    exhausted: bool
    plan: str
    refused: int


class Searcher:
    """`is_outdated`: a hit came whose collection declares other fields than were known here."""

    def __init__(self, generation: Generation) -> None:
        self._ledger = generation.ledger
        self._store = generation.store
        self._spec = generation.spec
        self._collection = generation.record
        self._embedder = generation.embedder
        self._keywords = generation.keywords
        self._together = generation.together
        self._asked: set[bytes] = set()
        self._passed: set[bytes] = set()
        self._since = 0.0
        self._checks: list[bool] = []
        self._declared = generation.record.fields.text
        self.is_outdated = False

    def search(self, text: str | None, vector: Vector | None, tenant: str | None, request: Request) -> Hits:
        """`text` or `vector`; the mode must fit what is given."""
        mode: Mode = request.mode or ("hybrid" if text is not None else "dense")
        if mode != "dense" and text is None:
            raise InvalidInput(
                f"A {mode} search needs the query as text; a vector alone allows mode='dense' (--mode dense)."
            )
        if mode != "keyword" and vector is None:
            assert text is not None
            vector = self.embed(text)
        if mode == "hybrid" and request.fusion == "native":
            self._store.capabilities.require_hybrid()
        wanted = max(request.limit, request.rerank_pool) if request.rerank else request.limit
        one_statement = mode == "dense" and self._joins_live and self._store_takes(request.filter)
        hits = self._steady(
            lambda: self._grouped(text, vector, self._scope(request.filter, tenant), mode, request, wanted),
            one_statement=one_statement,
        )
        if request.rerank:
            hits = _reranked(hits, text or "", request)
        chosen = [hit for hit in hits if request.min_score is None or hit.score >= request.min_score]
        return Hits(chosen[: request.limit], plan=hits.plan, exact=hits.exact, refused=hits.refused)

    def embed(self, text: str) -> Vector:
        if not text.strip():
            raise InvalidInput("The query is empty. Give words to search for, or a vector (--vector FILE).")
        if self._embedder is None:
            raise EmbedderMismatch(
                f"The collection {self._collection.name!r} has no embedder ({self._collection.fingerprint}): search it "
                "with a vector (--vector FILE), or with mode='keyword' (--mode keyword)."
            )
        with named_errors(self._embedder):
            return np.asarray(self._embedder.embed_query(text), dtype=np.float32)

    def ranks(
        self, text: str | None, vector: Vector | None, tenant: str | None, filter: Filter | None
    ) -> tuple[Ranks, str]:
        """Rank (from 1) and value of the matching points in each leg, and fused, and the plan of the search: what `why` shows.
        `text` or `vector`: a vector has no words, so there is one leg and nothing to fuse.

        `exact` and `keyword` rank all of them, `dense` and `hybrid` what an ordinary search looks at: a point that the index
        misses has an exact rank and no other.
        """
        if vector is None and self._embedder is not None:
            assert text is not None
            vector = self.embed(text)
        return self._steady(lambda: self._ranks(text, vector, self._scope(filter, tenant)))

    def recall(self, queries: Sequence[Vector], limit: int, filter: Filter | None, tenant: str | None) -> float:
        """Measured recall@limit of plain dense search against exact search, over these queries."""
        return measure_recall(self._store, self._spec, queries, limit, self._scope(filter, tenant))

    def count(self, filter: Filter | None, tenant: str | None) -> int:
        """How many chunks are live and match."""
        if self._together:
            with self._ledger.database.read():
                return self._store.count(self._spec, self._scope(filter, tenant))
        for _ in range(_TRIES):
            scope = self._scope(filter, tenant)
            # The store also counts what waits for its switch, and what was hidden a moment ago.
            waiting = self._ledger.documents.unserved(self._collection.generation_id)
            stored = self._store.count(self._spec, scope)
            hidden = sum(
                point.index_status == IndexStatus.INDEXED
                and (scope.tenant is None or point.tenant_id == scope.tenant)
                and (scope.filter is None or scope.filter.matches(point.metadata))
                and (scope.point_ids is None or point.point_id in scope.point_ids)
                for point in self._store.get(self._spec, waiting)
            )
            if waiting == self._ledger.documents.unserved(
                self._collection.generation_id
            ) and stored == self._store.count(self._spec, scope):
                return stored - hidden
        raise self._unsettled()

    def _ranks(self, text: str | None, vector: Vector | None, scope: Scope) -> tuple[Ranks, str]:
        total = max(1, self._store.count(self._spec, scope))
        found: Ranks = {}
        plan = ""
        if text is not None:
            leg = self._keyword(text, scope, total)
            found["keyword"] = _ranked(leg.ids, leg.values)
            plan = f"keyword: {leg.plan}"
        if vector is not None:
            leg = self._dense(vector, scope, POOL, SearchParams())
            order, values, plan = leg.ids, leg.values, f"dense: {leg.plan}"
            if text is None:
                # An ordinary search by vector asks for ten, and an index looks less far for them than for a hundred.
                leg = self._dense(vector, scope, Request().limit, SearchParams())
                order = [*leg.ids, *(one for one in order if one not in leg.values)]
                values, plan = {**values, **leg.values}, f"dense: {leg.plan}"
            found["dense"] = _ranked(order, values)
            leg = self._dense(vector, scope, total, SearchParams(exact=True))
            found["exact"] = _ranked(leg.ids, leg.values)
        if text is None or vector is None:
            return found, plan
        hits, order = self._hybrid(text, vector, scope, Request(filter=scope.filter), POOL)
        found["hybrid"] = {one: (rank, hit.score) for rank, (one, hit) in enumerate(zip(order, hits, strict=True), 1)}
        return found, hits.plan

    @property
    def _joins_live(self) -> bool:
        return self._together and self._store.capabilities.joins_live

    def _store_takes(self, filter: Filter | None) -> bool:
        return filter is None or not unclaimed(filter, self._spec.fields, self._store.capabilities)

    def _scope(self, filter: Filter | None, tenant: str | None) -> Scope:
        generation = self._collection.generation_id
        scope = scope_of(self._store, self._ledger, self._spec, generation, filter, tenant)
        if self._joins_live:
            clause = self._ledger.documents.live_clause(self._collection.collection_id, generation, tenant)
            scope = replace(scope, live=clause)
        return scope

    def _steady(self, ask: Callable[[], Answer], *, one_statement: bool = False) -> Answer:
        """An answer during which no document that it touches moved: one snapshot, or asked again until none did.

        The store answers before the ledger checks, and each leg for itself: a switch in between would show the old
        revision in one leg and the new one in the other, or neither. `one_statement`: store and check are one.
        """
        if one_statement:
            return ask()
        if self._together:
            with self._ledger.database.read():
                return ask()
        for _ in range(_TRIES):
            self._since = self._ledger.database.now()
            self._asked, self._passed, self._checks = set(), set(), []
            answer = ask()
            if len(self._checks) == 1:  # all of the answer is of the moment of its one check
                has_moved = self._checks[0]
            else:
                asked, passed = list(self._asked), list(self._passed)
                has_moved = self._ledger.documents.moved(self._collection.generation_id, asked, passed, self._since)
            # A clock that was set back meanwhile hides what moved.
            if not has_moved and self._ledger.database.now() >= self._since:
                return answer
        raise self._unsettled()

    def _unsettled(self) -> SearchUnsettled:
        return SearchUnsettled(
            f"Documents of {self._collection.name!r} kept changing while {_TRIES} tries of this search looked at them. "
            "Search again."
        )

    def _grouped(
        self, text: str | None, vector: Vector | None, scope: Scope, mode: Mode, request: Request, wanted: int
    ) -> Hits:
        asked = wanted
        while True:
            hits, exhausted = self._one_mode(text, vector, scope, mode, request, asked)
            if request.group_by is None:
                return hits
            best: dict[tuple[str | None, str], Hit] = {}
            for hit in hits:
                best.setdefault((hit.tenant, hit.document_id), hit)
            if len(best) >= wanted or exhausted:
                return Hits(list(best.values())[:wanted], plan=hits.plan, exact=hits.exact, refused=hits.refused)
            asked *= 4

    def _one_mode(
        self, text: str | None, vector: Vector | None, scope: Scope, mode: Mode, request: Request, wanted: int
    ) -> tuple[Hits, bool]:
        """Hits, and whether no more could be found by asking for more."""
        if mode == "hybrid":
            assert text is not None and vector is not None
            if request.fusion == "native":
                return self._native(text, vector, scope, request, wanted)
            hits, _ = self._hybrid(text, vector, scope, request, wanted)
            return hits, len(hits) < wanted
        if mode == "dense":
            assert vector is not None
            leg = self._dense(vector, scope, wanted, request.params)
        else:
            assert text is not None
            leg = self._keyword(text, scope, wanted)
        hits_of_leg = []
        for rank, one in enumerate(leg.ids, 1):
            value = leg.values[one]
            if mode == "dense":
                similarity = score(value, self._spec.metric)
                hits_of_leg.append(self._hit(leg.live[one], similarity, value, Explanation(rank, similarity)))
            else:
                explanation = Explanation(keyword_rank=rank, keyword_score=value)
                hits_of_leg.append(self._hit(leg.live[one], value, None, explanation))
        plan = f"{mode}: {leg.plan}"
        return Hits(hits_of_leg, plan=plan, exact=leg.exact, refused=leg.refused), len(leg.ids) < wanted

    def _hybrid(
        self, text: str, vector: Vector, scope: Scope, request: Request, wanted: int
    ) -> tuple[Hits, list[bytes]]:
        pool = max(POOL, wanted)
        dense = self._dense(vector, scope, pool, request.params)
        keyword = self._keyword(text, scope, pool)
        live = {**dense.live, **keyword.live}
        raw = dict(dense.values)
        raw.update(self._distances(vector, [one for one in keyword.ids if one not in raw]))
        similarity = {one: score(value, self._spec.metric) for one, value in raw.items()}
        alpha = request.alpha
        if request.fusion == "rrf":
            fused = rrf(dense.ids, keyword.ids, 0.5 if alpha is None else alpha)
        else:
            if alpha is None:
                assert self._embedder is not None  # only a text is searched for in both legs, and this embedded it
                alpha = self._embedder.fusion_alpha
            fused = convex(similarity, keyword.values, alpha, self._spec.metric)
        order = sorted(fused, key=lambda one: (-fused[one], live[one].chunk_id))[:wanted]
        dense_rank = {one: rank for rank, one in enumerate(dense.ids, 1)}
        keyword_rank = {one: rank for rank, one in enumerate(keyword.ids, 1)}
        hits = [
            self._hit(
                live[one],
                fused[one],
                raw.get(one),
                Explanation(
                    dense_rank=dense_rank.get(one),
                    dense_score=similarity.get(one),
                    keyword_rank=keyword_rank.get(one),
                    keyword_score=keyword.values.get(one),
                ),
            )
            for one in order
        ]
        plan = f"hybrid ({request.fusion}): {dense.plan}; {keyword.plan}"
        refused = dense.refused + keyword.refused
        return Hits(hits, plan=plan, exact=dense.exact and keyword.exact, refused=refused), order

    def _native(self, text: str, vector: Vector, scope: Scope, request: Request, wanted: int) -> tuple[Hits, bool]:
        """Fused by the store itself, with its scores; the ledger checks what comes as on any leg.

        Where its fusion has fewer than match, as one over two short lists may, ours answers in its place, and says so.
        """
        leg = self._leg(
            lambda limit: self._store.hybrid_search(
                self._spec, text, vector, limit=limit, scope=scope, params=request.params
            ),
            scope,
            wanted,
        )
        if len(leg.ids) < wanted and len(leg.ids) < self._store.count(self._spec, scope) - leg.refused:
            hits_of_ours, _ = self._hybrid(text, vector, scope, replace(request, fusion="convex"), wanted)
            plan = f"{hits_of_ours.plan}, as the store's own fusion came with {len(leg.ids)}"
            return Hits(hits_of_ours, plan=plan, exact=hits_of_ours.exact, refused=hits_of_ours.refused), len(
                hits_of_ours
            ) < wanted
        hits = [self._hit(leg.live[one], leg.values[one], None, Explanation()) for one in leg.ids]
        return Hits(hits, plan=f"hybrid (native): {leg.plan}", exact=leg.exact, refused=leg.refused), len(hits) < wanted

    def _dense(self, vector: Vector, scope: Scope, wanted: int, params: SearchParams) -> _Leg:
        leg = self._leg(
            lambda limit: self._store.search(self._spec, vector, limit=limit, scope=scope, params=params), scope, wanted
        )
        if leg.exhausted and len(leg.ids) < wanted and scope.filter is None and scope.point_ids is None:
            self._warn_of_lost_chunks(len(leg.ids), scope)
        return leg

    def _warn_of_lost_chunks(self, came: int, scope: Scope) -> None:
        """Say it, once until it is mended, if the store has fewer chunks than the ledger knows to be searchable."""
        generation, documents = self._collection.generation_id, self._ledger.documents
        expected = documents.indexed(generation, scope.tenant)
        if came >= expected:
            _SAID.discard(self._collection.uid)
            return
        # What was written or removed since the store answered is not lost: both are asked again, the store in between.
        stored = self._store.count(self._spec, scope)
        expected = min(expected, documents.indexed(generation, scope.tenant))
        if stored < expected and self._collection.uid not in _SAID:
            _SAID.add(self._collection.uid)
            log.warning(
                "The store of the collection %r has %d of the %d chunks that its ledger knows to be searchable, so searches "
                "miss the others. See what is missing with: shelflist verify. Fill it again with: shelflist repair",
                self._collection.name,
                stored,
                expected,
            )

    def _keyword(self, text: str, scope: Scope, wanted: int) -> _Leg:
        if self._keywords is None:
            return self._leg(
                lambda limit: self._store.keyword_search(self._spec, text, limit=limit, scope=scope), scope, wanted
            )
        keywords = self._keywords

        def ask(limit: int) -> Candidates:
            found = keywords.search(text, limit=limit, tenant=scope.tenant)
            items = [Candidate(point_id, value) for point_id, value in found.items]
            return Candidates(items, exact=True, exhausted=found.exhausted, plan="keywords beside the ledger")

        ids = None if scope.point_ids is None else frozenset(scope.point_ids)
        return self._leg(
            ask,
            scope,
            wanted,
            lambda chunk: (
                (scope.filter is None or scope.filter.matches(chunk.metadata))
                and (ids is None or chunk.point_id in ids)
            ),
        )

    def _leg(
        self,
        ask: Callable[[int], Candidates],
        scope: Scope,
        wanted: int,
        matches: Callable[[LiveChunk], bool] | None = None,
    ) -> _Leg:
        """Ask for more until enough candidates pass the ledger's check and `matches`, or none are left."""
        limit, came = wanted, -1
        documents = self._ledger.documents
        whose = (self._collection.collection_id, self._collection.generation_id)
        while True:
            found = ask(limit)
            ids = [point_id for point_id, _ in found.items]
            if found.live is not None:
                live = documents.live_from(found.live)
            elif self._together:
                live = documents.live(*whose, ids, scope.tenant)
            else:
                live, has_moved = documents.live_since(*whose, ids, scope.tenant, self._since)
                self._checks.append(has_moved)
            refused = len(ids) - len(live)
            passed = [one for one in ids if one in live and (matches is None or matches(live[one]))]
            if len(passed) >= wanted or found.exhausted or len(ids) <= came:  # or asking for more brought no more
                break
            came = len(ids)
            limit = limit * 2 + len(ids) - len(passed)
        self._asked.update(ids)
        self._passed.update(passed)
        values = dict(found.items)
        chosen = passed[:wanted]
        return _Leg(
            ids=chosen,
            values={one: values[one] for one in chosen},
            live=live,
            exact=found.exact,
            exhausted=found.exhausted,
            plan=found.plan,
            refused=refused,
        )

    def _distances(self, vector: Vector, point_ids: Sequence[bytes]) -> dict[bytes, float]:
        vectors = self._store.vectors(self._spec, point_ids)
        if not vectors:
            return {}
        metric = self._spec.metric
        found = distances(prepared(np.stack(list(vectors.values())), metric), prepared(vector, metric), metric)
        return dict(zip(vectors, found.tolist(), strict=True))

    def _hit(self, chunk: LiveChunk, value: float, distance: float | None, explanation: Explanation) -> Hit:
        _, chunk_id, document_id, tenant, content, metadata, section, position, declared = chunk
        self.is_outdated = self.is_outdated or declared != self._declared
        shown, named = self._collection.fields.shown(metadata), str_id(chunk_id)
        return Hit(value, distance, content, document_id, named, shown, section, position, tenant, explanation)


def str_id(raw: bytes) -> str:
    """16 bytes as the usual text of a UUID."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _ranked(ids: Sequence[bytes], values: dict[bytes, float]) -> dict[bytes, tuple[int, float]]:
    return {one: (rank, values[one]) for rank, one in enumerate(ids, 1)}


def _reranked(hits: Hits, text: str, request: Request) -> Hits:
    assert request.rerank is not None
    given = request.rerank(text, tuple(hits))
    try:
        scores = np.asarray(list(given))
    except (TypeError, ValueError) as error:
        raise _no_scores(hits, given) from error
    if scores.shape != (len(hits),) or scores.dtype.kind not in "fiub" or not np.isfinite(scores).all():
        raise _no_scores(hits, given)
    scored = [
        replace(hit, score=one, explanation=replace(hit.explanation, rerank_score=one))
        for hit, one in zip(hits, scores.astype(float).tolist(), strict=True)
    ]
    scored.sort(key=lambda hit: -hit.score)
    return Hits(scored, plan=f"{hits.plan}; reranked {len(scored)}", exact=hits.exact, refused=hits.refused)


def _no_scores(hits: Hits, given: object) -> InvalidInput:
    return InvalidInput(
        f"The reranker must return one finite score a hit: {len(hits)} hits, got {type(given).__name__} "
        f"{shown_value(given)}."
    )
