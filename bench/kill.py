"""`kill -9` during sync, more often than the tests have time for.

    python bench/kill.py --kills 2000
    python bench/kill.py --seed 5 --trials 1 --kills 26      # what tests/acceptance/test_kill.py did with seed 5

Each trial has its own index and seed; the seeds 3, 5 and 7 of every eight keep the ledger in a database of its own. The
first broken promise ends the run with the seed and the index left in place. Writes bench/results/kill.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import data
import report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2_000, help="in all trials together")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1, help="of the first trial; the next ones count on")
    parser.add_argument("--keep", action="store_true", help="leave the indexes in place")
    options = parser.parse_args()

    worker = _crash_worker()
    started = time.perf_counter()
    kills = finished = embedded = 0
    for seed in range(options.seed, options.seed + options.trials):
        directory = Path(tempfile.mkdtemp(prefix=f"shelflist-kill-{seed}-"))
        trial = worker.Trial(directory, seed=seed, separate_ledger=seed % 8 in (3, 5, 7))
        trial.run(kills=-(-options.kills // options.trials))
        kills, finished, embedded = kills + trial.kills, finished + trial.finished, embedded + trial.embedded
        print(
            f"seed {seed}: {trial.kills} kills, {trial.finished} got away, "
            f"{'separate ledger' if trial.separate_ledger else 'one database'}: nothing lost, nothing doubled",
            flush=True,
        )
        if not options.keep:
            shutil.rmtree(directory)
    seconds = time.perf_counter() - started
    print(f"{kills} kills in {seconds:.0f} s, {embedded} texts embedded, no promise broken.")
    report.write(
        "kill",
        {
            "kills": kills,
            "survivors": finished,
            "embedded": embedded,
            "seconds": seconds,
            "first_seed": options.seed,
            "trials": options.trials,
            "environment": report.environment(["numpy", "tantivy"]),
        },
    )


def _crash_worker() -> Any:
    path = data.REPOSITORY / "tests" / "acceptance" / "crash_worker.py"
    spec = importlib.util.spec_from_file_location("crash_worker", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
