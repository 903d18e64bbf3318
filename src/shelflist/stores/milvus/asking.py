"""How a Milvus collection is asked: the dense, keyword and hybrid legs, counts, and every matching row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np

from shelflist.core.capabilities import Capabilities
from shelflist.core.errors import TenantRequired, UnsupportedIndex
from shelflist.core.fields import FieldType
from shelflist.core.locks import ProcessLock
from shelflist.core.types import Candidate, Candidates, Flat, Hnsw, Ivf, Metric, SearchParams, Vector
from shelflist.engine import exact
from shelflist.stores.milvus.filters import MilvusFilters, held, one_of, text
from shelflist.stores.milvus.link import Client, Link
from shelflist.stores.milvus.rows import METRICS, NLIST, PARTITIONS, SPARSE, VECTOR, padded, vector_of
from shelflist.stores.protocol import GenerationSpec, Scope

Consistency = Literal["Strong", "Bounded"]
_Way = tuple[str, dict[str, int], int]
"""A sentence for the plan, settings of the index, and into how many slices the rows are cut."""

MOST = 16_384
"""Most rows that one search may return."""

_COUNT = ("count(*)",)
_IDS = 2**32
_INDEXED = 'index_status == "indexed"'
_EF, _MOST_EF = 128, 32_768
_SLICES = 24
"""Slices of which none is more than 7 % of a segment, chance included."""
_NEARLY_ALL = 0.75
_SCANNED_ANYWAY = 4_000
"""Rows below which Milvus builds no index and no approximation."""
_REMEMBERED, _MOST_KNOWN = 30.0, 1_000
_PAGE_ROWS, _PAGE_BYTES = 8_192, 8_000_000
_TERMS = 1_024
_RRF = 60
_OVERSAMPLED, _RESCORED = 3, 50
"""How many times the limit, and how many at least, are asked of quantized vectors and put in order by whole ones."""


class Asking:
    """Questions to one collection. `columns`: its fields; `condition`: the scope as a Milvus expression."""

    def __init__(
        self,
        link: Link,
        spec: GenerationSpec,
        columns: Collection[str],
        capabilities: Capabilities,
        counts: Counts,
    ) -> None:
        self.name = spec.name
        self._link = link
        self._spec = spec
        self._columns = columns
        self._capabilities = capabilities
        self._counts = counts

    def condition(self, scope: Scope) -> str:
        spec = self._spec
        if spec.tenanted and not scope.tenant:
            raise TenantRequired("This collection is searched per tenant. Use collection.tenant(id).")
        parts = [_INDEXED]
        if scope.tenant is not None:
            parts.append(f"tenant_id == {text(held(FieldType.STR, scope.tenant))}")
        if scope.point_ids is not None:
            parts.append(one_of("id", (one.hex() for one in scope.point_ids)))
        if scope.filter is not None:
            parts.append(f"({MilvusFilters(spec.fields, self._capabilities, self._columns).compile(scope.filter)})")
        return " and ".join(parts)

    def count(self, condition: str, consistency: Consistency = "Bounded") -> int:
        return int(self._query(condition, _COUNT, consistency)[0][_COUNT[0]])

    def rows(
        self, ids: Sequence[bytes], fields: Sequence[str], consistency: Consistency = "Bounded"
    ) -> list[Mapping[str, Any]]:
        """The rows with these ids, each once."""
        found: dict[str, Mapping[str, Any]] = {}
        wanted = iter(dict.fromkeys(ids))
        page = self._page(fields)
        while some := list(islice(wanted, page)):
            found.update(
                (row["id"], row) for row in self._query(one_of("id", (i.hex() for i in some)), fields, consistency)
            )
        return list(found.values())

    def _query(self, condition: str, fields: Sequence[str], consistency: Consistency) -> Sequence[Mapping[str, Any]]:
        # Without a limit Milvus 2.3 leaves a row out where another is there twice; a count takes none.
        most = {} if fields == _COUNT else {"limit": MOST}
        found: Sequence[Mapping[str, Any]] = self._link.insist(
            f"query {self._spec.name}",
            lambda client: client.query(
                self._spec.name,
                filter=condition,
                output_fields=list(fields),
                consistency_level=consistency,
                timeout=self._link.timeout,
                **most,
            ),
        )
        return found

    def each(
        self, condition: str, fields: Sequence[str], consistency: Consistency = "Bounded"
    ) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Every matching row, in pages: by ranges of the id, as a query iterator trusts the clock of this machine."""
        expected = self.count(condition, consistency)
        waiting = _parts(0, _IDS, max(1, -(-expected // self._page(fields))))
        while waiting:
            low, high = waiting.pop()
            page = self._query(f"{condition} and {_between(low, high)}", fields, "Bounded")
            if len(page) < MOST:
                yield page
            else:
                waiting += _parts(low, high, 2)

    def index(self) -> Mapping[str, Any]:
        """What Milvus says of the vector index; nothing, if there is none."""
        name, timeout = self._spec.name, self._link.timeout

        def described(client: Client) -> Any:
            names = client.list_indexes(name, field_name=VECTOR, timeout=timeout)
            return client.describe_index(name, names[0], timeout=timeout) if names else {}

        return dict(self._link.insist(f"describe the index of {name}", described))

    def growing(self) -> int:
        """About how many rows Milvus still writes to, and searches by an approximation of its own if they are many."""
        return self.count('id != ""') - int(self.index().get("total_rows", 0))

    def _page(self, fields: Sequence[str]) -> int:
        if VECTOR not in fields:
            return _PAGE_ROWS
        return max(1, min(_PAGE_ROWS, _PAGE_BYTES // (4 * self._spec.dimensions)))

    def dense(self, vector: Vector, *, limit: int, scope: Scope, params: SearchParams) -> Candidates:
        condition = self.condition(scope)
        index = self._spec.index
        if limit > MOST:
            return self._compared(vector, limit, condition, "exact")
        if isinstance(index, Flat):
            return self._all_or_compared(vector, limit, condition, [("flat index, filter first", {}, 1)], certain=True)
        if params.exact or self._is_small(condition):
            whole = self._whole()
            if whole is None:
                return self._compared(vector, limit, condition, "exact")
            return self._all_or_compared(vector, limit, condition, [whole], certain=True)
        ways = self._cells(index, params) if isinstance(index, Ivf) else self._graph(scope, condition, params, limit)
        return self._all_or_compared(vector, limit, condition, ways, certain=False)

    def _is_small(self, condition: str) -> bool:
        index = self._spec.index
        threshold = index.full_scan_threshold if isinstance(index, Hnsw) else None
        return threshold is not None and self._counts.of(self, condition) <= threshold

    def _all_or_compared(
        self, vector: Vector, limit: int, condition: str, ways: Iterable[_Way], *, certain: bool
    ) -> Candidates:
        """Ask in one way after the other until `limit` come, or all that match."""
        for way, settings, slices in ways:
            items = self._near(vector, limit, condition, settings, slices)
            if len(items) == limit:
                return Candidates(items, exact=certain, exhausted=False, plan=way)
            if len(items) >= self.count(condition):
                return Candidates(items, exact=certain, exhausted=True, plan=f"{way}, which are all")
        return self._compared(vector, limit, condition, "the index gave too few, so exact")

    def _cells(self, index: Ivf, params: SearchParams) -> Iterator[_Way]:
        nlist = index.nlist or NLIST
        nprobe = min(nlist, params.nprobe or index.nprobe or max(8, nlist // 8))
        yield f"IVF, nprobe {nprobe}, filter in traversal", {"nprobe": nprobe}, 1
        yield f"IVF, all {nlist} cells", {"nprobe": nlist}, 1

    def _graph(self, scope: Scope, condition: str, params: SearchParams, limit: int) -> Iterator[_Way]:
        own = self._spec.index.ef_search if isinstance(self._spec.index, Hnsw) else None
        require_ef(params.ef_search)
        ef = max(params.ef_search or own or _EF, limit)
        slices = 1 if params.ef_search else self._slices_for(scope, condition)
        if slices > 1:
            yield (
                f"{slices} slices of the rows, each scanned, as the graph misses some under this filter",
                {"ef": ef},
                slices,
            )
        yield f"HNSW, ef {ef}, filter in traversal", {"ef": ef}, 1
        if self._link.version.lite:
            wider = min(_MOST_EF, ef * 8)
            yield f"HNSW, ef {wider}, filter in traversal", {"ef": wider}, 1
        else:
            yield f"HNSW, then {_SLICES} slices of the rows, each scanned", {"ef": ef}, _SLICES

    def _slices_for(self, scope: Scope, condition: str) -> int:
        """Into how many slices a filter is cut: none that few rows match, or nearly all.

        A graph search starves under a filter that a tenth or a half of the rows match: recall .75 to .9, and sometimes
        fewer hits than there are (measured at any ef). Milvus scans instead of following the graph where a filter
        leaves no more than 7 % of a segment, so a slice of the ids on top of the filter is searched exactly.
        """
        if self._link.version.lite or (scope.filter is None and scope.tenant is None):
            return 1
        rows = self._counts.of(self, _INDEXED)
        if self._spec.tenanted:  # its partition is searched alone, and holds about the same part of all others
            own = self._counts.of(self, self.condition(Scope(tenant=scope.tenant)))
            rows = own + (rows - own) // PARTITIONS
        if rows < _SCANNED_ANYWAY:
            return 1
        share = self._counts.of(self, condition) / rows
        return 1 if share > _NEARLY_ALL else max(1, round(share * _SLICES + 0.5))

    def _whole(self) -> _Way | None:
        """How the server compares every row, if it is sure to: not the rows that it still writes to, if they are many."""
        index = self._spec.index
        if self._link.version.lite or (index is not None and index.quantization is not None):
            return None
        if self.growing() >= _SCANNED_ANYWAY:
            return None
        if isinstance(index, Ivf):
            return f"exact, all {index.nlist or NLIST} cells", {"nprobe": index.nlist or NLIST}, 1
        return f"exact, {_SLICES} slices of the rows, each scanned", {"ef": MOST}, _SLICES

    def _first_settings(self, params: SearchParams, limit: int) -> dict[str, int]:
        index = self._spec.index
        if isinstance(index, Flat):
            return {}
        if isinstance(index, Ivf):
            return next(self._cells(index, params))[1]
        return next(self._graph(Scope(), "", params, limit))[1]

    def _found(
        self, field: str, query: Any, limit: int, condition: str, settings: Mapping[str, Any]
    ) -> list[tuple[bytes, float]]:
        found = self._link.insist(
            f"search {self._spec.name}",
            lambda client: client.search(
                self._spec.name,
                data=[query],
                anns_field=field,
                filter=condition,
                limit=limit,
                search_params=dict(settings),
                consistency_level="Bounded",
                timeout=self._link.timeout,
            ),
        )
        return [(bytes.fromhex(hit["id"]), float(hit["distance"])) for hit in found[0]]

    def _near(
        self, vector: Vector, limit: int, condition: str, settings: Mapping[str, int], slices: int
    ) -> list[Candidate]:
        spec = self._spec
        query = padded(spec, vector)
        quantized = spec.index is not None and spec.index.quantization is not None
        depth = min(MOST, max(_OVERSAMPLED * limit, _RESCORED)) if quantized else limit
        effort = {"ef": max(settings["ef"], depth)} if "ef" in settings else {}

        def ask(part: str) -> list[tuple[bytes, float]]:
            asked = {"metric_type": METRICS[spec.metric], "params": {**settings, **effort}}
            return self._found(VECTOR, query, depth, f"{condition} and {part}" if part else condition, asked)

        if slices == 1:
            found = ask("")
        else:
            found = [hit for hits in self._link.threads.map(ask, _slices(slices)) for hit in hits]
        items = [Candidate(point_id, _distance(spec.metric, value)) for point_id, value in found]
        if slices > 1:
            items = sorted(items, key=lambda item: item.value)[:depth]
        return self._rescored(vector, items, limit) if quantized else items

    def _rescored(self, vector: Vector, items: list[Candidate], limit: int) -> list[Candidate]:
        """The best of the candidates by their whole vectors, in that order."""
        best = _Best(self._spec, vector, limit)
        best.add(self.rows([item.point_id for item in items], ["id", VECTOR]))
        return best.items

    def _compared(self, vector: Vector, limit: int, condition: str, why: str) -> Candidates:
        """Compared here, with the vectors of all matching rows."""
        best = _Best(self._spec, vector, limit)
        for page in self.each(condition, ["id", VECTOR]):
            best.add(page)
        return Candidates(
            best.items, exact=True, exhausted=limit >= best.seen, plan=f"{why} over {best.seen:,} matching rows"
        )

    def keyword(self, terms: Sequence[str], *, limit: int, scope: Scope) -> Candidates:
        """`terms`: stems as they stand in the index."""
        condition = self.condition(scope)
        items: list[Candidate] = []
        query = " ".join(_queried(terms))
        while query and len(items) < limit:
            # One search returns no more than MOST; the next one leaves out what the last ones found.
            without = f" and not ({one_of('id', (item.point_id.hex() for item in items))})" if items else ""
            page = self._found(
                SPARSE, query, min(MOST, limit - len(items)), condition + without, {"metric_type": "BM25"}
            )
            # Lite gives BM25 scores as distances: negative.
            items += [Candidate(point_id, abs(value)) for point_id, value in page]
            if len(page) < MOST:
                break
        return Candidates(items, exact=True, exhausted=len(items) < limit, plan="BM25, filter first")

    def hybrid(
        self, terms: Sequence[str], vector: Vector, *, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        """Milvus' own reciprocal rank fusion of both legs; ours of the same legs, where its dense leg comes back short."""
        from pymilvus import AnnSearchRequest, RRFRanker

        spec, condition = self._spec, self.condition(scope)
        settings = self._first_settings(params, max(limit, 100))
        query = " ".join(_queried(terms))
        if not query or limit > MOST or params.exact:
            return self._fused(terms, vector, limit, scope, params)
        depth = min(MOST, max(limit, 100))
        legs = [
            AnnSearchRequest(
                data=[padded(spec, vector)],
                anns_field=VECTOR,
                param={"metric_type": METRICS[spec.metric], "params": settings},
                limit=depth,
                expr=condition,
            ),
            AnnSearchRequest(
                data=[query], anns_field=SPARSE, param={"metric_type": "BM25"}, limit=depth, expr=condition
            ),
        ]
        found = self._link.insist(
            f"hybrid search {self._spec.name}",
            lambda client: client.hybrid_search(
                spec.name,
                reqs=legs,
                ranker=RRFRanker(_RRF),
                limit=limit,
                consistency_level="Bounded",
                timeout=self._link.timeout,
            ),
        )[0]
        items = [Candidate(bytes.fromhex(hit["id"]), float(hit["distance"])) for hit in found]
        exhausted = len(items) < limit and len(items) >= self.count(condition)
        if len(items) < limit and not exhausted:
            return self._fused(terms, vector, limit, scope, params)
        return Candidates(items, exact=False, exhausted=exhausted, plan="Milvus' RRF of HNSW and BM25, filter in both")

    def _fused(
        self, terms: Sequence[str], vector: Vector, limit: int, scope: Scope, params: SearchParams
    ) -> Candidates:
        dense = self.dense(vector, limit=limit, scope=scope, params=params)
        words = self.keyword(terms, limit=limit, scope=scope)
        scores: dict[bytes, float] = {}
        for leg in (dense, words):
            for rank, item in enumerate(leg.items, 1):
                scores[item.point_id] = scores.get(item.point_id, 0.0) + 1 / (_RRF + rank)
        best = sorted(scores.items(), key=lambda pair: -pair[1])[:limit]
        items = [Candidate(point_id, score) for point_id, score in best]
        exhausted = dense.exhausted and len(scores) <= limit
        return Candidates(
            items, exact=False, exhausted=exhausted, plan=f"RRF of two searches: {dense.plan}; {words.plan}"
        )


def require_ef(ef: int | None) -> None:
    if ef is not None and ef > _MOST_EF:
        raise UnsupportedIndex(f"The milvus store takes an ef_search of at most {_MOST_EF:,}, not {ef:,}.")


class Counts:
    """How many rows match a condition, about: remembered for a while, to choose a way by."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, int]] = {}
        self._lock = ProcessLock()

    def of(self, asking: Asking, condition: str) -> int:
        key, now = (asking.name, condition), time.monotonic()
        with self._lock:
            then, count = self._known.get(key, (0.0, -1))
        if count < 0 or now - then > _REMEMBERED:
            count = asking.count(condition)
            with self._lock:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[key] = (now, count)
        return count


class _Best:
    """The nearest of all rows that pass by."""

    def __init__(self, spec: GenerationSpec, vector: Vector, limit: int) -> None:
        self._spec = spec
        self._query = exact.prepared(vector, spec.metric)
        self._limit = limit
        self.items: list[Candidate] = []
        self.seen = 0

    def add(self, rows: Sequence[Any]) -> None:
        if not rows:
            return
        self.seen += len(rows)
        matrix = exact.prepared(np.stack([vector_of(self._spec, row) for row in rows]), self._spec.metric)
        found = exact.distances(matrix, self._query, self._spec.metric)
        near = exact.nearest(found, min(self._limit, len(rows)))
        self.items += [Candidate(bytes.fromhex(rows[i]["id"]), float(found[i])) for i in near]
        self.items = sorted(self.items, key=lambda item: item.value)[: self._limit]


def _slices(number: int) -> list[str]:
    """Conditions that cut the ids, which are spread evenly, into `number` parts."""
    return [_between(low, high) for low, high in _parts(0, _IDS, number)]


def _parts(low: int, high: int, number: int) -> list[tuple[int, int]]:
    bounds = [low + (high - low) * i // number for i in range(number)]
    return list(zip(bounds, [*bounds[1:], high], strict=True))


def _between(low: int, high: int) -> str:
    """A condition on the first eight hexadecimal digits of the id."""
    return f'id >= "{low:08x}"' + (f' and id < "{high:08x}"' if high < _IDS else "")


def _queried(terms: Sequence[str]) -> list[str]:
    return [term for term, repeated in Counter(terms).most_common(_TERMS) for _ in range(repeated)]


def _distance(metric: Metric, value: float) -> float:
    if metric == "cosine":
        return 1.0 - value
    return -value if metric == "dot" else float(np.sqrt(max(0.0, value)))
