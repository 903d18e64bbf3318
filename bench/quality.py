"""Retrieval quality of the default (static embedder, hybrid) beside each leg alone and RRF, on whole sets with judgments.

    python bench/quality.py
    python bench/quality.py --set squad_v11_dev --mode "hybrid convex"

Each document is one chunk: title, empty line, text. All settings are the defaults. Writes bench/results/quality.json and
quality.png. The exit code is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from typing import Any

import data
import metrics
import report

MODES: dict[str, dict[str, Any]] = {
    "keyword": {"mode": "keyword"},
    "dense": {"mode": "dense"},
    "hybrid convex": {"mode": "hybrid", "fusion": "convex"},
    "hybrid rrf": {"mode": "hybrid", "fusion": "rrf"},
}
TARGETS = {"squad_v11_dev": 0.88, "php_purpose": 0.775}
"""nDCG@10 that the default, `hybrid convex`, must reach. It must also be no lower than `keyword`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", dest="sets", help="name of a folder in ir/ (may be repeated)")
    parser.add_argument("--mode", action="append", dest="modes", choices=list(MODES))
    parser.add_argument("--queries", type=int, help="only the first so many questions of each set")
    options = parser.parse_args()
    modes = options.modes or list(MODES)

    results: dict[str, Any] = {}
    for name in options.sets or list(TARGETS):
        results[name] = _measure(data.load_retrieval_set(name), modes, options.queries)
    targets = _targets(results)
    for name, result in results.items():
        print(
            f"\n{name}: {result['documents']:,} documents, {result['queries']:,} questions, indexed in {result['index_seconds']:.1f} s"
        )
        rows = [
            [mode, f"{found['ndcg10']:.4f}", f"{found['recall10']:.4f}", f"{found['ms_per_query']:.2f}"]
            for mode, found in result["modes"].items()
        ]
        report.table(["mode", "nDCG@10", "recall@10", "ms a query"], rows)
    report.print_targets(targets)
    report.write(
        "quality",
        {
            "at": time.strftime("%Y-%m-%d %H:%M"),
            "sets": results,
            "targets": targets,
            "environment": report.environment(["numpy", "tantivy", "tokenizers"]),
        },
    )
    _plot(results)
    sys.exit(0 if all(target["met"] for target in targets) else 1)


def _measure(retrieval: data.RetrievalSet, modes: list[str], first: int | None) -> dict[str, Any]:
    import shelflist
    from shelflist import Chunk, Document

    queries = retrieval.queries[:first]
    with tempfile.TemporaryDirectory(prefix="shelflist-bench-") as directory:
        started = time.perf_counter()
        with shelflist.open(f"file:{directory}/index", "quality") as collection:
            collection.sync_all(
                (Document(document_id, chunks=[Chunk(content=text)]) for document_id, text in retrieval.documents),
                source=retrieval.name,
            )
            result: dict[str, Any] = {
                "documents": len(retrieval.documents),
                "queries": len(queries),
                "index_seconds": time.perf_counter() - started,
                "modes": {},
            }
            for mode in modes:
                started = time.perf_counter()
                answers = collection.search_many([text for _, text in queries], limit=10, **MODES[mode])
                seconds = time.perf_counter() - started
                rankings = [[hit.document_id for hit in hits] for hits in answers]
                relevant = [retrieval.relevant[query_id] for query_id, _ in queries]
                result["modes"][mode] = {
                    "ndcg10": statistics.fmean(map(metrics.ndcg, rankings, relevant)),
                    "recall10": statistics.fmean(map(metrics.recall, rankings, relevant)),
                    "ms_per_query": 1000 * seconds / len(queries),
                }
    return result


def _targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    targets = []
    for name, result in results.items():
        found = {mode: measures["ndcg10"] for mode, measures in result["modes"].items()}
        default = found.get("hybrid convex")
        if default is None:
            continue
        if name in TARGETS:
            targets.append(report.target(f"{name} nDCG@10", default, f">= {TARGETS[name]}", default >= TARGETS[name]))
        if "keyword" in found:
            wanted = f">= keyword, {found['keyword']:.4f}"
            targets.append(report.target(f"{name} nDCG@10", default, wanted, default >= found["keyword"]))
    return targets


def _plot(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    modes = list(next(iter(results.values()))["modes"])
    width = 0.8 / len(modes)
    for place, mode in enumerate(modes):
        values = [result["modes"][mode]["ndcg10"] for result in results.values()]
        bars = axes.bar([index + place * width for index in range(len(results))], values, width, label=mode)
        axes.bar_label(bars, fmt="%.3f", fontsize=8)
    for index, name in enumerate(results):
        if name in TARGETS:
            axes.hlines(TARGETS[name], index - width / 2, index + 0.8 - width / 2, colors="black", linestyles="dotted")
    axes.set_xticks([index + width * (len(modes) - 1) / 2 for index in range(len(results))], list(results))
    axes.set_ylim(0.5, 1.0)
    axes.set_ylabel("nDCG@10 (dotted: target)")
    axes.set_title("Retrieval quality, bundled static embedder")
    axes.legend(fontsize=8, ncols=4)
    report.save_plot(figure, "quality")


if __name__ == "__main__":
    main()
