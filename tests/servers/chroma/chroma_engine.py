"""Chroma for the tests: `chroma run` on a directory of its own, or the server that SHELFLIST_TEST_CHROMA_URL names."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import httpx
from engines import ServerProcess, free_port, missing

from shelflist.config import parse_url
from shelflist.stores.chroma.store import ChromaStore

ADDRESS = "SHELFLIST_TEST_CHROMA_URL"


def require_chroma() -> None:
    if find_spec("chromadb") is None:
        missing("the Chroma tests need chromadb: pip install 'shelflist[chroma]'")


def open_chroma(url: str) -> ChromaStore:
    return ChromaStore.at(parse_url(url), busy_timeout=5.0)


class ChromaServer(ServerProcess):
    """`chroma run` on a port of 127.0.0.1, the same one after a restart."""

    def __init__(self, folder: Path) -> None:
        require_chroma()
        command = Path(sys.executable).with_name("chroma")
        if not command.exists() and shutil.which("chroma") is None:
            missing("the command `chroma` is not installed beside this Python")
        self.port = free_port()
        self.url = f"chroma://127.0.0.1:{self.port}"
        where = ["--path", str(folder / "data"), "--host", "127.0.0.1", "--port", str(self.port)]
        super().__init__([str(command if command.exists() else "chroma"), "run", *where], folder / "log", self._is_up)

    def _is_up(self) -> bool:
        return httpx.get(f"http://127.0.0.1:{self.port}/api/v2/heartbeat", timeout=2).status_code == 200


@contextmanager
def running(folder: Path) -> Iterator[ChromaServer]:
    server = ChromaServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def server_url(folder: Path) -> Iterator[str]:
    """The user's own server, or one that is started for it."""
    given = os.environ.get(ADDRESS)
    if given:
        yield given
        return
    with running(folder) as server:
        yield server.url
