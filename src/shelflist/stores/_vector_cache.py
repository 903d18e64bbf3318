"""What one process knows of an embedded generation: its snapshot, the rows after it, and the row sets of recent filters.

Everything here is a cache of SQLite's rows at one sequence, which every write moves on. A search first catches up to
exactly the sequence that its transaction sees, reading only what was written since, so nothing outdated is ever used.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from shelflist.core.errors import StoreError
from shelflist.core.log import log
from shelflist.core.types import Vector
from shelflist.database import SqliteTransaction
from shelflist.engine.exact import prepared
from shelflist.engine.snapshot import Moment, Snapshot, SnapshotDamaged, load
from shelflist.engine.view import Base, Matches, Prepared, View
from shelflist.stores._blobs import vectors_of
from shelflist.stores._removed import has_log, removed_since
from shelflist.stores.protocol import GenerationSpec, Scope

Rows = npt.NDArray[np.int64]
_Key = tuple[str, tuple[Any, ...]]

_LIVING = "p.index_status = 'indexed'"
_MAX_SETS = 1_000
"""Row sets that are kept: a service with many tenants asks for one of each, in turn."""
_MAX_SET_BYTES = 64_000_000
"""Of all of them together."""
_FETCHED = 8_192


class _Newer:
    """Rows, ids and vectors in the order of the rows. It only grows, and what was handed out of it never changes."""

    def __init__(self, rows: Rows, ids: npt.NDArray[np.uint8], dimensions: int) -> None:
        self.used = len(rows)
        self.rows, self.ids = rows, ids
        self._vectors = np.empty((0, dimensions), np.float32)
        self._before = len(rows)

    @property
    def vectors(self) -> Vector:
        return self._vectors[: self.used - self._before]

    def begin_at(self, count: int) -> None:
        """Go on after the first `count`, which is as far as anybody was shown: what an attempt that was interrupted has left
        behind them is written over."""
        self.used = count

    def reserve(self, more: int) -> None:
        # Growing makes new arrays: another thread may be reading the old ones.
        needed = self.used + more
        if needed > len(self.rows):
            capacity = max(1024, needed + needed // 4)
            self.rows, self.ids = _grown(self.rows, capacity), _grown(self.ids, capacity)
        if needed - self._before > len(self._vectors):
            self._vectors = _grown(self._vectors, max(256, (needed - self._before) * 5 // 4))

    def append(self, rows: list[int], ids: list[bytes], vectors: Vector) -> None:
        start, end = self.used, self.used + len(rows)
        self.rows[start:end] = rows
        self.ids[start:end] = np.frombuffer(b"".join(ids), np.uint8).reshape(len(rows), 16)
        self._vectors[start - self._before : end - self._before] = vectors
        self.used = end


class _Reached(NamedTuple):
    """Where the state was that a row set is of: the state itself would hold on to arrays that nobody else needs."""

    line: int
    sequence: int
    last_row: int


@dataclass(frozen=True, slots=True)
class State:
    """A generation at one sequence. `rows` and `ids` (n, 16) are by position, ascending by row. Positions mean the same in
    all states of one `line`: those that followed each other, not one that was read anew."""

    line: int
    sequence: int
    last_row: int
    place: str | None
    view: View
    rows: Rows
    ids: npt.NDArray[np.uint8]

    @property
    def reached(self) -> _Reached:
        return _Reached(self.line, self.sequence, self.last_row)

    def positions(self, rows: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Positions of these rows, and which of the rows have one."""
        found = np.searchsorted(self.rows, rows)
        found[found == len(self.rows)] = 0
        return found, (self.rows[found] == rows) if len(self.rows) else np.zeros(len(rows), np.bool_)


@dataclass(slots=True)
class _Known:
    state: State
    newer: _Newer


class _Stored(NamedTuple):
    """What SQLite says of a generation in one transaction."""

    sequence: int
    last_row: int
    place: str | None
    place_sequence: int
    place_last_row: int


class VectorCache:
    def __init__(self, spec: GenerationSpec, directory: Path) -> None:
        self._spec = spec
        self._directory = directory
        self._lock = threading.RLock()
        self._has_log = False
        self._known: _Known | None = None
        self._lines = itertools.count()
        self._snapshot: tuple[str, Snapshot | None] | None = None
        self._sets: OrderedDict[_Key, tuple[_Reached, Matches]] = OrderedDict()
        self._weights: dict[_Key, int] = {}

    def at(self, tx: SqliteTransaction) -> State:
        """The generation as this transaction sees it."""
        stored = self._stored(tx)
        known = self._known
        if known is not None and (known.state.sequence, known.state.place) == (stored.sequence, stored.place):
            return known.state
        with self._lock:
            known = self._known
            follows = known is not None and known.state.place == stored.place
            if known is not None and follows and known.state.sequence == stored.sequence:
                return known.state
            if known is not None and follows and known.state.sequence < stored.sequence and not tx.writable:
                fresh = self._caught_up(tx, known.state, known.newer, stored)
            else:
                fresh = self._loaded(tx, stored)
            # What a transaction sees of its own writes is gone if it rolls back, and an older one is nobody's future.
            if not tx.writable and (known is None or stored.sequence >= known.state.sequence):
                if known is not None and fresh.state.line != known.state.line:
                    self.forget()  # what was found in another line is of no use, and holds all of it
                self._known = fresh
            return fresh.state

    def matches(
        self, tx: SqliteTransaction, state: State, condition: str, parameters: tuple[Any, ...], scope: Scope
    ) -> Matches:
        """The living positions that are in scope, as this transaction sees them. `condition`, on the alias `p`, says the same
        as the scope; none: all."""
        keep = scope.point_ids is None
        key = (condition, tuple((type(value), value) for value in parameters))
        with self._lock:
            of, known = self._sets.get(key, (None, None))
            if known is not None and of == state.reached:
                self._sets.move_to_end(key)
                known.asked += 1
                return known
        if not condition:
            alive = state.view.alive
            found = Matches(np.ones(state.view.count, np.bool_) if alive is None else alive, is_all=True)
        elif known is not None and of is not None and of.line == state.line and of.sequence < state.sequence:
            found = self._updated(tx, of, known, state, condition, parameters)
        else:
            found = Matches(self._first_mask(tx, state, condition, parameters, scope))
        found.asked += 1
        if keep and not tx.writable:
            self._remember(key, state, found)
        return found

    def kept(self, prepared: Prepared) -> tuple[Base | None, Matches] | None:
        """The row set, as it is now, that this belongs to, and the snapshot that it is of; None if it is no longer kept."""
        with self._lock:
            key = self._key_of(prepared)
            return None if key is None or self._known is None else (self._known.state.view.base, self._sets[key][1])

    def weigh(self, prepared: Prepared) -> None:
        """To be called when a row set holds more than when it was found."""
        with self._lock:
            key = self._key_of(prepared)
            if key is not None:
                self._weigh(key)

    def forget(self) -> None:
        """Keep nothing more of any filter."""
        with self._lock:
            self._sets.clear()
            self._weights.clear()

    def distrust(self, place: str, error: SnapshotDamaged) -> None:
        """Go on without this snapshot, which was found to be damaged: it may be the one in use here."""
        with self._lock:
            if self._snapshot != (place, None):
                self._do_without(place, error)
            self._known = None
            self.forget()

    def _do_without(self, place: str, error: SnapshotDamaged) -> None:
        self._snapshot = (place, None)
        log.warning(
            "The snapshot of the vectors in %s cannot be used: %s. Searches compare all rows until the next sync, or "
            "shelflist repair, has built it anew.",
            self._directory / place,
            error,
        )

    def _stored(self, tx: SqliteTransaction) -> _Stored:
        self._has_log = self._has_log or has_log(tx, self._spec.name)
        snapshot = "s.place, s.sequence, s.last_row" if self._has_log else "NULL, 0, 0"
        joined = "LEFT JOIN store_snapshots s USING (name)" if self._has_log else ""
        found = tx.execute(
            f"SELECT g.sequence, g.last_row, {snapshot} FROM store_generations g {joined} WHERE g.name = ?",
            (self._spec.name,),
        ).fetchone()
        if found is None:
            raise StoreError(
                f"{self._spec.name} is not in {self._directory.parent}: somebody has dropped it, or the directory is "
                "another one."
            )
        return _Stored(*found)

    def _loaded(self, tx: SqliteTransaction, stored: _Stored) -> _Known:
        snapshot = self._opened(stored)
        dimensions = self._spec.dimensions
        if snapshot is None:
            newer = _Newer(np.empty(0, np.int64), np.empty((0, 16), np.uint8), dimensions)
            view = View(self._spec.metric, None, newer.vectors)
            state = State(next(self._lines), -1, 0, stored.place, view, newer.rows, newer.ids)
        else:
            newer = _Newer(snapshot.rows, snapshot.ids, dimensions)
            view = View(self._spec.metric, snapshot.base, newer.vectors)
            moment = snapshot.moment
            state = State(
                next(self._lines), moment.sequence, moment.last_row, stored.place, view, newer.rows, newer.ids
            )
        return self._caught_up(tx, state, newer, stored)

    def _opened(self, stored: _Stored) -> Snapshot | None:
        """The snapshot of this transaction; None if there is none, or it cannot be used, which is said once."""
        if stored.place is None:
            return None
        if self._snapshot is None or self._snapshot[0] != stored.place:
            spec = self._spec
            moment = Moment(spec.name, stored.place_sequence, stored.place_last_row, spec.dimensions, spec.metric)
            try:
                self._snapshot = (stored.place, load(self._directory / stored.place, moment))
            except SnapshotDamaged as error:
                self._do_without(stored.place, error)
        return None if self._snapshot is None else self._snapshot[1]

    def _caught_up(self, tx: SqliteTransaction, old: State, newer: _Newer, stored: _Stored) -> _Known:
        name = self._spec.name
        newer.begin_at(len(old.rows))
        if stored.last_row > old.last_row:
            first = (old.last_row,)
            (count,) = tx.execute(f"SELECT count(*) FROM {name} p WHERE p.row > ? AND {_LIVING}", first).fetchone()
            newer.reserve(count)
            cursor = tx.execute(
                f"SELECT p.row, p.point_id, v.vector FROM {name} p JOIN {name}_vectors v USING (row) "
                f"WHERE p.row > ? AND {_LIVING} ORDER BY p.row",
                first,
            )
            while part := cursor.fetchmany(_FETCHED):
                vectors = vectors_of([blob for _, _, blob in part], self._spec, self._directory)
                newer.append(
                    [row for row, _, _ in part], [one for _, one, _ in part], prepared(vectors, self._spec.metric)
                )
        rows, ids = newer.rows[: newer.used], newer.ids[: newer.used]
        view = View(self._spec.metric, old.view.base, newer.vectors, old.view.alive)
        state = State(old.line, stored.sequence, stored.last_row, stored.place, view, rows, ids)
        if old.view.count:
            state = replace(state, view=replace(view, alive=self._alive(tx, old, state)))
        return _Known(state, newer)

    def _alive(self, tx: SqliteTransaction, old: State, new: State) -> npt.NDArray[np.bool_] | None:
        """Which positions still live, of those that did; None: all."""
        gone = removed_since(tx, self._spec.name, old.sequence, new.sequence) if self._has_log else None
        if gone is None:  # the log does not reach back so far
            living = np.fromiter(
                (row for (row,) in tx.execute(f"SELECT p.row FROM {self._spec.name} p WHERE {_LIVING}")), np.int64
            )
            return np.isin(new.rows, living)
        before = old.view.alive
        positions, known = new.positions(np.asarray(gone, np.int64)) if gone else (np.empty(0, np.int64), None)
        if before is None and (known is None or not known.any()):
            return None
        alive = np.ones(new.view.count, np.bool_)
        if before is not None:
            alive[: len(before)] = before
        if known is not None:
            alive[positions[known]] = False
        return alive

    def _first_mask(
        self, tx: SqliteTransaction, state: State, condition: str, parameters: tuple[Any, ...], scope: Scope
    ) -> npt.NDArray[np.bool_]:
        """Of a condition that is new here: by the snapshot's columns, and by SQLite for the rows after them."""
        snapshot = self._snapshot_at(state.place)
        if snapshot is None or scope.point_ids is not None:
            return self._mask(tx, state, condition, parameters, 0)
        older = snapshot.columns.matching(scope.filter, self._spec.fields, scope.tenant)
        if older is None:
            return self._mask(tx, state, condition, parameters, 0)
        mask = np.zeros(state.view.count, np.bool_)
        if state.last_row > snapshot.moment.last_row:
            mask = self._mask(tx, state, condition, parameters, snapshot.moment.last_row)
        mask[: len(older)] |= older if state.view.alive is None else older & state.view.alive[: len(older)]
        return mask

    def _snapshot_at(self, place: str | None) -> Snapshot | None:
        known = self._snapshot
        return known[1] if known is not None and known[0] == place else None

    def _mask(
        self, tx: SqliteTransaction, state: State, condition: str, parameters: tuple[Any, ...], above: int
    ) -> npt.NDArray[np.bool_]:
        name = self._spec.name
        if above:
            # Only the rows after `above` are looked at, in the lists too. Left the choice, SQLite reads all that the index of
            # a field has of a value, or that a list has of a member: NOT INDEXED and IS TRUE leave it none.
            found = tx.execute(
                f"WITH {name}_lists AS (SELECT * FROM main.{name}_lists WHERE row > ?) "
                f"SELECT p.row FROM {name} p NOT INDEXED WHERE p.row > ? AND ({condition}) IS TRUE",
                (above, above, *parameters),
            )
        else:
            found = tx.execute(f"SELECT p.row FROM {name} p WHERE ({condition})", parameters)
        rows = np.fromiter((row for (row,) in found), dtype=np.int64)
        positions, known = state.positions(rows)
        mask = np.zeros(state.view.count, np.bool_)
        mask[positions[known]] = True
        # Which rows live is not asked of SQLite, so that it need read no more than the index of a field.
        return mask if state.view.alive is None else mask & state.view.alive

    def _updated(
        self,
        tx: SqliteTransaction,
        of: _Reached,
        old: Matches,
        state: State,
        condition: str,
        parameters: tuple[Any, ...],
    ) -> Matches:
        """What matched, less what has died since, and those of the rows since then that match."""
        if state.last_row > of.last_row:
            mask = self._mask(tx, state, condition, parameters, of.last_row)
            mask[: len(old.mask)] |= old.mask
        else:
            mask = old.mask.copy()
        if state.view.alive is not None:
            mask &= state.view.alive
        found = Matches(mask)
        found.take_over(old)
        return found

    def _remember(self, key: _Key, state: State, found: Matches) -> None:
        with self._lock:
            known, (of, _) = self._known, self._sets.get(key, (None, None))
            if known is None or known.state.line != state.line or (of is not None and of.sequence > state.sequence):
                return  # of a moment that nobody comes back to
            self._sets[key] = (state.reached, found)
            self._sets.move_to_end(key)
            self._weigh(key)

    def _key_of(self, prepared: Prepared) -> _Key | None:
        # Who asks has mostly searched by it just now, so it is among the last.
        return next((key for key in reversed(self._sets) if self._sets[key][1].prepared is prepared), None)

    def _weigh(self, key: _Key) -> None:
        """Note what a set holds by now, and let go of those that were asked for longest ago until the others fit."""
        self._weights[key] = self._sets[key][1].nbytes
        held = sum(self._weights.values())
        while len(self._sets) > 1 and (len(self._sets) > _MAX_SETS or held > _MAX_SET_BYTES):
            oldest = next(iter(self._sets))
            held -= self._weights.pop(oldest, 0)
            del self._sets[oldest]


def _grown(array: Any, capacity: int) -> Any:
    larger = np.empty((capacity, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
