"""A snapshot: what a generation's vectors were at one sequence, with the indexes over them, in a directory of files.

    vectors.f32   prepared vectors, row-major float32, mapped       rows.i64   their rows, ascending
    ids.u8        their point ids, 16 bytes each                    codes.faiss, graph.faiss, cells.faiss   the indexes
    products.faiss, rotation.f32, strays.i64   the codes of packed copies, mapped, what turns them, and whose tell nothing
    manifest.json what it is, and size and checksum of each file    columns.json, column-*     the fields (see `columns`)

It is written aside and never changed. It is a cache: whoever finds it damaged, missing or of another time does without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shelflist.core.types import Metric, Vector
from shelflist.engine.calibration import Calibration
from shelflist.engine.cells import Cells
from shelflist.engine.codes import Codes
from shelflist.engine.columns import COLUMNS, Columns
from shelflist.engine.graph import Graph
from shelflist.engine.products import ProductCodes
from shelflist.engine.rescoring import Allowed
from shelflist.engine.view import Base

FORMAT = 3
VECTORS, ROWS, IDS, CODES, PRODUCTS, ROTATION, STRAYS, GRAPH, CELLS, MANIFEST = (
    "vectors.f32",
    "rows.i64",
    "ids.u8",
    "codes.faiss",
    "products.faiss",
    "rotation.f32",
    "strays.i64",
    "graph.faiss",
    "cells.faiss",
    "manifest.json",
)
_READ_BYTES = 4_000_000


class SnapshotDamaged(Exception):
    """The snapshot cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Whose vectors a snapshot holds, and as of when. `last_row`: the last row that had been given out by then."""

    name: str
    sequence: int
    last_row: int
    dimensions: int
    metric: Metric


@dataclass(frozen=True, slots=True)
class Snapshot:
    moment: Moment
    base: Base
    columns: Columns
    rows: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint8]


def seal(directory: Path, moment: Moment, calibration: Calibration) -> None:
    """Write the manifest over the files that are there, and see all of it to the disk."""
    files = {}
    for path in sorted(directory.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        state = path.stat()
        files[path.name] = {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "blake2b": _checksum(path)}
    _write_manifest(
        directory / MANIFEST, {"format": FORMAT, **asdict(moment), "calibration": asdict(calibration), "files": files}
    )
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(directory: Path, moment: Moment) -> Snapshot:
    """The snapshot, mapped; SnapshotDamaged unless it is whole and of this moment."""
    with _read_errors(directory):
        return _opened(directory, moment, _manifest(directory, moment))


def _write_manifest(path: Path, held: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(held, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _check_file(path: Path, facts: dict[str, Any], *, whole: bool = False) -> bool:
    """Compare a file with what the manifest says of it, and say whether it was touched since. Its bytes are read only then, or
    for `whole`."""
    state = path.stat()
    if state.st_size != facts["size"]:
        raise SnapshotDamaged(f"{path.name} has {state.st_size} bytes, not {facts['size']}")
    is_touched = bool(state.st_mtime_ns != facts["mtime_ns"])
    if (whole or is_touched) and _checksum(path) != facts["blake2b"]:
        raise SnapshotDamaged(f"{path.name} has another checksum than when it was written")
    facts["mtime_ns"] = state.st_mtime_ns
    return is_touched


def check(directory: Path, moment: Moment, *, whole: bool = True) -> None:
    """SnapshotDamaged unless every file is as it was written; `whole`: by all its bytes, else as `load` does."""
    with _read_errors(directory):
        _manifest(directory, moment, whole=whole)


def mapped_vectors(directory: Path, dimensions: int) -> Vector:
    """The vectors, shape (n, dimensions), read only."""
    mapped = np.memmap(directory / VECTORS, np.float32, "r")
    return np.asarray(mapped).reshape(-1, dimensions)


def _manifest(directory: Path, moment: Moment, *, whole: bool = False) -> dict[str, Any]:
    """What the manifest holds, when it and the files are found to be as they should."""
    held: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    if held["format"] != FORMAT:
        raise SnapshotDamaged(f"it has the format {held['format']}, not {FORMAT}")
    for key, wanted in asdict(moment).items():
        if held[key] != wanted:
            raise SnapshotDamaged(f"its {key} is {held[key]}, not {wanted}")
    touched = [name for name, facts in held["files"].items() if _check_file(directory / name, facts, whole=whole)]
    if touched:
        _remember_times(directory, held)
    return held


def _remember_times(directory: Path, held: dict[str, Any]) -> None:
    """A copy of an index is read whole once, and not again by every process; where it may not be written, so be it."""
    aside = directory / f"{MANIFEST}.{os.urandom(4).hex()}"
    with suppress(OSError):
        try:
            _write_manifest(aside, held)
            shutil.copymode(directory / MANIFEST, aside)
            aside.replace(directory / MANIFEST)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def _read_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SnapshotDamaged(f"{error.strerror or error}: {Path(error.filename or directory).name}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SnapshotDamaged(f"{MANIFEST} or a file does not hold what it should ({error})") from error


def _opened(directory: Path, moment: Moment, held: dict[str, Any]) -> Snapshot:
    vectors = mapped_vectors(directory, moment.dimensions)
    rows = np.fromfile(directory / ROWS, np.int64)
    ids = np.fromfile(directory / IDS, np.uint8).reshape(-1, 16)
    codes = Codes.load(directory / CODES) if CODES in held["files"] else None
    of_products = [directory / name for name in (PRODUCTS, ROTATION, STRAYS)]
    products = ProductCodes.load(*of_products) if PRODUCTS in held["files"] else None
    graph = Graph.load(directory / GRAPH) if GRAPH in held["files"] else None
    cells = Cells.load(directory / CELLS) if CELLS in held["files"] else None
    counts = {
        len(vectors),
        len(rows),
        len(ids),
        *(one.count for one in (codes, products, graph, cells) if one is not None),
    }
    if len(counts) != 1:
        raise SnapshotDamaged(f"its parts are of different lengths: {sorted(counts)}")
    columns = Columns(directory, len(rows)) if COLUMNS in held["files"] else Columns()
    base = Base(vectors, codes, graph, cells, _calibration(held["calibration"]), products)
    return Snapshot(moment, base, columns, rows, ids)


def _calibration(held: dict[str, Any]) -> Calibration:
    allowed = {key: None if held[key] is None else Allowed(*held[key]) for key in ("allowed", "allowed_packed")}
    return Calibration(**{**held, **allowed})


def _checksum(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    return digest.hexdigest()
