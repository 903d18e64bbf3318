"""The embedded store's vector search beside raw hnswlib, raw FAISS and Qdrant's core (qdrant-edge), in one process.

    python bench/engine.py                      # 100,000 rows, every filter; about ten minutes
    python bench/engine.py --rows 50000 --filters none,source_50 --rounds 1

Shelflist is asked through `collection.search`: ten hits with text and metadata, checked against the ledger. qdrant-edge
returns its payload (text and metadata) and filters on it, each filter AND an `index_status`. hnswlib and FAISS return ids
alone, and are asked without a filter only. All are asked query by query in turn. Before that each of the others is set to
the least effort that reaches the recall wanted, on queries of their own; Shelflist chooses for itself, and is not told.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filtered
import report
from raw import EF_CONSTRUCTION, FIELDS, M, Rows

WANTED = 0.95
EFFORTS = (10, 16, 24, 32, 48, 64, 80, 96, 128, 160, 200, 256, 320, 400, 512, 768, 1024, 2048)
Ask = Callable[[int], Sequence[int]]
"""Asks the query of that number; row numbers, best first."""


class Shelflist:
    name = "shelflist"

    def __init__(self, rows: Rows, place: Path) -> None:
        import shelflist

        self._open = lambda: shelflist.open(
            f"file:{place}",
            "bench",
            embedder=None,
            fingerprint="all-MiniLM-L6-v2",
            dimensions=rows.vectors.shape[1],
            fields={**FIELDS, "row": int},
        )
        documents = filtered.documents(rows)
        started = time.perf_counter()
        with self._open() as collection:
            collection.sync_all(documents, source="bench")
            self.searchable = time.perf_counter() - started
        self.loaded = time.perf_counter() - started
        self._collection = self._open()

    def ask(self, queries: Any, where: Sequence[Any]) -> Callable[[int], Any]:
        search = self._collection.search
        return lambda number: search(queries[number], limit=10, where=where[number])

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return [hit.metadata["row"] for hit in answer]


class Hnswlib:
    name = "hnswlib"

    def __init__(self, rows: Rows) -> None:
        import hnswlib

        started = time.perf_counter()
        self._index = hnswlib.Index("cosine", rows.vectors.shape[1])
        self._index.init_index(len(rows.vectors), M=M, ef_construction=100, random_seed=1)
        self._index.add_items(rows.vectors, num_threads=2)
        self.loaded = time.perf_counter() - started
        self._index.set_num_threads(1)

    def ask(self, queries: Any, effort: int) -> Callable[[int], Any]:
        self._index.set_ef(effort)
        query = self._index.knn_query
        return lambda number: query(queries[number], k=10)

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return list(map(int, answer[0][0]))


class Faiss:
    name = "faiss"

    def __init__(self, rows: Rows) -> None:
        import faiss

        started = time.perf_counter()
        self._index = faiss.IndexHNSWFlat(rows.vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = EF_CONSTRUCTION
        self._index.add(rows.vectors)
        self.loaded = time.perf_counter() - started

    def ask(self, queries: Any, effort: int) -> Callable[[int], Any]:
        import faiss

        params = faiss.SearchParametersHNSW(efSearch=effort)
        search = self._index.search
        return lambda number: search(queries[number : number + 1], 10, params=params)

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return list(map(int, answer[1][0]))


class QdrantEdge:
    name = "qdrant-edge"

    def __init__(self, rows: Rows, place: Path) -> None:
        import qdrant_edge as edge

        place.mkdir()
        started = time.perf_counter()
        self._shard = edge.EdgeShard.create(
            str(place),
            edge.EdgeConfig(
                vectors={"": edge.EdgeVectorParams(size=rows.vectors.shape[1], distance=edge.Distance.Cosine)},
                hnsw_config=edge.HnswIndexConfig(m=M, ef_construct=100, full_scan_threshold=10_000),
            ),
        )
        schemas = {str: edge.PayloadSchemaType.Keyword, int: edge.PayloadSchemaType.Integer}
        for field, kind in {**FIELDS, "index_status": str}.items():
            self._shard.update(edge.UpdateOperation.create_field_index(field, schemas[kind]))
        for start in range(0, len(rows.ids), 1_000):
            part = range(start, min(start + 1_000, len(rows.ids)))
            points = [
                edge.Point(
                    row,
                    rows.vectors[row].tolist(),
                    {**rows.metadata[row], "text": rows.texts[row], "index_status": "indexed"},
                )
                for row in part
            ]
            self._shard.update(edge.UpdateOperation.upsert_points(points))
        self._shard.optimize()
        self.loaded = time.perf_counter() - started

    def ask(self, queries: Any, effort: int, where: Sequence[Any] | None = None) -> Callable[[int], Any]:
        import qdrant_edge as edge

        given = [query.tolist() for query in queries]
        params = edge.SearchParams(hnsw_ef=effort)
        live = edge.FieldCondition("index_status", match=edge.MatchValue("indexed"))
        conditions = [edge.Filter([live, *_conditions(one)]) for one in where or [None] * len(given)]

        def ask(number: int) -> Any:
            return self._shard.query(
                edge.QueryRequest(
                    10,
                    query=edge.Query.Nearest(given[number], ""),
                    with_payload=True,
                    filter=conditions[number],
                    params=params,
                )
            )

        return ask

    @staticmethod
    def rows_of(answer: Any) -> list[int]:
        return [one.payload["row"] for one in answer]


def _conditions(where: dict[str, Any] | None) -> list[Any]:
    """The filters of the data as qdrant-edge's conditions."""
    import qdrant_edge as edge

    found: list[Any] = []
    for field, asked in (where or {}).items():
        if field == "$and":
            found += [one for part in asked for one in _conditions(part)]
            continue
        if field == "$not":
            found.append(edge.Filter(None, None, _conditions(asked)))
            continue
        for operator, value in (asked if isinstance(asked, dict) else {"$eq": asked}).items():
            match operator:
                case "$eq":
                    found.append(edge.FieldCondition(field, match=edge.MatchValue(value)))
                case "$in":
                    found.append(edge.FieldCondition(field, match=edge.MatchAny(value)))
                case "$gte":
                    found.append(edge.FieldCondition(field, range=edge.RangeFloat(gte=value)))
                case "$lt":
                    found.append(edge.FieldCondition(field, range=edge.RangeFloat(lt=value)))
                case _:
                    raise ValueError(f"{operator} is not in the data's filters")
    return found


def recall(rows: Sequence[int], truth: Any) -> float:
    wanted = {int(one) for one in truth if one >= 0}
    return len(wanted & set(rows)) / len(wanted) if wanted else 1.0


def least_effort(side: Any, ask: Callable[[int], Callable[[int], Any]], truth: Any, numbers: range) -> int:
    """The first effort by which the queries of these numbers reach the recall wanted; the greatest if none does."""
    for effort in EFFORTS:
        asked = ask(effort)
        if statistics.fmean(recall(side.rows_of(asked(n)), truth[n]) for n in numbers) >= WANTED:
            return effort
    return EFFORTS[-1]


def measured(
    sides: dict[str, tuple[Any, Callable[[int], Any]]], truth: Any, numbers: range, rounds: int
) -> dict[str, Any]:
    """Every query asked of every side in turn; medians over rounds."""
    times: dict[str, list[list[float]]] = {name: [] for name in sides}
    recalls: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name in sides:
            times[name].append([])
        for number in numbers:
            for name, (side, ask) in sides.items():
                started = time.perf_counter()
                answer = ask(number)
                times[name][-1].append(time.perf_counter() - started)
                recalls[name].append(recall(side.rows_of(answer), truth[number]))
    return {
        name: {
            "qps": round(statistics.median(len(one) / sum(one) for one in times[name]), 1),
            "p50_ms": round(1_000 * statistics.median(statistics.median(one) for one in times[name]), 3),
            "recall10": round(statistics.fmean(recalls[name]), 4),
        }
        for name in sides
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=filtered.WHOLE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=200, help="in a round; a hundred others set the efforts")
    parser.add_argument("--filters", default="", help="names, joined by commas (default: all)")
    options = parser.parse_args()
    rows, queries = filtered.load_rows(options.rows), filtered.load_queries()
    filters = [*filtered.load_filters(rows, queries), filtered.one_source(rows, queries, "aws-cloudformation")]
    chosen = set(options.filters.split(",")) - {""}
    place = Path(tempfile.mkdtemp(prefix="shelflist-bench-"))
    try:
        ours = Shelflist(rows, place / "shelflist")
        others: list[Any] = [Hnswlib(rows), Faiss(rows)]
        qdrant = QdrantEdge(rows, place / "qdrant")
        loads = {side.name: round(side.loaded, 2) for side in (ours, *others, qdrant)}
        loads["shelflist, searchable"] = round(ours.searchable, 2)
        print("Loaded and built, s:", json.dumps(loads))
        setting, asked = range(len(queries) - 100, len(queries)), range(options.queries)
        results = {}
        for one in filters:
            if chosen and one.name not in chosen:
                continue
            sides: dict[str, tuple[Any, Callable[[int], Any]]] = {}
            efforts: dict[str, int] = {}
            mine = ours.ask(queries, one.where)
            started = time.perf_counter()
            mine(0)
            cold = time.perf_counter() - started
            for number in range(1, 4):
                mine(number)
            time.sleep(1.0)  # what is prepared aside for a filter that is asked again
            sides[ours.name] = (ours, mine)
            if one.name == "none":
                for side in others:
                    efforts[side.name] = least_effort(side, lambda e, s=side: s.ask(queries, e), one.truth, setting)
                    sides[side.name] = (side, side.ask(queries, efforts[side.name]))
            ask_qdrant = lambda effort, w=one.where: qdrant.ask(queries, effort, w)  # noqa: E731
            efforts[qdrant.name] = least_effort(qdrant, ask_qdrant, one.truth, setting)
            sides[qdrant.name] = (qdrant, ask_qdrant(efforts[qdrant.name]))
            found = measured(sides, one.truth, asked, options.rounds)
            for name, effort in efforts.items():
                found[name]["effort"] = effort
            found[ours.name]["plan"], found[ours.name]["cold_ms"] = mine(0).plan, round(1_000 * cold, 1)
            results[one.name] = {"rows": one.rows, "sides": found}
            print(f"{one.name}: {json.dumps(found)}", flush=True)
        return _report(options, loads, results)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _report(options: argparse.Namespace, loads: dict[str, float], results: dict[str, Any]) -> int:
    lines, targets, ratios = [], [], []
    for name, one in results.items():
        mine = one["sides"]["shelflist"]
        targets.append(
            report.target(f"{name}: recall@10", mine["recall10"], f">= {WANTED}", mine["recall10"] >= WANTED)
        )
        for side, facts in one["sides"].items():
            lines.append(
                (name, one["rows"], side, facts["qps"], facts["p50_ms"], facts["recall10"], facts.get("effort", ""))
            )
            if side == "shelflist":
                continue
            ratio = mine["qps"] / facts["qps"]
            if name == "none":
                wanted = {"hnswlib": 1.0, "qdrant-edge": 2.0}.get(side)
                text = f"{name}: QPS, times {side}"
                targets.append(
                    report.noted(text, ratio)
                    if wanted is None
                    else report.target(text, ratio, f">= {wanted}", ratio >= wanted)
                )
            else:
                ratios.append(ratio)
                targets.append(report.target(f"{name}: warm QPS, times {side}", ratio, ">= 1", ratio >= 1))
        targets.append(report.target(f"{name}: cold, ms", mine["cold_ms"], "<= 20", mine["cold_ms"] <= 20))
    if ratios:
        middle = statistics.median(ratios)
        targets.append(report.target("filters: warm QPS, times qdrant-edge, median", middle, ">= 2", middle >= 2))
    report.table(("filter", "rows", "side", "QPS", "p50 ms", "recall@10", "effort"), lines)
    report.print_targets(targets)
    summary = {
        "rows": options.rows,
        "queries": options.queries,
        "rounds": options.rounds,
        "load_seconds": loads,
        "results": results,
        "targets": targets,
        "environment": report.environment(["shelflist", "faiss-cpu", "hnswlib", "qdrant-edge-py", "numpy"]),
    }
    report.write("engine", summary)
    _plot(results)
    return 0 if all(one["met"] is not False for one in targets) else 1


def _plot(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    markers = {"shelflist": "o", "qdrant-edge": "s", "hnswlib": "^", "faiss": "v"}
    for side, marker in markers.items():
        points = [
            (facts["recall10"], facts["qps"], name)
            for name, one in results.items()
            if (facts := one["sides"].get(side)) is not None
        ]
        axes.scatter([p[0] for p in points], [p[1] for p in points], marker=marker, label=side)
        for x, y, name in points:
            axes.annotate(name, (x, y), fontsize=6)
    axes.set_yscale("log")
    axes.set_xlabel("recall@10")
    axes.set_ylabel("QPS, one thread")
    axes.axvline(WANTED, linewidth=0.5, color="grey")
    axes.legend()
    report.save_plot(figure, "engine")


if __name__ == "__main__":
    raise SystemExit(main())
