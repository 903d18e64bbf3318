"""Snapshots that are damaged, missing, or copied: done without, told once, and built anew."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from index_of_hundreds import DIMENSIONS, SPEC, TRUTH, assert_recall, ids, plan, snapshot_of, vector_of, written

from shelflist.core.types import Ivf, SearchParams
from shelflist.engine import planner, snapshot
from shelflist.stores import _compaction
from shelflist.stores.embedded import EmbeddedStore
from shelflist.stores.protocol import Scope
from shelflist.testing.points import point_id


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _newer(path: Path) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "sequence": manifest["sequence"] + 5}))


def _other_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


DAMAGE: list[tuple[str, str, Callable[[Path], None]]] = [
    *(
        (name, how.__name__, how)
        for name in (
            *("vectors.f32", "rows.i64", "ids.u8", "codes.faiss", "graph.faiss", "manifest.json"),
            *("products.faiss", "rotation.f32"),
            *("columns.json", "column-1.places", "column-1.values.json", "column-2.starts", "column-2.rows"),
        )
        for how in (_flip, _cut, Path.unlink)
    ),
    ("strays.i64", "unlink", Path.unlink),  # it is empty here
    ("manifest.json", "newer", _newer),
    ("manifest.json", "other format", _other_format),
]


@pytest.mark.parametrize(
    ("name", "how"), [(name, how) for name, _, how in DAMAGE], ids=[f"{n}-{h}" for n, h, _ in DAMAGE]
)
def test_a_damaged_snapshot_is_done_without_and_built_anew(
    store: EmbeddedStore, place: Path, name: str, how: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    truth = ids(store, vector_of(3), exact=True)
    store.close()
    how(snapshot_of(place) / name)
    again = EmbeddedStore(place)
    assert again.stats(SPEC)["snapshot_rows"] is None
    for _ in range(3):
        assert ids(again, vector_of(3)) == truth  # exactly, from the rows
    assert len([one for one in caplog.messages if "cannot be used" in one]) == 1
    again.close()
    again = EmbeddedStore(place)  # that has not searched, as the next sync has not
    again.build(SPEC)
    again._vectors.wait()
    assert plan(again).startswith("graph of 600 rows") and again.stats(SPEC)["snapshot_rows"] == 600
    assert_recall(again)
    again.close()


@pytest.mark.parametrize("how", [_flip, _cut, Path.unlink])
def test_damaged_cells_are_done_without_and_built_anew(
    place: Path, how: Callable[[Path], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    monkeypatch.setattr(planner, "FEW_MATCHES", 0)
    spec = replace(SPEC, index=Ivf(nlist=12))
    with closing(EmbeddedStore(place)) as first:
        first.create(spec)
        written(first, range(600), spec)
        first.repair(spec)
    how(snapshot_of(place) / "cells.faiss")
    with closing(EmbeddedStore(place)) as again:
        for asked in (SearchParams(), TRUTH):
            found = again.search(spec, vector_of(3), limit=10, scope=Scope(), params=asked)
            assert found.exact and found.items[0].point_id == point_id("3")
        assert len([one for one in caplog.messages if "cannot be used" in one]) == 1
        again.build(spec)
        again._vectors.wait()
        found = again.search(spec, vector_of(3), limit=10, scope=Scope(), params=SearchParams())
        assert found.plan.startswith("cells of 600 rows") and found.items[0].point_id == point_id("3")


@pytest.mark.parametrize(("nlist", "told"), [(64, 1), (15, 0), (None, 0)])
def test_fewer_cells_than_are_asked_for_are_told_once_a_build(
    place: Path, nlist: int | None, told: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compaction, "SNAPSHOT_FROM", 100)
    spec = replace(SPEC, index=Ivf(nlist=nlist))
    with closing(EmbeddedStore(place)) as opened:
        opened.create(spec)
        written(opened, range(600), spec)
        opened.repair(spec)
        opened.search(spec, vector_of(3), limit=10, scope=Scope(), params=SearchParams())
    said = [one for one in caplog.messages if "has 15 cells, not the 64 that nlist asks for" in one]
    assert len(said) == told and len(caplog.messages) == told
    with closing(EmbeddedStore(place)) as again:  # what is read was not built
        again.search(spec, vector_of(3), limit=10, scope=Scope(), params=SearchParams())
    assert len(caplog.messages) == told


def test_a_snapshot_whose_folder_is_gone(store: EmbeddedStore, place: Path) -> None:
    truth = ids(store, vector_of(3), exact=True)
    store.close()
    shutil.rmtree(place / "vectors")
    again = EmbeddedStore(place)
    assert ids(again, vector_of(3)) == truth
    again.build(SPEC)
    again.close()
    assert snapshot_of(place)


@pytest.mark.parametrize("may_be_written", [True, False])
def test_a_copied_index_is_read_whole_once_and_trusted(
    store: EmbeddedStore, place: Path, tmp_path: Path, may_be_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    shutil.copytree(place, tmp_path / "copy", copy_function=shutil.copyfile)  # with other times
    read: list[str] = []
    checksum = snapshot._checksum
    monkeypatch.setattr(snapshot, "_checksum", lambda path: read.append(path.name) or checksum(path))
    if not may_be_written:
        monkeypatch.setattr(Path, "replace", _refused)
    for opening in range(2):
        again = EmbeddedStore(tmp_path / "copy")
        assert plan(again).startswith("graph")
        again.close()
        assert ("vectors.f32" in read) == (opening == 0 or not may_be_written)
        read.clear()


def _refused(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_damage_that_is_found_under_an_open_handle_is_not_searched(store: EmbeddedStore, place: Path) -> None:
    assert plan(store).startswith("graph")
    vectors = snapshot_of(place) / "vectors.f32"
    state = vectors.stat()
    with vectors.open("r+b") as file:
        file.write(b"\0" * 4 * DIMENSIONS)  # of row 0
    os.utime(vectors, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert ids(store, vector_of(0), exact=True)[0] != point_id("0")  # the same bytes are mapped here
    assert store.stats(SPEC)["snapshot_rows"] is None
    assert plan(store).startswith("exact") and ids(store, vector_of(0))[0] == point_id("0")
    store.repair(SPEC)
    assert plan(store).startswith("graph") and ids(store, vector_of(0))[0] == point_id("0")
