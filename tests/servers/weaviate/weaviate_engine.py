"""Weaviate servers on loopback, and stores on them."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from engines import ServerProcess, engine_folder, free_port, missing, require_isolation

from shelflist.config import parse_url
from shelflist.stores.weaviate.store import WeaviateStore

URL = "SHELFLIST_TEST_WEAVIATE_URL"


class WeaviateServer(ServerProcess):
    """One node with its data in `folder`; `url` opens a store on it. `small_disk`: its data is on a disk of 64 MB.

    `host`: where its HTTP listens; gRPC listens everywhere.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        small_disk: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        binary = engine_folder() / "bin" / "weaviate-server"
        if not binary.is_file():
            missing(f"no Weaviate server at {binary}: .ci/run builds it")
        require_isolation("Weaviate")
        folder.mkdir(parents=True, exist_ok=True)
        self._address = f"[{host}]" if ":" in host else host
        self.port, self.grpc_port, *inner = (free_port() for _ in range(6))
        names = ("CLUSTER_GOSSIP_BIND_PORT", "CLUSTER_DATA_BIND_PORT", "RAFT_PORT", "RAFT_INTERNAL_RPC_PORT")
        environment = {
            "PERSISTENCE_DATA_PATH": str(folder / "data"),
            "DEFAULT_VECTORIZER_MODULE": "none",
            "CLUSTER_HOSTNAME": "node1",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
            "CLUSTER_BIND_ADDR": "127.0.0.1",
            "RAFT_BOOTSTRAP_EXPECT": "1",
            "GRPC_PORT": str(self.grpc_port),
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "true",
            "DISABLE_TELEMETRY": "true",
            "GO_PROFILING_DISABLE": "true",
            "LOG_LEVEL": "warning",
            **dict(zip(names, map(str, inner), strict=True)),
            **(settings or {}),
        }
        command = [str(binary), "--host", host, "--port", str(self.port), "--scheme", "http"]
        self.data = folder / "data"
        if small_disk:
            self.data.mkdir()
            mount = f'mount -t tmpfs -o size=64m tmpfs "{self.data}" && exec "$@"'
            command = ["unshare", "-m", "bash", "-c", mount, "weaviate", *command]
        super().__init__(command, folder / "server.log", self._is_ready, environment=environment, seconds=90)

    @property
    def url(self) -> str:
        return f"weaviate://{self._address}:{self.port}?grpc_port={self.grpc_port}"

    def _is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://{self._address}:{self.port}/v1/.well-known/ready", timeout=2) as answer:
            return bool(answer.status == 200)


@contextmanager
def running(
    folder: Path, settings: Mapping[str, str] | None = None, *, small_disk: bool = False, host: str = "127.0.0.1"
) -> Iterator[WeaviateServer]:
    server = WeaviateServer(folder, settings, small_disk=small_disk, host=host)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def any_server(folder: Path) -> Iterator[str]:
    """The URL of a user's own server, or of one that is started here."""
    own = os.environ.get(URL)
    if own:
        yield own
        return
    with running(folder) as server:
        yield server.url


def open_store(url: str) -> WeaviateStore:
    return WeaviateStore.at(parse_url(url), busy_timeout=30.0)
