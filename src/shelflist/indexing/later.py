"""Work that goes on after a call has returned, in order, and that closing waits for."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from shelflist.core.log import log

_MOST_WAITING = 4


class Later:
    """One thread while there is work, none else; who brings more than a little waits. What fails is logged: its revision
    is in the ledger, and the next sync finishes it."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._waiting: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], object]) -> None:
        if self._pid != os.getpid():  # the work that waits is the parent's
            self._begin()
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING)
            self._waiting.append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shelflist-later")
                self._thread.start()

    def wait(self) -> None:
        """Return when everything submitted before has been tried."""
        if self._pid == os.getpid():
            with self._changed:
                thread = self._thread
            if thread is not None:
                thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return
                work = self._waiting.popleft()
                self._changed.notify_all()
            try:
                work()
            except Exception as error:
                log.warning("Stored chunks could not be revealed yet (%s). The next sync finishes the work.", error)
