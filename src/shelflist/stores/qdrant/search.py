"""The ways to ask a Qdrant collection: the dense leg, the keyword leg, and both fused by the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import TenantRequired
from shelflist.core.filters.nodes import And, parts_of
from shelflist.core.types import Candidate, Candidates, Flat, Hnsw, IndexStatus, SearchParams, Vector
from shelflist.engine.exact import prepared
from shelflist.engine.keywords import Analyzer
from shelflist.stores.protocol import GenerationSpec, Scope, checked_vector
from shelflist.stores.qdrant.client import Connection
from shelflist.stores.qdrant.filters import Condition, QdrantFilters
from shelflist.stores.qdrant.points import DENSE, SPARSE, STATUS, TENANT, as_bytes, as_id, sparse_query

if TYPE_CHECKING:
    from qdrant_client import models

_LEG = 100
"""Candidates of each leg that the server fuses."""
_OVERSAMPLING = {"scalar": 2.0, "binary": 8.0}
"""Candidates that are compared again by whole vectors, for each that is asked for. Recall@10 of 10,000 chunks of 384
numbers by one bit each, with 4 / 8 / 16: .915 / .955 / .983, and .755 / .848 / .915 on servers before 1.15, which reduce
the query to bits as well."""
_ACORN = (1, 16)


class Searches:
    """Reads of one connection. A `limit` is always asked for with one more, which tells whether that was all."""

    def __init__(self, connection: Connection, capabilities: Capabilities, analyzer: Analyzer) -> None:
        self._connection = connection
        self._capabilities = capabilities
        self._analyzer = analyzer

    def dense(self, spec: GenerationSpec, vector: Vector, limit: int, scope: Scope, params: SearchParams) -> Candidates:
        query = prepared(checked_vector(spec, vector), spec.metric).tolist()
        where = self._where(spec, scope)
        if where is None:
            return Candidates((), exact=True, exhausted=True, plan="no ids to search")
        exact = params.exact or _is_exact(spec)
        items = self._nearest(spec, query, limit + 1, where, self._params(spec, scope, params, exact))
        plan = "exact" if exact else "codes, rescored" if isinstance(spec.index, Flat) else "HNSW, filter in traversal"
        if len(items) <= limit and not exact:
            matching = self._count(spec, where)
            if len(items) < matching:
                items = self._nearest(spec, query, limit + 1, where, self._params(spec, scope, params, True))
                exact, plan = True, f"exact, as HNSW came back with fewer than the {matching} that match"
        return Candidates(items[:limit], exact=exact, exhausted=len(items) <= limit, plan=plan)

    def _nearest(
        self, spec: GenerationSpec, query: list[float], limit: int, where: models.Filter, params: models.SearchParams
    ) -> list[Candidate]:
        found = self._connection.ask(
            "query_points",
            spec.name,
            query=query,
            using=DENSE,
            query_filter=where,
            search_params=params,
            limit=limit,
            with_payload=False,
        )
        items = [Candidate(as_bytes(point.id), _distance(spec, point.score)) for point in found.points]
        return sorted(items, key=lambda item: item.value)

    def _params(self, spec: GenerationSpec, scope: Scope, params: SearchParams, exact: bool) -> models.SearchParams:
        from qdrant_client import models

        if exact:
            whole = models.QuantizationSearchParams(ignore=True)
            return models.SearchParams(exact=True, quantization=whole if _quantized(spec) else None)
        ef = params.ef_search or (spec.index.ef_search if isinstance(spec.index, Hnsw) else None)
        rescored = None
        kind = _quantized(spec)
        if kind is not None:
            rescored = models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING[kind])
        asked: dict[str, Any] = {}
        if self._connection().version >= _ACORN and _conditions(scope) > 1:
            # The graph has links for each indexed key alone; under several conditions at once it falls apart.
            asked["acorn"] = models.AcornSearchParams(enable=True)
        return models.SearchParams(hnsw_ef=ef, quantization=rescored, **asked)

    def keyword(self, spec: GenerationSpec, text: str, average: int, limit: int, scope: Scope) -> Candidates:
        where = self._where(spec, scope)
        query = self._sparse(text)
        if where is None or query is None:
            return Candidates((), exact=True, exhausted=True, plan="no terms" if query is None else "no ids to search")
        found = self._connection.ask(
            "query_points",
            spec.name,
            query=query,
            using=f"{SPARSE}{average}",
            query_filter=where,
            limit=limit + 1,
            with_payload=False,
        )
        items = [Candidate(as_bytes(point.id), float(point.score)) for point in found.points if point.score > 0]
        items.sort(key=lambda item: -item.value)
        return Candidates(items[:limit], exact=True, exhausted=len(items) <= limit, plan="BM25 over the sparse index")

    def _sparse(self, text: str) -> models.SparseVector | None:
        from qdrant_client import models

        indices, counts = sparse_query(self._analyzer, text)
        return models.SparseVector(indices=indices, values=counts) if indices else None

    def fused(
        self,
        spec: GenerationSpec,
        text: str,
        average: int,
        vector: Vector,
        limit: int,
        scope: Scope,
        params: SearchParams,
    ) -> Candidates:
        from qdrant_client import models

        query = prepared(checked_vector(spec, vector), spec.metric).tolist()
        sparse = self._sparse(text)
        where = self._where(spec, scope)
        if where is None:
            return Candidates((), exact=True, exhausted=True, plan="no ids to search")
        each = max(_LEG, limit + 1)

        def ask(exact: bool) -> list[Candidate]:
            how = self._params(spec, scope, params, exact)
            legs = [models.Prefetch(query=query, using=DENSE, filter=where, params=how, limit=each)]
            if sparse is not None:
                legs.append(models.Prefetch(query=sparse, using=f"{SPARSE}{average}", filter=where, limit=each))
            found = self._connection.ask(
                "query_points",
                spec.name,
                prefetch=legs,
                query=models.FusionQuery(fusion=models.Fusion.RRF),
                limit=limit + 1,
                with_payload=False,
            )
            return [Candidate(as_bytes(point.id), float(point.score)) for point in found.points]

        exact = params.exact or _is_exact(spec)
        items = ask(exact)
        if len(items) <= limit and not exact and len(items) < self._count(spec, where):
            exact, items = True, ask(True)
        plan = f"RRF of {'exact' if exact else 'HNSW'} and BM25 in the server"
        return Candidates(items[:limit], exact=exact, exhausted=len(items) <= limit, plan=plan)

    def count(self, spec: GenerationSpec, scope: Scope) -> int:
        where = self._where(spec, scope)
        return 0 if where is None else self._count(spec, where)

    def _count(self, spec: GenerationSpec, where: models.Filter) -> int:
        return int(self._connection.ask("count", spec.name, where, exact=True).count)

    def _where(self, spec: GenerationSpec, scope: Scope) -> models.Filter | None:
        """The scope as a filter; None when no point can match."""
        from qdrant_client import models

        if spec.tenanted and not scope.tenant:
            raise TenantRequired("This collection is searched per tenant. Use collection.tenant(id).")
        compiler = QdrantFilters(spec.fields, self._capabilities)
        conditions: list[Condition] = [compiler.match(STATUS, IndexStatus.INDEXED.value)]
        if scope.tenant is not None:
            conditions.append(compiler.match(TENANT, scope.tenant))
        if scope.filter is not None:
            conditions.append(compiler.compile(scope.filter))
        if scope.point_ids is not None:
            if not scope.point_ids:
                return None
            conditions.append(models.HasIdCondition(has_id=[as_id(one) for one in scope.point_ids]))
        return models.Filter(must=conditions)


def _distance(spec: GenerationSpec, score: float) -> float:
    if spec.metric == "cosine":
        return 1.0 - score
    return -score if spec.metric == "dot" else score


def _is_exact(spec: GenerationSpec) -> bool:
    return isinstance(spec.index, Flat) and spec.index.quantization is None


def _quantized(spec: GenerationSpec) -> str | None:
    return spec.index.quantization if spec.index is not None else None


def _conditions(scope: Scope) -> int:
    """How many conditions a search has beside the status, which nearly every point meets."""
    count = int(scope.tenant is not None) + int(scope.point_ids is not None)
    if isinstance(scope.filter, And):
        return count + sum(1 for _ in parts_of(scope.filter))
    return count + int(scope.filter is not None)
