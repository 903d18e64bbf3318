"""The dense leg on Chroma: the graph with or without a filter of Chroma's, or every matching vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import StoreError, TenantRequired, Transient
from shelflist.core.types import Candidate, Candidates, Hnsw, SearchParams, Vector
from shelflist.engine.exact import distances, nearest, prepared
from shelflist.stores.chroma.filters import MAX_VARIABLES, ChromaFilterCompiler, Condition, all_of, matching, one_of
from shelflist.stores.chroma.link import IDS_A_REQUEST, Link, parts_of
from shelflist.stores.chroma.records import point_id, read, record_id, vectors_of
from shelflist.stores.protocol import GenerationSpec, Scope

STALE = one_of("index_status", "$eq", "stale")
_NOT_STALE = one_of("index_status", "$ne", "stale")

_EF_SEARCH = 200
"""On 100,000 chunks of documentation: recall@10 .93 at Chroma's own 100, .97 at 200, for 1.3 ms more."""
_EFFORT_AMONG_MANY = 400
_MANY = 10_000
"""Recall@10 under a filter of 20,000 rows that is correlated against the query: .88 at 100, .95 at 200, .98 at 400."""

_LOOKED_AT = 100
_MOST_LOOKED_AT = 400
_SURE = 4
_MARGIN = 1.5
_MOST_REMEMBERED = 1_000
_FORGOTTEN_AFTER = 200
_TRIES = 4
_WORTH_A_TRY = 0.2
_ROWS_BY_ID = 2_000
_FLOATS_AT_ONCE = 200_000
_FLOATS_KEPT = 50_000_000


def ef_search(spec: GenerationSpec) -> int:
    """The effort of a search that the graph is made with: Chroma takes no other later."""
    chosen = spec.index.ef_search if isinstance(spec.index, Hnsw) else None
    return chosen or _EF_SEARCH


class Searcher:
    """Answers `Store.search` and `Store.count`."""

    def __init__(self, link: Link, capabilities: Capabilities) -> None:
        self._link = link
        self._capabilities = capabilities
        self._known = _Memory()
        self._compared: tuple[str, list[str], Vector] | None = None

    def search(self, spec: GenerationSpec, query: Vector, limit: int, scope: Scope, params: SearchParams) -> Candidates:
        condition = self._condition(spec, scope)
        threshold = spec.index.full_scan_threshold if isinstance(spec.index, Hnsw) else None
        if params.exact or (threshold is not None and self.count(spec, scope) <= threshold):
            return self._exact(spec, query, limit, self._matching(spec, scope, condition))
        effort = max(limit, params.ef_search or 0)
        if scope.point_ids is not None or condition.variables > MAX_VARIABLES:
            return self._among(spec, query, limit, effort, self._matching(spec, scope, condition))
        if scope.filter is None and scope.tenant is None:
            answer = self._unfiltered(spec, query, limit, effort)
            return answer or self._under_filter(spec, query, limit, effort, condition)
        most = self._at_once(spec)
        known = self._known.of(spec.name, scope)
        if known.matches is not None and known.matches <= most:
            answer = self._few(spec, query, limit, condition, most, known)
            if answer is not None:
                return answer
        if not spec.tenanted and not known.is_in_vain:  # a tenant has to go into the search itself
            answer = self._filtered_afterwards(spec, query, limit, effort, scope, known)
            if answer is not None:
                return answer
        if known.matches is None:
            answer = self._few(spec, query, limit, condition, most, known)
            if answer is not None:
                return answer
        if known.matches is None or known.matches > _MANY:
            effort = max(effort, _EFFORT_AMONG_MANY)
        return self._under_filter(spec, query, limit, effort, condition)

    def _under_filter(
        self, spec: GenerationSpec, query: Vector, limit: int, effort: int, condition: Condition
    ) -> Candidates:
        where = condition.to_json()
        answer = self._ask(spec, query, ["distances"], where=where, n_results=effort)
        found = _nearest(spec, answer)
        if len(found) < limit:
            ids = self._link.ids(spec.name, where=where)
            if not ids <= {one for one, _ in found}:
                return self._exact(spec, query, limit, ids)
        return _candidates(found, limit, exhausted=len(found) < limit, plan="HNSW under Chroma's filter")

    def _few(
        self, spec: GenerationSpec, query: Vector, limit: int, condition: Condition, most: int, known: _Known
    ) -> Candidates | None:
        """Exact, if few records match: under a filter that lets little through, the graph is searched from end to end."""
        where = condition.to_json()
        found = self._link.ask(spec.name, "get", where=where, include=["embeddings"], limit=most + 1)
        known.matches = len(found["ids"])
        if known.matches > most:
            known.matches = len(self._link.ids(spec.name, where=where))
            return None
        parts = [(found["ids"], vectors_of(spec, found))] if found["ids"] else []
        return _compared(spec, query, limit, parts)

    def _unfiltered(self, spec: GenerationSpec, query: Vector, limit: int, effort: int) -> Candidates | None:
        """The nearest without the stale ones; None if too many of those are in the way."""
        found = self._ask(spec, query, ["distances", "metadatas"], n_results=max(effort, limit + 2 + limit // 10))
        items = zip(_nearest(spec, found), found["metadatas"][0], strict=True)
        kept = [one for one, row in items if _is_within(Scope(), spec, row)]
        return None if len(kept) < limit else _candidates(kept, limit, exhausted=False, plan="HNSW")

    def _filtered_afterwards(
        self, spec: GenerationSpec, query: Vector, limit: int, effort: int, scope: Scope, known: _Known
    ) -> Candidates | None:
        """What matches of the nearest that the graph finds without a filter; None if that is not enough.

        A filter of Chroma's costs 10 to 25 µs for each record that it lets through, reading a record .1 ms.
        """
        kept: list[tuple[str, float]] = []
        depth = max(_LOOKED_AT, 2 * limit)
        while depth <= max(_MOST_LOOKED_AT, 2 * limit):
            # The graph is least sure of the last ones that it finds, so it is asked for more than are looked at.
            found = _nearest(spec, self._ask(spec, query, ["distances"], n_results=max(effort, _SURE * depth)))
            rows = self._rows(spec, [one for one, _ in found[:depth]])
            kept = [one for one in found[:depth] if _is_within(scope, spec, rows.get(one[0]))]
            if len(kept) >= limit or len(found) < depth or not kept:
                break
            depth = max(2 * depth, int(_MARGIN * limit * depth / len(kept)))
        known.note(enough=len(kept) >= limit)
        if len(kept) < limit:
            return None
        return _candidates(kept, limit, exhausted=False, plan=f"HNSW, {len(kept)} of whose first {depth} match")

    def _among(self, spec: GenerationSpec, query: Vector, limit: int, effort: int, ids: set[str]) -> Candidates:
        if self._at_once(spec) < len(ids) <= IDS_A_REQUEST:
            try:
                found = _nearest(spec, self._ask(spec, query, ["distances"], ids=sorted(ids), n_results=effort))
            except StoreError as error:
                if isinstance(error, Transient):
                    raise
                found = []  # an id that was deleted a moment ago fails the whole query
            if len(found) >= min(limit, len(ids)):
                return _candidates(found, limit, exhausted=len(ids) <= limit, plan=f"HNSW among {len(ids)} ids")
        return self._exact(spec, query, limit, ids)

    def _at_once(self, spec: GenerationSpec) -> int:
        """Up to so many matching vectors, comparing all of them takes less time than the graph."""
        return max(1, _FLOATS_AT_ONCE // spec.dimensions)

    def _ask(self, spec: GenerationSpec, query: Vector, include: list[str], **how: Any) -> Mapping[str, Any]:
        """What the graph finds, with an effort of at least `n_results`."""
        found: Mapping[str, Any] = self._link.ask(spec.name, "query", query_embeddings=[query], include=include, **how)
        return found

    def _rows(self, spec: GenerationSpec, ids: list[str]) -> dict[str, Mapping[str, Any] | None]:
        found = (
            self._link.ask(spec.name, "get", ids=ids, include=["metadatas"]) if ids else {"ids": [], "metadatas": []}
        )
        return dict(zip(found["ids"], found["metadatas"], strict=True))

    def _exact(self, spec: GenerationSpec, query: Vector, limit: int, wanted: set[str]) -> Candidates:
        """By the vectors of all these ids, of which those of the last such search are kept: points never change."""
        ids = sorted(wanted)
        kept = self._compared
        known = kept is not None and kept[:2] == (spec.name, ids)
        return _compared(spec, query, limit, [(ids, kept[2])] if kept is not None and known else self._read(spec, ids))

    def _read(self, spec: GenerationSpec, ids: list[str]) -> Iterator[tuple[list[str], Vector]]:
        keep = len(ids) * spec.dimensions <= _FLOATS_KEPT
        got: list[str] = []
        rows: list[Vector] = []
        for found in self._link.records(spec, ids, ["embeddings"]):
            vectors = vectors_of(spec, found)
            if keep:
                got += found["ids"]
                rows.append(vectors)
            yield found["ids"], vectors
        if keep and len(got) == len(ids):
            order = np.argsort(np.array(got))
            self._compared = (spec.name, ids, np.concatenate(rows)[order]) if rows else None

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        condition = self._condition(spec, scope)
        whole = condition is _NOT_STALE and scope.point_ids is None
        if whole and not self._link.ids(spec.name, where=STALE.to_json(), limit=1):
            return int(self._link.ask(spec.name, "count"))
        return len(self._matching(spec, scope, condition))

    def _condition(self, spec: GenerationSpec, scope: Scope) -> Condition:
        if spec.tenanted and not scope.tenant:
            raise TenantRequired("This collection is searched per tenant. Use collection.tenant(id).")
        parts = [] if scope.tenant is None else [one_of("tenant_id", "$eq", scope.tenant)]
        if scope.filter is not None:
            parts.append(ChromaFilterCompiler(spec.fields, self._capabilities).compile(scope.filter).yes)
        return all_of([*parts, _NOT_STALE])

    def _matching(self, spec: GenerationSpec, scope: Scope, condition: Condition) -> set[str]:
        """The ids of all records within a scope."""
        if scope.point_ids is None:
            return matching(condition, lambda where: self._link.ids(spec.name, where=where))
        return {
            one
            for part in parts_of(list(map(record_id, scope.point_ids)), IDS_A_REQUEST)
            for one in self._among_ids(spec, part, scope, condition)
        }

    def _among_ids(self, spec: GenerationSpec, ids: list[str], scope: Scope, condition: Condition) -> set[str]:
        # Chroma takes ids and a filter in one request, and then minutes for a few hundred ids.
        if len(ids) <= _ROWS_BY_ID:
            return {one for one, row in self._rows(spec, ids).items() if _is_within(scope, spec, row)}
        there = self._link.ids(spec.name, ids=ids)
        if condition is _NOT_STALE:
            return there - self._link.ids(spec.name, where=STALE.to_json())
        return there & matching(condition, lambda where: self._link.ids(spec.name, where=where))


@dataclass(slots=True)
class _Known:
    """What searches under one filter have shown. A guide only: the answer is right whatever stands here."""

    uses: int = 0
    tries: int = 0
    enough: int = 0
    matches: int | None = None

    @property
    def is_in_vain(self) -> bool:
        return self.tries >= _TRIES and self.enough < _WORTH_A_TRY * self.tries

    def note(self, *, enough: bool) -> None:
        self.tries += 1
        self.enough += enough


class _Memory:
    def __init__(self) -> None:
        self._known: dict[Any, _Known] = {}

    def of(self, name: str, scope: Scope) -> _Known:
        if len(self._known) >= _MOST_REMEMBERED:
            self._known = {}
        key = (name, scope.tenant, scope.filter)
        known = self._known.get(key)
        if known is None or known.uses >= _FORGOTTEN_AFTER:
            known = self._known[key] = _Known()
        known.uses += 1
        return known


def _compared(
    spec: GenerationSpec, query: Vector, limit: int, parts: Iterable[tuple[Sequence[str], Vector]]
) -> Candidates:
    """The nearest of all these vectors, a part at a time."""
    query = prepared(query, spec.metric)
    best: list[tuple[float, str]] = []
    compared = 0
    for ids, vectors in parts:
        values = distances(vectors, query, spec.metric)
        compared += len(values)
        best += [(float(values[i]), ids[i]) for i in nearest(values, limit)]
        best = sorted(best)[:limit]
    items = [Candidate(point_id(one), value) for value, one in best]
    return Candidates(items, exact=True, exhausted=limit >= compared, plan=f"exact over {compared} rows")


def _nearest(spec: GenerationSpec, found: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(id, distance) of what the graph found, nearest first. Chroma gives l2 squared, and dot as 1 - dot."""
    raw = np.asarray(found["distances"][0], dtype=np.float64)
    values = np.sqrt(np.maximum(raw, 0)) if spec.metric == "l2" else raw - 1 if spec.metric == "dot" else raw
    return list(zip(found["ids"][0], values.tolist(), strict=True))


def _is_within(scope: Scope, spec: GenerationSpec, row: Mapping[str, Any] | None) -> bool:
    """Whether a record is indexed and within tenant and filter; one that is deleted meanwhile comes as None."""
    return (
        row is not None
        and row.get("index_status") is None
        and (scope.tenant is None or row.get("tenant_id") == scope.tenant)
        and (scope.filter is None or scope.filter.matches(read(spec.fields, row)))
    )


def _candidates(found: Sequence[tuple[str, float]], limit: int, *, exhausted: bool, plan: str) -> Candidates:
    items = [Candidate(point_id(one), value) for one, value in found[:limit]]
    return Candidates(items, exact=False, exhausted=exhausted, plan=plan)
