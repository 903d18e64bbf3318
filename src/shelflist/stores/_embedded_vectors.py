"""The vector leg of the embedded store: what each generation's cache knows, searched, and snapshots built aside."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from shelflist.core.errors import ShelflistError, TenantRequired
from shelflist.core.log import log
from shelflist.core.transaction import Transaction
from shelflist.core.types import SearchParams, Vector
from shelflist.database import SqliteDatabase, SqliteTransaction
from shelflist.engine.planner import Found, is_worth_packing, search
from shelflist.engine.snapshot import SnapshotDamaged, check
from shelflist.engine.view import Matches
from shelflist.stores._packing import Packer
from shelflist.stores._sql import compile_sql
from shelflist.stores._vector_cache import State, VectorCache
from shelflist.stores.protocol import GenerationSpec, Scope, Tell

if TYPE_CHECKING:
    from shelflist.stores._compaction import Compaction

_IDS_PER_STATEMENT = 500
_WARM = 2
"""A filter that is asked so often gets a packed copy of its codes."""
_TOLD_EVERY = 0.1
"""Seconds between two reports to whoever waits for a snapshot."""


class EmbeddedVectors:
    """Of all generations of one directory."""

    def __init__(self, path: Path, database: SqliteDatabase) -> None:
        self.path = path
        self._database = database
        self._own_lock = threading.RLock()
        self._packer = Packer()
        self._caches: dict[str, VectorCache] = {}
        self._building: dict[str, tuple[threading.Thread, Compaction]] = {}
        self._pid = os.getpid()

    def matching(self, tx: SqliteTransaction, spec: GenerationSpec, scope: Scope) -> tuple[State, Matches]:
        """The generation as this transaction sees it, and the positions of the indexed points in scope."""
        if spec.tenanted and not scope.tenant:
            raise TenantRequired("This collection is searched per tenant. Use collection.tenant(id).")
        cache = self._cache(spec)
        state = cache.at(tx)
        conditions: list[str] = []
        parameters: list[Any] = []
        if scope.tenant is not None:
            conditions.append("p.tenant_id = ?")
            parameters.append(scope.tenant)
        if scope.point_ids is not None:
            chosen = by_ids(tx, f"SELECT row FROM {spec.name}", scope.point_ids)
            conditions.append("p.row IN (SELECT value FROM json_each(?))")
            parameters.append(orjson.dumps([row for (row,) in chosen]).decode())
        if scope.filter is not None:
            condition, values = compile_sql(scope.filter, spec.fields, f"{spec.name}_lists")
            conditions.append(f"({condition})")
            parameters += values
        found = cache.matches(tx, state, " AND ".join(conditions), tuple(parameters), scope)
        return state, found

    def search(
        self, state: State, matches: Matches, query: Vector, limit: int, spec: GenerationSpec, params: SearchParams
    ) -> Found:
        """The nearest of the matches to a prepared query."""
        prepared, before = matches.prepared, matches.nbytes
        found = search(state.view, matches, query, limit, params, spec.index)
        if matches.nbytes != before:
            self._cache(spec).weigh(prepared)
        if (
            matches.asked >= _WARM
            and not (prepared.is_under_way or prepared.is_ready)
            and is_worth_packing(state.view, matches, params, spec.index)
        ):
            self._packer.offer(self._cache(spec), prepared, spec)
        return found

    def build(self, spec: GenerationSpec) -> None:
        """Have a snapshot built in another thread if one is due. Searches answer meanwhile; `close` waits for it."""
        from shelflist.stores._compaction import Compaction  # a search pays for nothing that it does not need

        compaction = Compaction(self._database, spec, self.path)
        # In this order: what is written while one is being built may be due for another, when that one is in use.
        if self._is_at_work(spec.name) or not compaction.is_due():
            return
        with self._lock:
            if not self._is_at_work(spec.name):
                thread = threading.Thread(target=self._built, args=(compaction,), name="shelflist-build")
                try:
                    thread.start()
                except RuntimeError as error:  # the process may have no more threads, or is ending
                    log.warning(
                        "The snapshot of the vectors is not built now, and searches go on without it. %s", error
                    )
                    return
                self._building[spec.name] = (thread, compaction)

    def _is_at_work(self, name: str) -> bool:
        """Whether a thread is building; it is told then that it was asked again."""
        with self._lock:
            thread, compaction = self._building.get(name, (None, None))
            if thread is None or compaction is None or not thread.is_alive() or compaction.is_over:
                return False
            compaction.is_asked_again = True
            return True

    def _built(self, compaction: Compaction) -> None:
        """Build while it is due, once for each time that it was asked for."""
        try:
            is_wanted = True
            while is_wanted:
                if compaction.is_due() and not compaction.run():
                    compaction.wait_for_others()
                    if compaction.is_due():
                        compaction.run()
                is_wanted = self._is_asked_again(compaction)
        except ShelflistError as error:
            # The rows are whole and answer for themselves; the next pass tries again.
            log.warning("The snapshot of the vectors could not be built, and searches go on without it. %s", error)

    def _is_asked_again(self, compaction: Compaction) -> bool:
        with self._lock:
            again = compaction.is_asked_again and not compaction.is_stopped
            compaction.is_asked_again, compaction.is_over = False, not again
            return again

    def rebuild(self, spec: GenerationSpec) -> bool:
        """Build a snapshot now; whether there is one then that was not there before."""
        from shelflist.stores._compaction import Compaction

        self.wait()
        return _in_a_thread(Compaction(self._database, spec, self.path))

    def rows(self, tx: Transaction, spec: GenerationSpec) -> int | None:
        """How many rows the snapshot in use has, 0 without one; None if a byte of it is not as it was written."""
        from shelflist.stores._compaction import in_use

        snapshot = in_use(tx, spec)
        if snapshot is None:
            return 0
        place, moment, rows = snapshot
        try:
            check(self.path / place, moment)
        except SnapshotDamaged as error:
            self._cache(spec).distrust(place, error)
            return None
        return rows

    def drop(self, name: str) -> None:
        from shelflist.stores._compaction import drop_snapshots

        with self._lock:
            cache = self._caches.pop(name, None)
            at_work = self._building.pop(name, None)
        if cache is not None:
            cache.forget()
        if at_work is not None:
            at_work[1].stop()
            at_work[0].join()
        drop_snapshots(self.path, name)

    def wait(self, tell: Tell | None = None) -> None:
        """Return when no snapshot is being built by this process; what interrupts the wait stops the building."""
        with self._lock:
            at_work = list(self._building.values())
            self._building.clear()
        try:
            for thread, compaction in at_work:
                while thread.is_alive():
                    if tell:
                        tell(compaction.done, compaction.total)
                    thread.join(_TOLD_EVERY if tell else None)
        except BaseException:
            for _, compaction in at_work:
                compaction.stop()
            raise

    def close(self) -> None:
        self.wait()
        with self._lock:
            for cache in self._caches.values():
                cache.forget()  # so that what still waits to be packed is passed over
            self._caches.clear()

    def _cache(self, spec: GenerationSpec) -> VectorCache:
        with self._lock:
            known = self._caches.get(spec.name)
            if known is None:
                known = self._caches[spec.name] = VectorCache(spec, self.path)
            return known

    @property
    def _lock(self) -> threading.RLock:
        # A lock of a parent process is not ours: another of its threads may have held it at the fork.
        if self._pid != os.getpid():
            self._own_lock, self._packer = threading.RLock(), Packer()
            self._caches, self._building = {}, {}
            self._pid = os.getpid()
        return self._own_lock


def by_ids(tx: Transaction, select: str, point_ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
    """The rows of `select` whose point_id is one of these."""
    rows: list[tuple[Any, ...]] = []
    for start in range(0, len(point_ids), _IDS_PER_STATEMENT):
        part = point_ids[start : start + _IDS_PER_STATEMENT]
        rows += tx.execute(f"{select} WHERE point_id IN ({', '.join('?' * len(part))})", part).fetchall()
    return rows


def _in_a_thread(compaction: Compaction) -> bool:
    """Run it in a thread of its own, even though it is waited for: the thread that has had FAISS build something keeps a pool
    of OpenMP's, which a fork does not copy, so that the same thread of a child would wait for it for ever."""
    results: list[bool] = []
    errors: list[BaseException] = []
    finished = threading.Event()

    def run() -> None:
        try:
            results.append(compaction.run())
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    thread = threading.Thread(target=run, name="shelflist-build")
    try:
        thread.start()
        finished.wait()  # not join: one that was interrupted takes the thread for ended (CPython before 3.13)
    except BaseException:
        compaction.stop()
        if thread.ident is not None:  # it was begun
            finished.wait()
        raise
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
