"""From a clone to the first answer, and what one `shelflist search` costs, imports included.

    python bench/startup.py

Clones the commit that is checked out, makes a new environment there, and runs the README's first command as it stands, once
to warm the package cache and once by the clock. Then it asks in that environment, one process a question, an index of the
packaged handbook and one of 20,000 chunks (with the data; embedded by the bundled model). Writes results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import data
import report

ROWS = 20_000
ALLOWED_SECONDS, ALLOWED_PROCESS_SECONDS = 60.0, 0.5
QUESTION = "how are keys rotated"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="searches of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shelflist-startup-") as place:
        first_answer(Path(place) / "warming")
        clone = Path(place) / "clone"
        seconds, installing = first_answer(clone)
        print(f"{seconds:.1f} s from clone to the end of the demo, {installing:.1f} s of it the install")
        timings = searches(clone, Path(place), options.rounds)
    report.table(
        ("shelflist search", "process time (s)", "wall (s)"),
        [(name, f"{process:.3f}", f"{wall:.3f}") for name, process, wall in timings],
    )
    slowest = max(process for _, process, _ in timings)
    targets = [
        report.target("clone to first answer, seconds", seconds, f"< {ALLOWED_SECONDS:.0f}", seconds < ALLOWED_SECONDS),
        report.target("share of it that is the install", installing / seconds, "> 0.5", installing > seconds / 2),
        report.target(
            "slowest search, seconds of process time",
            slowest,
            f"< {ALLOWED_PROCESS_SECONDS}",
            slowest < ALLOWED_PROCESS_SECONDS,
        ),
    ]
    report.print_targets(targets)
    report.write(
        "startup",
        {
            "seconds": seconds,
            "installing": installing,
            "searches": [{"name": name, "process": process, "wall": wall} for name, process, wall in timings],
            "targets": targets,
            "environment": report.environment(["shelflist"]),
        },
    )
    if not all(one["met"] for one in targets):
        sys.exit(1)


def first_answer(clone: Path) -> tuple[float, float]:
    """Seconds of clone, install and demo, and of the first two."""
    started = time.perf_counter()
    subprocess.run(["git", "clone", "-q", str(data.REPOSITORY), str(clone)], check=True)
    found = re.search(r"^python3 -m venv .*shelflist demo$", (clone / "README.md").read_text(), re.MULTILINE)
    assert found is not None
    install, _, demo = found[0].rpartition(" && ")
    _shell(install, clone)
    installed = time.perf_counter()
    _shell(demo, clone)
    return time.perf_counter() - started, installed - started


def searches(clone: Path, place: Path, rounds: int) -> list[tuple[str, float, float]]:
    """Median process and wall seconds of each kind of search."""
    shelflist = clone / ".venv" / "bin" / "shelflist"
    indexes = {"handbook": _indexed(shelflist, place / "handbook", clone / "src" / "shelflist" / "handbook")}
    if data.available():
        indexes[f"{ROWS:,} chunks"] = _indexed(shelflist, place / "large", _chunks(place / "chunks.jsonl"))
    found = []
    for name, directory in indexes.items():
        for mode in ("hybrid", "dense", "keyword"):
            times = [_timed([str(shelflist), "search", QUESTION, "--mode", mode], directory) for _ in range(rounds)]
            process, wall = (statistics.median(column) for column in zip(*times, strict=True))
            found.append((f"{name}, {mode}", process, wall))
    return found


def _indexed(shelflist: Path, place: Path, source: Path) -> Path:
    """A directory with a shelflist.toml and an index, from which the commands need no options."""
    place.mkdir()
    for command in (["init", "--url", "file:./index"], ["sync", str(source)]):
        _run([str(shelflist), *command], place)
    return place


def _chunks(path: Path) -> Path:
    corpus = data.load_corpus(ROWS)
    with path.open("w", encoding="utf-8") as file:
        for document_id, text in zip(corpus.document_ids, corpus.texts, strict=True):
            file.write(json.dumps({"document_id": document_id, "content": text}) + "\n")
    return path


def _timed(command: list[str], directory: Path) -> tuple[float, float]:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _run(command, directory)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def _shell(line: str, directory: Path) -> None:
    _run(["bash", "-c", line], directory)


def _run(command: list[str], directory: Path | None = None) -> None:
    # A shelflist.toml or a variable of whoever measures is not of the clone.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SHELFLIST_", "PYTHON"))}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    assert shutil.which("git"), "git makes the clone"
    main()
