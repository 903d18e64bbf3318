"""Whether what the engine measures on a collection's own vectors holds for real questions.

    python bench/calibration.py                  # three sets of shared/data; about six minutes

For each set and target: the ef_search that calibration chooses, the recall@10 that real questions then have, and the least
that those would have needed; the same for the error of codes that is allowed for (in thousandths), without a filter and where the
thousand nearest of each question may not answer, by the codes of a new filter and by those of packed copies, and for the nprobe
of cells. Beside them the recall of stored vectors taken as
questions, which is why calibration does not take them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import data
import filtered
import numpy as np
import report

from shelflist.embedders.static import StaticEmbedder
from shelflist.engine.calibration import (
    allowed_for,
    by_packing,
    effort_for,
    graph_candidates,
    probes_for,
    samples_of,
    true_neighbours,
)
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes, PackedCodes, Ranked, Selection
from shelflist.engine.exact import distances, nearest, prepared
from shelflist.engine.graph import Graph
from shelflist.engine.products import ProductCodes
from shelflist.engine.rescoring import Allowed, Rescoring, doubt_of, rescored

TARGETS = (0.9, 0.95, 0.98)
M, EF_CONSTRUCTION = 16, 160
MOST_EFFORT, MOST_ERROR = 1_024, 160
GONE = 1_000


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


@dataclass(frozen=True)
class Indexes:
    """Of one set, with what was measured on its codes. `asked` are the questions that are answered next."""

    vectors: Any
    graph: Graph
    codes: Codes
    packed: PackedCodes
    cells: Cells

    def by_graph(self, effort: int) -> Callable[[Any], Any]:
        return lambda query: self.graph.nearest(query, graph_candidates(10), effort)

    def by_codes(
        self, error: int, allowed: Allowed, without: Callable[[Any], Any] | None = None
    ) -> Callable[[Any], Any]:
        def ask(query: Any) -> Any:
            selection = None if without is None else Selection(without(query))
            return self._rescored(
                query, lambda count: self.codes.nearest(query, count, selection), _scaled(allowed, error)
            )

        return ask

    def by_packed(
        self, error: int, allowed: Allowed, without: Callable[[Any], Any] | None = None
    ) -> Callable[[Any], Any]:
        def ask(query: Any) -> Any:
            def scan(count: int) -> Ranked:
                found = self.packed.nearest(query, count)
                return found if without is None else found.among(without(query))

            return self._rescored(query, scan, _scaled(allowed, error))

        return ask

    def by_cells(self, probes: int, allowed: Allowed) -> Callable[[Any], Any]:
        return lambda query: self._rescored(query, lambda n: self.cells.nearest(query, n, probes), allowed)

    def _rescored(self, query: Any, scan: Callable[[int], Ranked], allowed: Allowed) -> Any:
        found = rescored(
            scan,
            Rescoring(
                lambda positions: distances(self.vectors[positions], query, "cosine"),
                doubt_of(self.codes, self.vectors, query),
                allowed,
                10,
                "cosine",
            ),
            usual=allowed.crowd // 2,
            depth=allowed.crowd,
            most=len(self.vectors),
        )
        assert found is not None
        return found.positions[nearest(found.distances, 10)]


def _scaled(allowed: Allowed, error: int) -> Allowed:
    """As if this were the error that had been measured, in thousandths."""
    scale = error / (1_000 * allowed.error)
    return allowed._replace(error=scale * allowed.error, crowded_error=scale * allowed.crowded_error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=1_000)
    options = parser.parse_args()
    results, lines, targets = [], [], []
    for one in sets(options.questions):
        vectors, questions = one.vectors, one.questions
        truth, _ = true_neighbours(vectors, questions, "cosine")
        samples = samples_of(vectors, "cosine")
        stored = vectors[np.random.default_rng(1).integers(0, len(vectors), len(questions))]
        truth_of_stored, _ = true_neighbours(vectors, stored, "cosine")
        products = ProductCodes.build(vectors, "cosine")
        assert products is not None
        indexes = Indexes(
            vectors,
            Graph.build(vectors, "cosine", m=M, ef_construction=EF_CONSTRUCTION),
            Codes.build(vectors, "cosine"),
            products.packed(np.arange(len(vectors))),
            Cells.build(vectors, "cosine", nlist=None, bits=1),
        )

        order = [nearest(distances(vectors, query, "cosine"), GONE + 10) for query in questions]
        gone = {query.tobytes(): near[:GONE] for query, near in zip(questions, order, strict=True)}
        behind = np.stack([near[GONE:] for near in order])

        def without_nearest(query: Any, gone: Any = gone, count: int = len(vectors)) -> Any:
            mask = np.ones(count, np.bool_)
            mask[gone[query.tobytes()]] = False
            return mask

        for wanted in TARGETS:
            allowed = allowed_for(indexes.codes, vectors, samples, wanted)
            of_packed = allowed_for(indexes.codes, vectors, samples, wanted, by_packing(products))
            assert allowed is not None and of_packed is not None
            error, error_packed = round(1_000 * allowed.error), round(1_000 * of_packed.error)
            effort = effort_for(indexes.graph, samples, wanted)
            probes = probes_for(indexes.cells, indexes.codes, vectors, allowed, samples, wanted)
            by_codes = partial(indexes.by_codes, allowed=allowed)
            by_packed = partial(indexes.by_packed, allowed=of_packed)
            by_cells = partial(indexes.by_cells, allowed=allowed)
            far = partial(by_codes, without=without_nearest)
            ways: tuple[tuple[str, int | None, Callable[[int], Callable[[Any], Any]], int, Any], ...] = (
                ("graph", effort, indexes.by_graph, MOST_EFFORT, truth),
                ("codes", error, by_codes, MOST_ERROR, truth),
                (f"codes, {GONE} gone", error, far, MOST_ERROR, behind),
                ("packed", error_packed, by_packed, MOST_ERROR, truth),
                (f"packed, {GONE} gone", error_packed, partial(by_packed, without=without_nearest), MOST_ERROR, behind),
                ("cells", probes, by_cells, indexes.cells.cells, truth),
            )
            for way, chosen, ask, most, of in ways:
                reached = None if chosen is None else recall(ask(chosen), questions, of)
                of_stored = None
                if chosen is not None and of is truth:
                    of_stored = recall(ask(chosen), stored, truth_of_stored)
                needed = least(
                    lambda n, a=ask, q=questions, t=of, w=wanted: recall(a(n), q, t) >= w,  # type: ignore[misc]
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
