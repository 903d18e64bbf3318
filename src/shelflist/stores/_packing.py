"""Packed copies of the codes of filters that are asked again and again, made aside by one thread."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from shelflist.core.log import log
from shelflist.engine.view import Prepared
from shelflist.stores._vector_cache import VectorCache
from shelflist.stores.protocol import GenerationSpec

_MOST_WAITING = 64


class Packer:
    """Packs one filter at a time: searches need the processor too. Its thread is there while there is work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[VectorCache, Prepared, GenerationSpec]] = deque()
        self._thread: threading.Thread | None = None

    def offer(self, cache: VectorCache, prepared: Prepared, spec: GenerationSpec) -> None:
        """Have a filter packed, unless too many are waiting: a later search of it offers it again."""
        with self._lock:
            if not prepared.is_under_way and len(self._waiting) < _MOST_WAITING:
                self._waiting.append((cache, prepared, spec))
                prepared.is_under_way = True
            if self._waiting and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._work, name="shelflist-pack", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the process may have no more threads, or is ending: searches do without
                    for _, one, _ in self._waiting:
                        one.is_under_way = False
                    self._waiting.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                cache, prepared, spec = self._waiting.popleft()
            try:
                _pack(cache, prepared, spec)
            except Exception as error:
                log.warning(
                    "A filter of %s could not be prepared for quicker searches, which go on as they are. %s: %s",
                    spec.name,
                    type(error).__name__,
                    error,
                )
            finally:
                prepared.is_under_way = False


def _pack(cache: VectorCache, prepared: Prepared, spec: GenerationSpec) -> None:
    """Make the packed copy of a filter's codes."""
    kept = cache.kept(prepared)
    if kept is None:  # nobody would find the copy
        return
    base, matches = kept
    mask = matches.mask
    if base is None or base.codes is None:
        return
    positions = np.flatnonzero(mask[: base.codes.count])
    if len(positions):  # else there are newer ones only, which are compared exactly
        prepared.packed = base.packed(positions)
    prepared.of = mask
    prepared.is_ready = True  # last: from now on it is searched by
    cache.weigh(prepared)
