"""Many syncs of one document each: what is built aside keeps up by itself, and nothing piles up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import shelflist
from shelflist import Chunk, Collection, Hnsw, SearchParams
from shelflist.core.types import Vector
from shelflist.engine.snapshot import Moment
from shelflist.stores import _compaction

DIMENSIONS = 32
SYNCS = int(os.environ.get("SHELFLIST_SYNCS", "300"))
"""In .ci/run, in a stage of its own, a thousand."""
FROM, NEWER, SHARE = 60, 20, 0.25
"""The thresholds of a snapshot, small: of a first one, and by how many rows and which share more than the last has."""
LOG_BYTES = 70_000_000
"""Little more than what SQLite's log holds before it is begun anew."""


def vector(number: int) -> Vector:
    centre = np.random.default_rng(number % 20).normal(size=DIMENSIONS)
    return (centre + 0.4 * np.random.default_rng(1_000 + number).normal(size=DIMENSIONS)).astype(np.float32)


@pytest.fixture
def docs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    monkeypatch.setattr(_compaction, "_NEWER", NEWER)
    monkeypatch.setattr(_compaction, "_NEWER_SHARE", SHARE)
    opened = shelflist.open(
        f"file:{folder / 'index'}",
        "docs",
        embedder=None,
        fingerprint="test",
        dimensions=DIMENSIONS,
        index=Hnsw(indexing_threshold=FROM, full_scan_threshold=0),
    )
    yield opened
    opened.close()


class Model:
    """What must be found: the vector of each document that is there."""

    def __init__(self) -> None:
        self.vectors: dict[str, Vector] = {}

    def nearest(self, query: Vector) -> list[str]:
        matrix = np.stack(list(self.vectors.values()))
        cosines = matrix @ query / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
        names = list(self.vectors)
        return [names[i] for i in np.argsort(-cosines, kind="stable")[:10]]


def test_many_small_syncs(docs: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in three bring a new document, one in three changes an old one; a twentieth of them is followed by a delete."""
    built: list[tuple[int, int]] = []
    publish = _compaction.Compaction._publish

    def counted(self: _compaction.Compaction, place: str | None, moment: Moment, count: int) -> bool:
        built.append((moment.last_row, count))
        return publish(self, place, moment, count)

    monkeypatch.setattr(_compaction.Compaction, "_publish", counted)
    model, shares = Model(), []
    random = np.random.default_rng(5)
    for number in range(SYNCS):
        names = list(model.vectors)
        name = names[random.integers(len(names))] if number % 3 == 2 else f"d{number}"
        docs.sync(name, [Chunk(f"text {number}", embedding=vector(number))])
        model.vectors.pop(name, None)
        model.vectors[name] = vector(number)
        if number % 20 == 19:
            gone = list(model.vectors)[random.integers(len(model.vectors))]
            docs.delete(gone)
            del model.vectors[gone]
        if number % 10 == 9:
            asked = vector(random.integers(number))
            truth = model.nearest(asked)
            exact = docs.search(asked, limit=10, params=SearchParams(exact=True))
            assert [hit.document_id for hit in exact] == truth
            found = [hit.document_id for hit in docs.search(asked, limit=10)]
            assert len(found) == len(truth)
            shares.append(len(set(found) & set(truth)) / len(truth))
    assert np.mean(shares) >= 0.95
    docs._parts.store._vectors.wait()

    # Each row is new once and goes once, so there is a snapshot for every tenth more that was written, at the most.
    for (before, count), (after, _) in pairwise(built):
        assert after - before >= 0.1 * count, built
    assert 5 <= len(built) <= 30, built
    assert docs.search(vector(1)).plan.startswith("dense: graph of ")

    newer = docs.count() - built[-1][1]
    assert newer <= 2 * max(NEWER, SHARE * built[-1][1])
    index = folder / "index"
    snapshots = {path.name for path in (index / "vectors").iterdir() if path.is_dir()}
    assert len(snapshots) <= 2  # the one in use, and the one before for those who are reading by it
    assert _mapped(index / "vectors") <= snapshots
    assert (index / "shelflist.db-wal").stat().st_size < LOG_BYTES
    assert len(list((index / "keywords").rglob("*"))) < 150
    assert docs.verify()["ok"]


def _mapped(directory: Path) -> set[str]:
    """Snapshots of which this process has a file mapped, deleted ones too."""
    if not Path("/proc/self/maps").exists():
        return set()
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.partition(f"{directory}/")[2].partition("/")[0] for line in lines if f"{directory}/" in line}
