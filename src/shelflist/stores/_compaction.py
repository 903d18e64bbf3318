"""Building the snapshot of a generation anew, aside, while everybody goes on reading and writing.

Table store_snapshots (name, place, sequence, last_row, rows) says which directory is in use. The lock is one of the operating
system's on a file, so it goes with a process that dies; what such a process left behind, the next compaction removes.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shelflist.core.errors import StoreError, StoreFull
from shelflist.core.fields import FieldType
from shelflist.core.log import log
from shelflist.core.transaction import Transaction
from shelflist.core.types import Flat, Hnsw, IndexSpec, Ivf
from shelflist.database import SqliteDatabase
from shelflist.engine.calibration import (
    Calibration,
    allowed_for,
    by_packing,
    by_selection,
    effort_for,
    few_for,
    probes_for,
    samples_of,
)
from shelflist.engine.cells import LEAST_ROWS_A_CELL, Cells
from shelflist.engine.codes import LEAST_DIMENSIONS, Codes
from shelflist.engine.columns import TENANT, ColumnsWriter
from shelflist.engine.exact import prepared
from shelflist.engine.graph import Graph
from shelflist.engine.products import ProductCodes
from shelflist.engine.snapshot import (
    CELLS,
    CODES,
    GRAPH,
    IDS,
    PRODUCTS,
    ROTATION,
    ROWS,
    STRAYS,
    VECTORS,
    Moment,
    SnapshotDamaged,
    check,
    mapped_vectors,
    seal,
)
from shelflist.stores._blobs import vectors_of
from shelflist.stores._removed import KEPT, create_log, has_log
from shelflist.stores._sql import field_column
from shelflist.stores.protocol import GenerationSpec

SNAPSHOT_FROM = 10_000
"""Rows from which vectors are kept in a file of their own, with their codes."""
GRAPH_FROM = 20_000
"""Rows from which there is a graph, unless the index says otherwise (`indexing_threshold`)."""
_NEWER, _NEWER_SHARE = 5_000, 0.05
_GONE_SHARE = 0.2
_FETCHED = 8_192
_LOOKED_EVERY = 0.1
"""Seconds between two looks at whether another build has ended."""
_SLOW_WAIT = 5.0
"""Seconds after which it is said that another is waited for."""
_M, _EF_CONSTRUCTION = 16, 160
_AS_MANY = 2
"""Times as many as the other codes leave open: more, and product codes are not what they are for these vectors."""


class Stopped(Exception):
    """Somebody has called `stop`, or dropped the generation."""


class Compaction:
    """Of one generation. `done` of `total` vectors have been copied, or put into an index; each index counts them anew.
    `is_asked_again`: somebody has written since, and would have had one built; `is_over`: nobody looks at that any more."""

    def __init__(self, database: SqliteDatabase, spec: GenerationSpec, directory: Path) -> None:
        self._database = database
        self._spec = spec
        self._directory = directory
        self._stopped = threading.Event()
        self.done = self.total = 0
        self.is_asked_again = self.is_over = False

    def stop(self) -> None:
        """Have a run in another thread end soon, as if it had not been begun."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def wait_for_others(self) -> None:
        """Return when nobody else is at it: another process, or a thread of this one that was stopped and has not ended."""
        told_at = time.monotonic() + _SLOW_WAIT
        while not self._stopped.wait(_LOOKED_EVERY):
            with _alone(self._lock_path) as is_alone:
                if is_alone:
                    return
            if time.monotonic() > told_at:
                log.warning("Waiting for another process that builds the vector index in %s.", self._directory)
                told_at = math.inf

    def is_due(self) -> bool:
        """Whether there should be a snapshot and is none that can be used, or so much was written since the last one that
        another is worth its while. Reads no more than a few rows, so that every small sync may ask."""
        name = self._spec.name
        with self._database.read() as tx:
            found = tx.execute("SELECT last_row, sequence FROM store_generations WHERE name = ?", (name,)).fetchone()
            if found is None or found[0] < _least(self._spec.index):
                return False
            snapshot = in_use(tx, self._spec)
            if snapshot is None:
                return _living(tx, name) >= _least(self._spec.index)
            place, moment, rows = snapshot
            if found[0] - moment.last_row > max(_NEWER, rows * _NEWER_SHARE):
                return True
            if found[1] - moment.sequence > KEPT:  # what was removed since is not all remembered
                return True
            (gone,) = tx.execute(
                f"SELECT count(*) FROM {name}_removed WHERE sequence > ?", (moment.sequence,)
            ).fetchone()
        if gone > rows * _GONE_SHARE:
            return True
        try:
            check(self._directory / place, moment, whole=False)
        except SnapshotDamaged:
            return True
        return False

    def run(self) -> bool:
        """Build and publish a snapshot; False if another process is at it, or there is too little to build.

        Raises StoreFull or StoreError if it cannot be written; what was there goes on answering.
        """
        try:
            return self._run()
        except (OSError, RuntimeError) as error:  # the latter is how FAISS tells of a full disk
            raise self._unwritten(error) from error

    def _run(self) -> bool:
        self.done = self.total = 0
        with _alone(self._lock_path) as is_alone:
            if not is_alone:
                return False
            self._remove_left_over()
            place = self._directory / f"{self._spec.name}.{os.urandom(8).hex()}"
            place.mkdir()
            try:
                moment, count = self._copy_rows(place)
                enough = count >= _least(self._spec.index)
                if enough:
                    seal(place, moment, self._build(place, count))
                published = self._publish(place.name if enough else None, moment, count)
            except Stopped:
                shutil.rmtree(place, ignore_errors=True)
                return False
            except BaseException:
                shutil.rmtree(place, ignore_errors=True)
                raise
            if not (enough and published):
                shutil.rmtree(place, ignore_errors=True)
            return enough and published

    @property
    def _lock_path(self) -> Path:
        return self._directory / f"{self._spec.name}.lock"

    def _unwritten(self, error: OSError | RuntimeError) -> StoreError:
        if os.strerror(errno.ENOSPC) in str(error) or os.strerror(errno.EDQUOT) in str(error):
            return StoreFull(
                f"No space is left to build the vector index in {self._directory} ({error}). "
                "Free some space, then run: shelflist repair"
            )
        return StoreError(
            f"The vector index in {self._directory} cannot be written ({error}). Check the disk and the permissions "
            "there, then run: shelflist repair"
        )

    def _copy_rows(self, place: Path) -> tuple[Moment, int]:
        """The living rows of one transaction, as files."""
        spec, name = self._spec, self._spec.name
        rows: list[np.ndarray[Any, Any]] = []
        ids: list[bytes] = []
        columns = ColumnsWriter({TENANT: FieldType.STR, **spec.fields})
        with self._database.read() as tx, (place / VECTORS).open("wb") as file:
            found = tx.execute("SELECT sequence, last_row FROM store_generations WHERE name = ?", (name,)).fetchone()
            if found is None:  # dropped since
                raise Stopped
            sequence, last_row = found
            self.total = _living(tx, name)
            fields = "".join(f", p.{field_column(field)}" for field in spec.fields)
            cursor = tx.execute(
                f"SELECT p.row, p.point_id, v.vector, p.tenant_id{fields} FROM {name} p JOIN {name}_vectors v USING (row) "
                "WHERE p.index_status = 'indexed' ORDER BY p.row"
            )
            while part := cursor.fetchmany(_FETCHED):
                self._advance(len(part))
                some, named, blobs, *_ = zip(*part, strict=True)
                vectors = vectors_of(blobs, spec, self._directory)
                file.write(prepared(vectors, spec.metric).tobytes())
                rows.append(np.asarray(some, np.int64))
                ids += named
                columns.add(row[3:] for row in part)
            every = np.concatenate(rows) if rows else np.empty(0, np.int64)
            for field, kind in spec.fields.items():
                if kind is FieldType.LIST:
                    self._copy_members(tx, field, every, columns)
        columns.save(place)
        (place / ROWS).write_bytes(every.data)
        (place / IDS).write_bytes(b"".join(ids))
        return Moment(name, sequence, last_row, spec.dimensions, spec.metric), len(every)

    def _copy_members(self, tx: Transaction, field: str, rows: np.ndarray[Any, Any], columns: ColumnsWriter) -> None:
        if not len(rows):  # lists of stale rows there may be
            return
        cursor = tx.execute(f"SELECT value, row FROM {self._spec.name}_lists WHERE field = ?", (field,))
        while part := cursor.fetchmany(_FETCHED):
            self._check()
            wanted = np.asarray([row for _, row in part], np.int64)
            positions = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
            for (member, _), position, is_living in zip(
                part, positions.tolist(), (rows[positions] == wanted).tolist(), strict=True
            ):
                if is_living:
                    columns.add_member(field, member, position)

    def _build(self, place: Path, count: int) -> Calibration:
        """The indexes that the generation calls for, and what was measured on them."""
        spec, index = self._spec, self._spec.index
        vectors = mapped_vectors(place, spec.dimensions)
        codes = products = graph = cells = None
        has_codes = _wants_codes(index) and spec.dimensions >= LEAST_DIMENSIONS
        has_graph = _wants_graph(index, count)
        has_cells = isinstance(index, Ivf) and has_codes
        bits = 2 if index is not None and index.quantization == "rabitq2" else 1
        has_products = has_codes and ProductCodes.fit(spec.metric, count, spec.dimensions)
        self.total += count * (has_codes + has_products + has_graph + has_cells)
        if has_codes:
            codes = Codes.build(vectors, spec.metric, self._advance, bits=bits)
            codes.save(place / CODES)
            before = self.done
            products = ProductCodes.build(vectors, spec.metric, self._advance)
            self.done = before + count * has_products  # also where they were given up on the way
        if isinstance(index, Ivf) and has_codes:
            cells = Cells.build(vectors, spec.metric, self._advance, nlist=index.nlist, bits=bits)
            cells.save(place / CELLS)
            if index.nlist is not None and cells.cells < index.nlist:
                log.warning(
                    "The vector index in %s has %d cells, not the %d that nlist asks for: each needs %d of the %d rows. It is "
                    "built with more when there are more rows.",
                    self._directory,
                    cells.cells,
                    index.nlist,
                    LEAST_ROWS_A_CELL,
                    count,
                )
        if has_graph:
            chosen = index if isinstance(index, Hnsw) else Hnsw(_M, _EF_CONSTRUCTION)
            Graph.build(vectors, spec.metric, self._advance, m=chosen.m, ef_construction=chosen.ef_construction).save(
                place / GRAPH
            )
            graph = Graph.load(place / GRAPH)
        self._check()
        if codes is None and graph is None:
            return Calibration()
        sample, target = samples_of(vectors, spec.metric), spec.target_recall
        measured = Calibration(effort=None if graph is None else effort_for(graph, sample, target))
        allowed = None if codes is None else allowed_for(codes, vectors, sample, target)
        if codes is None or allowed is None:
            return measured
        packing, allowed_packed = by_packing(codes), None
        if products is not None:
            allowed_packed = allowed_for(codes, vectors, sample, target, by_packing(products))
            if allowed_packed is not None and allowed_packed.crowd <= _AS_MANY * allowed.crowd:
                products.save(place / PRODUCTS, place / ROTATION, place / STRAYS)
                packing = by_packing(products)
            else:
                allowed_packed = None
        few, few_packed = (
            few_for(codes, vectors, sample.queries, spec.metric, by_these, scans)
            for scans, by_these in ((by_selection(codes), allowed), (packing, allowed_packed or allowed))
        )
        probes = None if cells is None else probes_for(cells, codes, vectors, allowed, sample, target)
        return replace(
            measured, allowed=allowed, allowed_packed=allowed_packed, few=few, few_packed=few_packed, probes=probes
        )

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _advance(self, vectors: int) -> None:
        self._check()
        self.done += vectors

    def _publish(self, place: str | None, moment: Moment, count: int) -> bool:
        """Readers move to the snapshot at their next query; with None, from the old one back to the rows themselves."""
        name = self._spec.name
        with self._database.write() as tx:
            if tx.execute("SELECT 1 FROM store_generations WHERE name = ?", (name,)).fetchone() is None:
                return False
            create_log(tx, name)
            tx.execute("DELETE FROM store_snapshots WHERE name = ?", (name,))
            if place is not None:
                tx.execute(
                    "INSERT INTO store_snapshots VALUES (?, ?, ?, ?, ?)",
                    (name, place, moment.sequence, moment.last_row, count),
                )
        return True

    def _remove_left_over(self) -> None:
        """Directories that no snapshot in use has: older ones, and those of a process that died."""
        with self._database.read() as tx:
            used = in_use(tx, self._spec)
        for path in self._directory.glob(f"{self._spec.name}.*"):
            if path.is_dir() and (used is None or path.name != used[0]):
                shutil.rmtree(path, ignore_errors=True)


def in_use(tx: Transaction, spec: GenerationSpec) -> tuple[str, Moment, int] | None:
    """Place, moment and number of rows of the snapshot that searches of this transaction use."""
    found = None
    if has_log(tx, spec.name):
        found = tx.execute(
            "SELECT place, sequence, last_row, rows FROM store_snapshots WHERE name = ?", (spec.name,)
        ).fetchone()
    if found is None:
        return None
    place, sequence, last_row, rows = found
    return place, Moment(spec.name, sequence, last_row, spec.dimensions, spec.metric), rows


def drop_snapshots(directory: Path, name: str) -> None:
    for path in directory.glob(f"{name}.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def _living(tx: Transaction, name: str) -> int:
    (count,) = tx.execute(f"SELECT count(*) FROM {name} WHERE index_status = 'indexed'").fetchone()
    return int(count)


def _wants_codes(index: IndexSpec | None) -> bool:
    return not isinstance(index, Flat) or index.quantization is not None


def _wants_graph(index: IndexSpec | None, count: int) -> bool:
    if index is None:
        return count >= GRAPH_FROM
    return isinstance(index, Hnsw) and count >= _graph_from(index)


def _graph_from(index: Hnsw) -> int:
    return GRAPH_FROM if index.indexing_threshold is None else index.indexing_threshold


def _least(index: IndexSpec | None) -> int:
    """Rows below which no snapshot is made."""
    return max(2, min(SNAPSHOT_FROM, _graph_from(index))) if isinstance(index, Hnsw) else SNAPSHOT_FROM


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody else compacts this generation now; the lock lasts as long as the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if os.name != "posix":
            yield True
            return
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            # Not left to the close: a process that was forked meanwhile has the same lock, and would keep it.
            fcntl.flock(file, fcntl.LOCK_UN)
