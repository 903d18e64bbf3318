"""First sync, identical sync and a 1 % change of embedded chunks: Shelflist, LangChain and LlamaIndex side by side.

    python bench/sync.py --rows 100000 --rounds 3

Sides take turns, each time in a new process. In the first round LangChain runs with every setting of SETTINGS; later rounds
repeat those that were best in some phase, and every phase is compared with the setting that is best *in that phase*: once among
the settings with its documented record manager, which the targets mean, once among those with the one for testing.
Writes bench/results/sync.json and sync.png. The exit code is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import data
import report

SIDES = Path(__file__).resolve().parent / "sides.py"
PHASES = ("first", "no-op", "1 %")
SETTINGS = (
    ("incremental", "sql", 100),
    ("incremental", "sql", 1_000),
    ("incremental", "sql", 5_000),
    ("full", "sql", 1_000),
    ("full", "memory", 100),
    ("full", "memory", 1_000),
    ("full", "memory", 0),
    ("incremental", "memory", 0),
)
"""LangChain's cleanup mode, record manager and batch size (0: everything in one batch).

The SQL record manager is the one that its documentation uses; here on SQLite in memory, which is faster than its file. The
one in memory is "for testing purposes" in its own words: a process that ends forgets what is indexed. With it, incremental
cleanup compares every record with every source of each batch, so small batches do not end in useful time.
"""
GROUPS = {"sql": "LangChain, its documented record manager", "memory": "LangChain, records in memory (for testing)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one run of one side")
    parser.add_argument(
        "--only", choices=["shelflist", "langchain", "llamaindex"], help="one side alone, no comparison"
    )
    options = parser.parse_args()
    data.require()

    runs: dict[str, list[dict[str, Any]]] = {}
    langchain = [_langchain_name(*setting) for setting in SETTINGS]
    arguments = {"Shelflist": ["shelflist"], "LlamaIndex": ["llamaindex"]}
    arguments |= {
        name: ["langchain", "--cleanup", cleanup, "--records", records, "--batch", str(batch)]
        for name, (cleanup, records, batch) in zip(langchain, SETTINGS, strict=True)
    }
    for round_number in range(options.rounds):
        for name, words in arguments.items():
            if options.only and words[0] != options.only:
                continue
            if round_number and name in langchain and name not in _winners(runs):
                continue
            result = _run([*words, "--rows", str(options.rows)], options.timeout)
            if result is None:
                print(f"round {round_number + 1}: {name}: did not end in {options.timeout:.0f} s", flush=True)
                continue
            runs.setdefault(name, []).append(result)
            times = ", ".join(f"{phase} {result['seconds'][phase]:.2f} s" for phase in PHASES)
            print(f"round {round_number + 1}: {name}: {times}; peak {result['peak_mb']} MB", flush=True)

    summary = _summary(runs)
    summary["environment"] = report.environment(
        ["numpy", "tantivy", "langchain-core", "langchain-classic", "llama-index-core"]
    )
    _print(summary)
    report.write("sync", summary)
    if not options.only:
        _plot(summary)
        sys.exit(0 if all(target["met"] is not False for target in summary["targets"]) else 1)


def _run(words: list[str], timeout: float) -> dict[str, Any] | None:
    try:
        done = subprocess.run([sys.executable, str(SIDES), *words], stdout=subprocess.PIPE, timeout=timeout, check=True)
    except subprocess.TimeoutExpired:
        return None
    result: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return result


def _langchain_name(cleanup: str, records: str, batch: int) -> str:
    return f"LangChain {cleanup}, {records}, batch {batch or 'all'}"


def _seconds(runs: dict[str, list[dict[str, Any]]], name: str, phase: str) -> float:
    return statistics.median(run["seconds"][phase] for run in runs[name])


def _best_langchain(runs: dict[str, list[dict[str, Any]]], records: str) -> dict[str, str]:
    """The best setting of each phase among those with this record manager; empty when none has run."""
    names = [name for name in (_langchain_name(*one) for one in SETTINGS if one[1] == records) if name in runs]
    return {phase: min(names, key=lambda name: _seconds(runs, name, phase)) for phase in PHASES if names}


def _winners(runs: dict[str, list[dict[str, Any]]]) -> set[str]:
    return {name for records in GROUPS for name in _best_langchain(runs, records).values()}


def _summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    first_run = next(iter(runs.values()))[0]
    chunks = first_run["chunks"]
    sides = {
        name: {
            "runs": len(found),
            "durable": name == "Shelflist",
            "peak_mb": max(run["peak_mb"] for run in found),
            "seconds": {phase: _seconds(runs, name, phase) for phase in PHASES},
            "chunks_per_second": {phase: chunks / _seconds(runs, name, phase) for phase in PHASES},
        }
        for name, found in runs.items()
    }
    summary: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "chunks": chunks,
        "documents": first_run["documents"],
        "changed_documents": first_run["changed_documents"],
        "sides": sides,
        "langchain_best": {records: _best_langchain(runs, records) for records in GROUPS},
        "written": runs["Shelflist"][-1]["written"] if "Shelflist" in runs else {},
        "targets": [],
    }
    if "Shelflist" in runs:
        summary["targets"] = _targets(summary)
    return summary


def _targets(summary: dict[str, Any]) -> list[dict[str, Any]]:
    ours = summary["sides"]["Shelflist"]["seconds"]
    targets = []
    for records, group in GROUPS.items():
        best = summary["langchain_best"][records]
        for phase, wanted in (("first", 2.0), ("no-op", 20.0)) if best else ():
            ratio = summary["sides"][best[phase]]["seconds"][phase] / ours[phase]
            name = f"{phase} sync, times the rate of {group}"
            if records == "sql":
                targets.append(report.target(name, ratio, f">= {wanted:g}", ratio >= wanted))
            else:
                targets.append(report.noted(name, ratio))
    allowed = ours["no-op"] + 0.03 * ours["first"]
    targets.append(
        report.target(
            "1 % change, seconds", ours["1 %"], f"<= {allowed:.3f} (no-op + 3 % of first)", ours["1 %"] <= allowed
        )
    )
    rows = summary["written"]["no-op"]["rows"]
    targets.append(report.target("rows written by the no-op", rows, "<= 20, whatever the size", rows <= 20))
    return targets


def _print(summary: dict[str, Any]) -> None:
    print(
        f"\n{summary['chunks']:,} chunks in {summary['documents']:,} documents, embedding free; "
        f"1 % change in {summary['changed_documents']} documents. Chunks a second (median), times Shelflist's:"
    )
    ours = summary["sides"].get("Shelflist", {}).get("chunks_per_second", {})
    rows = []
    for name, side in summary["sides"].items():
        cells = [name, "on disk" if side["durable"] else "memory only"]
        for phase in PHASES:
            rate = side["chunks_per_second"][phase]
            share = f" ({rate / ours[phase]:.3f}x)" if ours and name != "Shelflist" else ""
            best = " *" if any(best.get(phase) == name for best in summary["langchain_best"].values()) else ""
            cells.append(f"{rate:,.0f}{share}{best}")
        rows.append([*cells, f"{side['peak_mb']} MB"])
    report.table(["side", "durable", *PHASES, "peak"], rows)
    print("* LangChain's best setting of that phase with this record manager; the targets compare with these.")
    for phase, written in summary["written"].items():
        print(
            f"Shelflist {phase}: {written['rows']:,} rows and {written['bytes']:,} bytes written; {written['report']}"
        )
    report.print_targets(summary["targets"])


def _plot(summary: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {"Shelflist (on disk)": dict.fromkeys(PHASES, "Shelflist")}
    names |= {group: summary["langchain_best"][records] for records, group in GROUPS.items()}
    names["LlamaIndex pipeline (memory)"] = dict.fromkeys(PHASES, "LlamaIndex")
    figure, axes = pyplot.subplots(figsize=(8, 4.2))
    width = 0.8 / len(names)
    for place, (label, side) in enumerate(names.items()):
        rates = [summary["sides"][side[phase]]["chunks_per_second"][phase] for phase in PHASES]
        bars = axes.bar([index + place * width for index in range(len(PHASES))], rates, width, label=label)
        axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], fontsize=8)
    axes.set_xticks(
        [index + width * (len(names) - 1) / 2 for index in range(len(PHASES))], ["first", "no-op", "1 % change"]
    )
    axes.set_yscale("log")
    axes.set_ylabel("chunks a second (log)")
    axes.set_title(f"Sync of {summary['chunks']:,} embedded chunks")
    axes.legend(fontsize=8)
    report.save_plot(figure, "sync")


if __name__ == "__main__":
    main()
