"""What the engines under test share: a free port, a process that is stopped by its pid, and a skip that CI does not take."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip with the reason; with SHELFLIST_REQUIRE_STORES=1, as in CI, fail."""
    if os.environ.get("SHELFLIST_REQUIRE_STORES") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def engine_folder() -> Path:
    """Where engines are kept between runs, outside the repository: SHELFLIST_ENGINES, or a folder in the user's cache."""
    return Path(os.environ.get("SHELFLIST_ENGINES") or Path.home() / ".cache" / "shelflist-engines")


def is_isolated() -> bool:
    """Whether this process has no network but loopback: some engines bind every interface there is."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]  # /sys may show another namespace's


def require_isolation(engine: str) -> None:
    if not is_isolated():
        missing(f"{engine} binds every interface: run these tests by .ci/servers, in a network namespace of their own")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class ServerProcess:
    """A server in its own process group. `ready` is asked until it says yes; what the server printed is in `log`."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        seconds: float = 60.0,
    ) -> None:
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self.log = log
        self._ready = ready
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, stdout=out, stderr=out, env=self._environment, start_new_session=True
            )
        deadline = time.monotonic() + self._seconds
        while not self._answers():
            tail = self.log.read_text(errors="replace")[-2000:]
            if self._process.poll() is not None:
                raise AssertionError(f"{self._command[0]} ended with {self._process.returncode}:\n{tail}")
            if time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise AssertionError(f"{self._command[0]} did not answer in {self._seconds:g} s:\n{tail}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return self._ready()
        except Exception:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the server and everything that it started; SIGKILL is how a machine dies."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            os.killpg(process.pid, how)
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        except ProcessLookupError:
            process.wait(30)

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.stop(how)
        self.start()
