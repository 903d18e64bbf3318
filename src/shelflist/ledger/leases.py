"""Who works on what, and whether it still lives."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

LEASE_SECONDS = 60.0


class Owner:
    """This process, as leases name it; a child of a fork is another."""

    def __init__(self) -> None:
        self._pid = 0
        self._name = ""

    @property
    def name(self) -> str:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._name = f"{machine()}:{self._pid}:{os.urandom(4).hex()}"
        return self._name


@cache
def machine() -> str:
    """Where a process id means this process: the host since it was started, and the container's own count of processes."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def has_run_out(until: float, now: float, seconds: float) -> bool:
    """Whether a lease of so many seconds is over. One that ends much later than it could if it were given now is, too: the
    clock was set back since, and nobody should wait until it has caught up."""
    return not now <= until <= now + 2 * seconds


def is_dead(owner: str) -> bool:
    """Whether the owner was a process of this host that no longer runs."""
    where, pid, _ = owner.rsplit(":", 2)
    if where != machine():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
