"""`kill -9` while a sync writes: what was acknowledged is found, nothing else is, and the next sync finishes the work.

Every failure prints the seed; `python bench/kill.py --seed N` runs it again, and more of them.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shelflist.indexing.write import Writer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

KILLS_EACH = 26
KILLS = int(os.environ.get("SHELFLIST_KILLS", str(KILLS_EACH)))
"""In .ci/run, in a stage of its own, 200; three in eight of them with the ledger in a database of its own."""
SEEDS = tuple(range(2, 2 + -(-KILLS // KILLS_EACH)))


@pytest.fixture(scope="module")
def crash_worker() -> Any:
    spec = importlib.util.spec_from_file_location("crash_worker", Path(__file__).with_name("crash_worker.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _warm()
    return module


def _warm() -> None:
    """Import what the children will import, so that each forks ready to work; nothing is opened here."""
    import numpy  # noqa: F401
    import orjson  # noqa: F401
    import tantivy  # noqa: F401

    import shelflist

    assert shelflist.open


@pytest.mark.parametrize("seed", SEEDS)
def test_kill_during_sync(crash_worker: Any, folder: Path, seed: int) -> None:
    trial = crash_worker.Trial(folder, seed=seed, separate_ledger=seed % 8 in (3, 5, 7))
    trial.run(kills=KILLS_EACH)
    assert trial.kills >= KILLS_EACH
    assert trial.embedded > 0


def test_the_oracle_notices_a_lost_document(crash_worker: Any, tmp_path: Path) -> None:
    """A harness that finds nothing proves nothing: take away what was acknowledged, and it must say so."""
    trial = crash_worker.Trial(tmp_path, seed=99)
    trial.run(kills=2)
    job = trial._job()
    victim = next(name for name, pages in trial._wanted.items() if pages)
    pid, _ = trial._fork(lambda out: _delete(crash_worker, job, victim, out))
    os.waitpid(pid, 0)
    with pytest.raises(crash_worker.CrashError, match=victim):
        trial._inspect()


def test_the_oracle_notices_a_text_paid_twice(crash_worker: Any, tmp_path: Path) -> None:
    trial = crash_worker.Trial(tmp_path, seed=98)
    trial.paid.add("known")
    log = tmp_path / "log.jsonl"
    log.write_text('{"kind": "embed", "texts": ["new", "known"]}\n{"kind": "embed", "te')
    with pytest.raises(crash_worker.CrashError, match="known"):
        trial._events(log)


def test_the_oracle_notices_a_lost_cache(crash_worker: Any, tmp_path: Path) -> None:
    trial = crash_worker.Trial(tmp_path, seed=97)
    name = crash_worker.NAMES[0]
    trial._wanted[name] = (("saved and never switched to", 0),)
    operation = {"kind": "sync", "name": name, "pages": trial._wanted[name], "touched": [name]}
    pid, log = trial._fork(lambda out: _die_before_writing(crash_worker, trial._job(), operation, out))
    os.waitpid(pid, 0)
    trial._events(log)
    assert trial.paid == {"saved and never switched to"}
    with closing(sqlite3.connect(next((tmp_path / "index").glob("*.db")))) as database, database:
        database.execute("DELETE FROM sl_embeddings")
    with pytest.raises(crash_worker.CrashError, match="saved and never switched to"):
        trial._finish()


def _die_before_writing(crash_worker: Any, job: dict[str, Any], operation: dict[str, Any], out: int) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    Writer.write_together = die  # type: ignore[assignment, method-assign]
    crash_worker._work(job, [operation], None, out)


def _delete(crash_worker: Any, job: dict[str, Any], name: str, out: int) -> None:
    with crash_worker._open(job, out) as collection:
        collection.delete(name)
