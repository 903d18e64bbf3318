"""Where the time of a warm search on the embedded store goes: engine, ledger check with texts and metadata, the rest.

    python bench/search_profile.py                  # 100,000 rows; two minutes

One process and one thread. Each step is timed by itself inside `collection.search`, over the same questions, without a
filter and under one that half of the rows match; medians over the questions. Writes results/search_profile.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filtered
import report
from lifetime import opened

STEPS = ("engine", "check and texts", "hits")
ALLOWED = 0.35
FILTERS = ("none", "source_50", "tenant_01")


class Timed:
    """Adds up what each step takes within one question."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = dict.fromkeys(STEPS, 0.0)

    def wrapped(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.taken[step] += time.perf_counter() - started

        return timed

    @contextmanager
    def installed(self) -> Iterator[None]:
        from shelflist.ledger.documents import Documents
        from shelflist.searching.search import Searcher
        from shelflist.stores._embedded_vectors import EmbeddedVectors

        places = (
            (EmbeddedVectors, "search", "engine"),
            (Documents, "live", "check and texts"),
            (Searcher, "_hit", "hits"),
        )
        whole = [(place, name, getattr(place, name)) for place, name, _ in places]
        for place, name, step in places:
            setattr(place, name, self.wrapped(step, getattr(place, name)))
        try:
            yield
        finally:
            for place, name, function in whole:
                setattr(place, name, function)


def profiled(collection: Any, queries: Any, where: Any) -> dict[str, float]:
    """Median milliseconds of a question, and of each step in it."""
    for query in queries[:5]:
        collection.search(query, where=where, limit=10)
    time.sleep(2)  # what is prepared aside for a filter that is asked again
    timed = Timed()
    found: dict[str, list[float]] = {step: [] for step in ("all", *STEPS)}
    with timed.installed():
        for query in queries:
            timed.taken = dict.fromkeys(STEPS, 0.0)
            started = time.perf_counter()
            collection.search(query, where=where, limit=10)
            found["all"].append(time.perf_counter() - started)
            for step in STEPS:
                found[step].append(timed.taken[step])
    return {step: 1_000 * statistics.median(values) for step, values in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=filtered.WHOLE)
    parser.add_argument("--queries", type=int, default=500)
    options = parser.parse_args()
    rows, queries = filtered.load_rows(options.rows), filtered.load_queries()
    place = Path(tempfile.mkdtemp(prefix="shelflist-bench-"))
    try:
        with opened(place) as collection:
            collection.sync_all(filtered.documents(rows), source="bench")
        with opened(place) as collection:
            found = {
                one.name: profiled(collection, queries[: options.queries], one.where[0])
                for one in filtered.load_filters(rows, queries)
                if one.name in FILTERS
            }
    finally:
        shutil.rmtree(place, ignore_errors=True)
    report.table(
        ("filter", "whole, ms", *(f"{step}, ms" for step in STEPS), "rest, ms"),
        [
            (name, *(f"{facts[step]:.3f}" for step in ("all", *STEPS)), f"{rest(facts):.3f}")
            for name, facts in found.items()
        ],
    )
    share = found["none"]["check and texts"] / found["none"]["all"]
    targets = [report.target("check and texts, of a query without a filter", share, f"<= {ALLOWED}", share <= ALLOWED)]
    report.print_targets(targets)
    environment = report.environment(["shelflist", "faiss-cpu", "numpy"])
    report.write(
        "search_profile", {"rows": options.rows, "milliseconds": found, "targets": targets, "environment": environment}
    )
    return 0 if targets[0]["met"] else 1


def rest(facts: dict[str, float]) -> float:
    return facts["all"] - sum(facts[step] for step in STEPS)


if __name__ == "__main__":
    raise SystemExit(main())
