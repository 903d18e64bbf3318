"""Work that goes on after a call has returned, in order, and that closing waits for."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

from shelflist.core.log import log


class Later:
    """One thread while there is work, none else. What fails is logged: its revision is in the ledger, and the next sync
    finishes it."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._waiting: deque[Callable[[], object]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], object]) -> None:
        with self._lock:
            self._waiting.append(work)
            if self._thread is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._run, name="shelflist-later")
                self._thread.start()

    def wait(self) -> None:
        """Return when everything submitted before has been tried."""
        with self._lock:
            thread = self._thread if self._pid == os.getpid() else None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                work = self._waiting.popleft()
            try:
                work()
            except Exception as error:
                log.warning("Stored chunks could not be revealed yet (%s). The next sync finishes the work.", error)
