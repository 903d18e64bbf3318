"""The engines of bench/stores.py: a user's own by URL, or one that the fixtures of the tests start on loopback."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import data

TESTS = data.REPOSITORY / "tests" / "servers"
BIND_EVERYTHING = {"weaviate", "milvus"}
"""Engines that listen on every interface there is: they run where there is only loopback."""
_APART = "SHELFLIST_BENCH_APART"
_PORTS = {"qdrant": 6333, "weaviate": 8080, "chroma": 8000, "milvus": 19530, "pgvector": 5432}


@dataclass(frozen=True)
class Place:
    """Where a store is. `client`: Qdrant's re-implementation in memory, which has no address."""

    store: str
    url: str
    client: Any = None

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "127.0.0.1"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or _PORTS[self.store]

    @property
    def grpc_port(self) -> int | None:
        found = parse_qs(urlsplit(self.url).query).get("grpc_port")
        return int(found[0]) if found else None

    @property
    def database_url(self) -> str:
        """For libpq."""
        return "postgresql" + self.url.removeprefix("pgvector")


def move_apart(store: str) -> None:
    """Run this program again in a network namespace with loopback alone, if the engine calls for one."""
    if store in BIND_EVERYTHING and _APART not in os.environ:
        root = [] if os.geteuid() == 0 else ["--map-root-user"]
        words = ["unshare", "--net", *root, sys.executable, *sys.argv]
        os.execvpe(words[0], words, {**os.environ, _APART: "1"})
    if _APART in os.environ:
        with socket.socket() as one:  # SIOCSIFFLAGS with IFF_UP | IFF_RUNNING
            fcntl.ioctl(one, 0x8914, struct.pack("16sh14x", b"lo", 0x41))


@contextmanager
def started(store: str, url: str | None, folder: Path) -> Iterator[Place]:
    """The store at `url`, or an engine of its own in `folder`."""
    if url is not None:
        yield Place(store, url)
        return
    with ExitStack() as stack, _reasons():
        yield _STARTS[store](stack, folder)


@contextmanager
def ledger_at(wanted: str | None, folder: Path) -> Iterator[str]:
    """The URL of a ledger: a SQLite file, the URL that was given, or `postgres`: a server started here."""
    if wanted is None:
        yield f"sqlite:{folder / 'ledger.db'}"
    elif wanted != "postgres":
        yield wanted
    else:
        with ExitStack() as stack, _reasons():
            yield _postgres(stack)


@contextmanager
def _reasons() -> Iterator[None]:
    """The fixtures skip a test whose engine is missing; here that ends the program, with the reason."""
    from _pytest.outcomes import OutcomeException

    try:
        yield
    except OutcomeException as error:
        raise SystemExit(str(error)) from None


def _fixtures(folder: str, module: str) -> Any:
    from importlib import import_module

    for path in (TESTS, TESTS / folder):
        if str(path) not in sys.path:
            sys.path.append(str(path))
    return import_module(module)


def _postgres(stack: ExitStack) -> str:
    engine = _fixtures("postgres", "postgres_engine")
    server = stack.enter_context(engine.running(engine.NEWEST))
    for setting in ("fsync = on", "shared_buffers = '512MB'", "max_wal_size = '4GB'"):  # not as the tests have them
        server.sql(f"ALTER SYSTEM SET {setting}")
    server.restart()
    return str(server.fresh())


def _start_pgvector(stack: ExitStack, folder: Path) -> Place:
    return Place("pgvector", "pgvector" + _postgres(stack).removeprefix("postgresql"))


def _start_chroma(stack: ExitStack, folder: Path) -> Place:
    engine = _fixtures("chroma", "chroma_engine")
    return Place("chroma", stack.enter_context(engine.running(folder)).url)


def _start_weaviate(stack: ExitStack, folder: Path) -> Place:
    engine = _fixtures("weaviate", "weaviate_engine")
    return Place("weaviate", stack.enter_context(engine.running(folder)).url)


def _start_milvus(stack: ExitStack, folder: Path) -> Place:
    engine = _fixtures("milvus", "milvus_engine")
    return Place("milvus", stack.enter_context(engine.running(folder)).url)


def _start_qdrant(stack: ExitStack, folder: Path) -> Place:
    """No server: the client's own NumPy re-implementation, on both sides."""
    import warnings

    engine = _fixtures("qdrant", "qdrant_engine")
    from shelflist.stores import _connect, registry

    warnings.simplefilter("ignore")  # local mode warns of payload indexes, and of more than 20,000 points
    shared = engine.Reimplementation()

    class InMemory(engine.QdrantStore):  # type: ignore[misc, name-defined]
        @classmethod
        def at(cls, place: Any, *, busy_timeout: float) -> Any:
            return cls(_connect.server(place, port=6333), open_client=lambda: shared)

    globals()["InMemory"] = InMemory
    registry.STORES["qdrant"] = (__name__, "InMemory")
    return Place("qdrant", "qdrant://in-memory", shared)


_STARTS: dict[str, Callable[[ExitStack, Path], Place]] = {
    "pgvector": _start_pgvector,
    "chroma": _start_chroma,
    "weaviate": _start_weaviate,
    "milvus": _start_milvus,
    "qdrant": _start_qdrant,
}
