"""An index from its first row on: bulk load, cold open to the first answer, memory, and growth.

    python bench/lifetime.py                     # 100,000 rows; about half an hour, most of it Chroma's load
    python bench/lifetime.py --part load,open    # of load, open, memory, growth
    python bench/lifetime.py --rows 20000 --rounds 1

Each step is a process of its own, sides in turn, medians over rounds.

load     until every chunk is durable and found by vector (index built), by filter and by words; Shelflist has also measured
         the effort for its target recall by then. qdrant-edge has no index of words. pgvector's server runs on loopback.
open     seconds from before the import of the library to the first ten hits with text, the files in the page cache.
memory   RssAnon and RssFile of a process that has imported its libraries, then opened the index and asked 1,000 questions
         (plain, every filter of the data, by words), beside what a raw hnswlib index adds when it is read from its file.
growth   Shelflist alone at 25,000 to 400,000 rows. Beyond 100,000 the data's own are repeated: the texts as they are, the
         vectors with noise of length .05, so such copies are near neighbours of each other, as no real texts are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import data
import filtered
import numpy as np
import report
from raw import FIELDS, Rows

PARTS = ("load", "open", "memory", "growth")
LOADED = ("shelflist", "qdrant-edge", "lancedb", "chroma", "pgvector")
GROWTH = (25_000, 50_000, 100_000, 200_000, 400_000)
ASKED = 1_000
FINGERPRINT = "all-MiniLM-L6-v2"


def opened(place: Path) -> Any:
    import shelflist

    return shelflist.open(
        f"file:{place}",
        "bench",
        embedder=None,
        fingerprint=FINGERPRINT,
        dimensions=384,
        fields={**FIELDS, "row": int},
    )


# What the child processes do.


def load(side: str, place: Path, rows: Rows, url: str) -> dict[str, float]:
    if side == "pgvector":
        from types import SimpleNamespace

        from raw.pgvector import Raw

        started = time.perf_counter()
        raw = Raw(SimpleNamespace(database_url=url))
        raw.load("bench", rows, 64)
        seconds = time.perf_counter() - started
        raw.drop()
        raw.close()
        return {"seconds": seconds}
    if side == "shelflist":
        documents = filtered.documents(rows)
        started = time.perf_counter()
        with opened(place) as collection:
            collection.sync_all(documents, source="bench")
            searchable = time.perf_counter() - started
        return {"seconds": time.perf_counter() - started, "searchable": searchable}
    import peers

    classes = {"qdrant-edge": peers.QdrantEdge, "lancedb": peers.LanceDb, "chroma": peers.Chroma}
    if side == "hnswlib":
        peers.Hnswlib(rows).save(place)
        return {}
    return {"seconds": classes[side](rows, place).loaded}


def first_answer(side: str, place: Path) -> dict[str, float]:
    query = filtered.load_queries()[0]
    started = time.perf_counter()
    if side == "shelflist":
        found = [hit.content for hit in opened(place).search(query, limit=10)]
    elif side == "qdrant-edge":
        import qdrant_edge as edge

        shard = edge.EdgeShard.load(str(place), None)
        request = edge.QueryRequest(10, query=edge.Query.Nearest(query.tolist(), ""), with_payload=True)
        found = [one.payload["text"] for one in shard.query(request)]
    elif side == "lancedb":
        import lancedb

        table = lancedb.connect(place).open_table("bench")
        found = [one["text"] for one in table.search(query).distance_type("cosine").limit(10).to_list()]
    else:
        import chromadb

        collection = chromadb.PersistentClient(str(place)).get_collection("bench")
        found = collection.query(query_embeddings=[query], n_results=10)["documents"][0]
    seconds = time.perf_counter() - started
    assert len(found) == 10, found
    return {"seconds": seconds}


def memory(side: str, place: Path, rows: int) -> dict[str, float]:
    queries = filtered.load_queries()
    if side == "hnswlib":
        import hnswlib

        before = resident()
        index = hnswlib.Index("cosine", queries.shape[1])
        index.load_index(str(place), max_elements=rows)
        for query in queries[:ASKED]:
            index.knn_query(query, k=10)
        return added(before)
    import faiss  # noqa: F401
    import tantivy  # noqa: F401

    import shelflist  # noqa: F401

    wheres = [None, *_filters()]
    texts = data.load_query_texts()
    before = resident()
    collection = opened(place)
    for number in range(ASKED):
        if number % 10 == 9:
            collection.search(texts[number % len(texts)], mode="keyword", limit=10)
        else:
            collection.search(queries[number % len(queries)], where=wheres[number % len(wheres)], limit=10)
    return added(before)


def _filters() -> list[Any]:
    found = json.loads((data.require() / "filters_1k.json").read_text())
    return [filtered.where_of(one["definition"]) for one in found if isinstance(one["definition"], dict)]


def resident() -> dict[str, float]:
    """Megabytes by kind, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kinds = dict(line.split(":", 1) for line in lines if line.startswith(("RssAnon", "RssFile")))
    return {kind: int(value.split()[0]) / 1024 for kind, value in kinds.items()}


def added(before: dict[str, float]) -> dict[str, float]:
    return {kind: value - before[kind] for kind, value in resident().items()}


def growth(place: Path, rows: Rows) -> dict[str, float]:
    """One size: seconds to load and to build, and medians of three kinds of question and of a small sync, ms."""
    from shelflist import Chunk

    queries = filtered.load_queries()[:300]
    documents = filtered.documents(rows)
    with opened(place) as collection:
        started = time.perf_counter()
        collection.sync_all(documents, source="bench")
        synced = time.perf_counter() - started
        collection.wait_for_build()
        total = time.perf_counter() - started
    collection = opened(place)
    tenth = {"space": {"$eq": "bench-0"}}

    def timed(ask: Callable[[int], Any], count: int) -> float:
        taken = []
        for number in range(count):
            started = time.perf_counter()
            ask(number)
            taken.append(time.perf_counter() - started)
        return 1_000 * statistics.median(taken)

    def plain(number: int) -> Any:
        return collection.search(queries[number], limit=10)

    def under_filter(number: int) -> Any:
        return collection.search(queries[number], where=tenth, limit=10)

    for ask in (plain, under_filter):
        timed(ask, 5)
    time.sleep(2)  # what is prepared aside for a filter that is asked again
    found = {
        "sync_s": synced,
        "build_s": total - synced,
        "load_s": total,
        "unfiltered_ms": timed(plain, len(queries)),
        "filtered_ms": timed(under_filter, len(queries)),
        "recall10": float(collection.recall(list(queries[:100]))),
        "recall10_filtered": float(collection.recall(list(queries[:100]), where=tenth)),
        "small_sync_ms": timed(
            lambda number: collection.sync(f"new {number}", [Chunk(f"text {number}", embedding=queries[number])]), 50
        ),
    }
    collection.close()
    return found


def grown(number: int) -> Rows:
    """`number` rows, a tenth of them in the space `bench-0`, spread evenly; beyond the data's own, vectors with noise."""
    rows = filtered.load_rows(min(number, filtered.WHOLE))
    copies = -(-number // len(rows.ids))
    random = np.random.default_rng(3)
    vectors = np.concatenate(
        [
            rows.vectors + (np.float32(0.05 / rows.vectors.shape[1] ** 0.5) * noise(random, rows.vectors.shape, copy))
            for copy in range(copies)
        ]
    )[:number]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    metadata = [
        {**rows.metadata[row % len(rows.ids)], "row": row, "space": f"bench-{row % 10}"} for row in range(number)
    ]
    repeated = [row % len(rows.ids) for row in range(number)]
    return Rows(
        [f"{row}" for row in range(number)],
        [f"{row // len(rows.ids)}/{rows.document_ids[one]}" for row, one in enumerate(repeated)],
        [rows.texts[one] for one in repeated],
        metadata,
        vectors,
    )


def noise(random: Any, shape: tuple[int, ...], copy: int) -> Any:
    return random.normal(size=shape).astype(np.float32) if copy else np.float32(0)


# What the first process does with them.


def child(step: str, side: str, place: Path, rows: int, url: str = "") -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, "--side", side, "--place", str(place), "--rows", str(rows)]
    done = subprocess.run([*command, "--url", url], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{step} of {side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{step} {side}: {json.dumps({name: round(value, 3) for name, value in found.items()})}", flush=True)
    return found


def middle(found: Sequence[dict[str, float]], name: str = "seconds") -> float:
    return statistics.median(one[name] for one in found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=filtered.WHOLE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", default=",".join(PARTS))
    for hidden in ("--step", "--side", "--place", "--url"):
        parser.add_argument(hidden, default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(_step(options)))
        return 0
    parts = options.part.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; parts: {', '.join(PARTS)}")
    place = Path(tempfile.mkdtemp(prefix="shelflist-bench-"))
    try:
        summary, targets = _measured(options, parts, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    report.print_targets(targets)
    packages = ["shelflist", "faiss-cpu", "hnswlib", "qdrant-edge-py", "lancedb", "chromadb", "numpy"]
    report.write("lifetime", {**summary, "targets": targets, "environment": report.environment(packages)})
    return 0 if all(one["met"] is not False for one in targets) else 1


def _step(options: argparse.Namespace) -> dict[str, float]:
    place = Path(options.place)
    match options.step:
        case "load":
            return load(options.side, place, filtered.load_rows(options.rows), options.url)
        case "open":
            return first_answer(options.side, place)
        case "memory":
            return memory(options.side, place, options.rows)
    return growth(place, grown(options.rows))


def _measured(
    options: argparse.Namespace, parts: Sequence[str], place: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    targets: list[dict[str, Any]] = []
    summary: dict[str, Any] = {"rows": options.rows, "rounds": options.rounds}
    rounds = options.rounds if "load" in parts else 1
    loads: dict[str, list[dict[str, float]]] = {}
    sides = [side for side in LOADED if "load" in parts or side in _sides_of(parts)]
    with ExitStack() as stack:
        url = ""
        if "load" in parts:
            import servers

            url = stack.enter_context(servers.started("pgvector", None, place / "server")).database_url
        for _ in range(rounds):
            for side in sides:
                shutil.rmtree(place / side, ignore_errors=True)
                loads.setdefault(side, []).append(child("load", side, place / side, options.rows, url))
    if "load" in parts:
        summary["load"] = loads
        mine = middle(loads["shelflist"])
        report.table(
            ("load", "seconds", "times shelflist"),
            [(side, f"{middle(found):.1f}", f"{middle(found) / mine:.2f}") for side, found in loads.items()],
        )
        for side in LOADED[1:]:
            ratio = middle(loads[side]) / mine
            wanted = (">= 1", ratio >= 1) if side == "lancedb" else ("> 1", ratio > 1)
            targets.append(report.target(f"load: {side}'s seconds, times ours", ratio, *wanted))
    if "open" in parts:
        opens: dict[str, list[dict[str, float]]] = {}
        for _ in range(5):
            for side in ("shelflist", "qdrant-edge", "lancedb", "chroma"):
                opens.setdefault(side, []).append(child("open", side, place / side, options.rows))
        summary["open"] = opens
        ours, theirs = middle(opens["shelflist"]), middle(opens["qdrant-edge"])
        targets.append(
            report.target("cold open to first answer, of qdrant-edge's", ours / theirs, "<= 1", ours <= theirs)
        )
        targets.append(report.target("cold open to first answer, seconds", ours, "<= 0.3", ours <= 0.3))
    if "memory" in parts:
        child("load", "hnswlib", place / "hnswlib", options.rows)
        raw = child("memory", "hnswlib", place / "hnswlib", options.rows)
        ours_ = child("memory", "shelflist", place / "shelflist", options.rows)
        summary["memory"] = {"hnswlib": raw, "shelflist": ours_}
        share = ours_["RssAnon"] / raw["RssAnon"]
        targets.append(report.target("memory: anonymous, of raw hnswlib's index", share, "<= 0.6", share <= 0.6))
        targets.append(report.noted("memory: mapped pages, MB", ours_["RssFile"]))
    if "growth" in parts:
        sizes = [size for size in GROWTH if size <= max(options.rows * 4, GROWTH[0])]
        found = {}
        for size in sizes:
            found[size] = child("growth", "shelflist", place / f"growth-{size}", size)
            shutil.rmtree(place / f"growth-{size}", ignore_errors=True)
        summary["growth"] = found
        targets += _growth_targets(found)
        _plot(found)
    return summary, targets


def _sides_of(parts: Sequence[str]) -> set[str]:
    opened_ = {"shelflist", "qdrant-edge", "lancedb", "chroma"} if "open" in parts else set()
    return opened_ | ({"shelflist"} if "memory" in parts else set())


def _growth_targets(found: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    report.table(
        ("rows", *next(iter(found.values()))),
        [(size, *(f"{value:.3f}" for value in facts.values())) for size, facts in found.items()],
    )
    targets = []
    sizes = list(found)
    for fact, most in (("load_s", 2.3), ("unfiltered_ms", 1.3), ("filtered_ms", 2.1)):
        worst = max(found[b][fact] / found[a][fact] for a, b in pairwise(sizes))
        targets.append(report.target(f"growth: {fact} a doubling, at worst", worst, f"<= {most}", worst <= most))
    spread = found[sizes[-1]]["small_sync_ms"] / found[sizes[0]]["small_sync_ms"]
    targets.append(report.target("growth: small sync, largest to smallest", spread, "<= 1.5", spread <= 1.5))
    return targets


def _plot(found: dict[int, dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    sizes = list(found)
    for fact in ("unfiltered_ms", "filtered_ms", "small_sync_ms"):
        axes[0].plot(sizes, [found[size][fact] for size in sizes], marker="o", label=fact)
    axes[1].plot(sizes, [found[size]["load_s"] for size in sizes], marker="o", label="load_s")
    for one in axes:
        one.set_xscale("log")
        one.set_yscale("log")
        one.set_xlabel("rows")
        one.legend()
    report.save_plot(figure, "growth")


if __name__ == "__main__":
    raise SystemExit(main())
