"""What one process remembers of an embedded generation: its vectors as one matrix, and the row sets of recent filters.

Both are keyed by the generation's sequence, which every write moves on, so nothing outdated is ever used.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from shelflist.core.transaction import Transaction
from shelflist.core.types import Vector
from shelflist.engine.exact import distances, prepared
from shelflist.stores.protocol import GenerationSpec

Rows = npt.NDArray[np.int64]

_MAX_ROW_SETS = 64
_GATHER_COST = 4
"""How much dearer it is to copy a row out of the matrix than to multiply it in place."""
_MAX_ROW_SET_BYTES = 64_000_000


class RowCache:
    def __init__(self, spec: GenerationSpec) -> None:
        self._spec = spec
        self._lock = threading.RLock()
        self._rows: Rows = np.empty(0, np.int64)
        self._matrix: Vector = np.empty((0, spec.dimensions), np.float32)
        self._used = 0
        self._sets: OrderedDict[tuple[str, tuple[Any, ...]], tuple[int, Rows]] = OrderedDict()

    def matching(self, tx: Transaction, condition: str, parameters: tuple[Any, ...], sequence: int) -> Rows:
        """Row numbers, ascending, that meet a condition on the alias `p`, as this transaction sees them."""
        key = (condition, tuple((type(value), value) for value in parameters))
        with self._lock:
            known = self._sets.get(key)
            if known is not None and known[0] == sequence:
                self._sets.move_to_end(key)
                return known[1]
        found = tx.execute(f"SELECT p.row FROM {self._spec.name} p WHERE {condition}", parameters)
        rows = np.fromiter((row for (row,) in found), dtype=np.int64)
        rows.sort()
        with self._lock:
            self._sets[key] = (sequence, rows)
            self._sets.move_to_end(key)
            while len(self._sets) > 1 and (
                len(self._sets) > _MAX_ROW_SETS or sum(s.nbytes for _, s in self._sets.values()) > _MAX_ROW_SET_BYTES
            ):
                self._sets.popitem(last=False)
        return rows

    def distances(self, tx: Transaction, rows: Rows, query: Vector) -> Vector:
        """Distances of these rows (ascending) to a prepared query, shape (len(rows),)."""
        metric = self._spec.metric
        if not len(rows):
            return np.empty(0, np.float32)
        with self._lock:
            if self._used and len(rows) * 2 < self._used and self._mostly_dead(tx):
                self._used = 0
            last = int(self._rows[self._used - 1]) if self._used else 0
            if rows[-1] > last:
                self._load_after(tx, last)
            known, matrix = self._rows[: self._used], self._matrix[: self._used]
        positions = np.searchsorted(known, rows)
        positions[positions == len(known)] = 0
        missing = np.flatnonzero(known[positions] != rows)
        if len(rows) * _GATHER_COST > len(known):  # one pass over everything beats copying most of it
            found: Vector = distances(matrix, query, metric)[positions]
        else:
            found = distances(matrix[positions], query, metric)
        for i in missing.tolist():  # an older snapshot may see rows that the cache has dropped for a newer one
            (blob,) = tx.execute(
                f"SELECT vector FROM {self._spec.name}_vectors WHERE row = ?", (int(rows[i]),)
            ).fetchone()
            found[i] = distances(prepared(np.frombuffer(blob, np.float32)[None], metric), query, metric)[0]
        return found

    def _mostly_dead(self, tx: Transaction) -> bool:
        (alive,) = tx.execute(f"SELECT count(*) FROM {self._spec.name}_vectors").fetchone()
        return bool(alive * 2 < self._used)

    def _load_after(self, tx: Transaction, last: int) -> None:
        (count,) = tx.execute(f"SELECT count(*) FROM {self._spec.name} WHERE row > ?", (last,)).fetchone()
        self._reserve(self._used + count)
        cursor = tx.execute(f"SELECT row, vector FROM {self._spec.name}_vectors WHERE row > ? ORDER BY row", (last,))
        while part := cursor.fetchmany(8192):
            vectors = np.frombuffer(b"".join(blob for _, blob in part), np.float32).reshape(len(part), -1)
            self._rows[self._used : self._used + len(part)] = [row for row, _ in part]
            self._matrix[self._used : self._used + len(part)] = prepared(vectors, self._spec.metric)
            self._used += len(part)

    def _reserve(self, needed: int) -> None:
        # Growing makes new arrays: another thread may be reading the old ones.
        if needed > len(self._rows):
            capacity = max(1024, needed + needed // 4)
            rows, matrix = np.zeros(capacity, np.int64), np.empty((capacity, self._spec.dimensions), np.float32)
            rows[: self._used] = self._rows[: self._used]
            matrix[: self._used] = self._matrix[: self._used]
            self._rows, self._matrix = rows, matrix
