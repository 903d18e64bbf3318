"""Whether what the engine measures on a collection's own vectors holds for real questions.

    python bench/calibration.py                  # three sets of shared/data; about six minutes

For each set and target: the ef_search that calibration chooses, the recall@10 that real questions then have, and the least
that those would have needed; the same for the depth of the codes, and for the nprobe of cells at that depth. Beside them the recall of stored vectors taken as
questions, which is why calibration does not take them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import data
import filtered
import numpy as np
import report

from shelflist.embedders.static import StaticEmbedder
from shelflist.engine.calibration import (
    depth_for,
    effort_for,
    graph_candidates,
    probes_for,
    samples_of,
    true_neighbours,
)
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes
from shelflist.engine.exact import prepared
from shelflist.engine.graph import Graph

TARGETS = (0.9, 0.95, 0.98)
M, EF_CONSTRUCTION = 16, 160
MOST_EFFORT, MOST_DEPTH = 1_024, 2_000


@dataclass(frozen=True)
class Set:
    name: str
    vectors: Any
    questions: Any


def sets(count: int) -> Iterator[Set]:
    embedder = StaticEmbedder()

    def questions(texts: list[str]) -> Any:
        return prepared(np.stack([embedder.embed_query(one) for one in texts[:count]]), "cosine")

    rows = filtered.load_rows(filtered.WHOLE)
    yield Set("chunks_100k, MiniLM", rows.vectors, filtered.load_queries()[:count])
    static = prepared(embedder.embed_documents(rows.texts), "cosine")
    yield Set("chunks_100k, static", static, questions(data.load_query_texts()))
    php = data.load_retrieval_set("php_purpose")
    static = prepared(embedder.embed_documents([text for _, text in php.documents]), "cosine")
    yield Set("php_purpose, static", static, questions([text for _, text in php.queries]))


def recall(nearest: Callable[[Any], Any], questions: Any, truth: Any) -> float:
    found = sum(len(np.intersect1d(nearest(one), near)) for one, near in zip(questions, truth, strict=True))
    return float(found / truth.size)


def least(meets: Callable[[int], bool], most: int) -> int | None:
    """The least number that meets, within a twentieth; None if `most` does not."""
    low, high = 8, most
    if not meets(high):
        return None
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1_000)
    options = parser.parse_args()
    results, lines, targets = [], [], []
    for one in sets(options.questions):
        vectors, questions = one.vectors, one.questions
        truth = true_neighbours(vectors, questions, "cosine")
        samples = samples_of(vectors, "cosine")
        stored = vectors[np.random.default_rng(1).integers(0, len(vectors), len(questions))]
        graph = Graph.build(vectors, "cosine", m=M, ef_construction=EF_CONSTRUCTION)
        codes = Codes.build(vectors, "cosine")
        cells = Cells.build(vectors, "cosine", nlist=None, bits=1)

        def by_graph(effort: int, graph: Graph = graph) -> Callable[[Any], Any]:
            return lambda query: graph.nearest(query, graph_candidates(10), effort)

        def by_codes(depth: int, codes: Codes = codes) -> Callable[[Any], Any]:
            return lambda query: codes.nearest(query, depth)

        for wanted in TARGETS:
            depth = depth_for(codes, samples, wanted, len(vectors))
            assert depth is not None

            def by_cells(probes: int, cells: Cells = cells, depth: int = depth) -> Callable[[Any], Any]:
                return lambda query: cells.nearest(query, depth, probes)

            for way, chosen, ask, most in (
                ("graph", effort_for(graph, samples[0], wanted), by_graph, MOST_EFFORT),
                ("codes", depth, by_codes, MOST_DEPTH),
                ("cells", probes_for(cells, depth, samples[0], wanted), by_cells, cells.cells),
            ):
                reached = None if chosen is None else recall(ask(chosen), questions, truth)
                of_stored = (
                    None if chosen is None else recall(ask(chosen), stored, true_neighbours(vectors, stored, "cosine"))
                )
                needed = least(
                    lambda n, a=ask, q=questions, t=truth, w=wanted: recall(a(n), q, t) >= w,  # type: ignore[misc]
                    most,
                )
                found = {
                    "set": one.name,
                    "rows": len(vectors),
                    "way": way,
                    "target": wanted,
                    "chosen": chosen,
                    "needed": needed,
                    "recall10": reached,
                    "recall10_of_stored": of_stored,
                }
                results.append(found)
                lines.append(tuple("-" if value is None else value for value in found.values()))
                print(found, flush=True)
                if reached is not None:
                    name = f"{one.name}, {way}: recall@10 of real questions"
                    targets.append(report.target(name, reached, f">= {wanted}", reached >= wanted))
    report.table(("set", "rows", "way", "target", "chosen", "needed", "recall@10", "of stored"), lines)
    report.print_targets(targets)
    report.write(
        "calibration",
        {
            "questions": options.questions,
            "results": results,
            "targets": targets,
            "environment": report.environment(["shelflist", "faiss-cpu", "numpy"]),
        },
    )
    return 0 if all(one["met"] for one in targets) else 1


if __name__ == "__main__":
    raise SystemExit(main())
