"""Milvus for the tests: the server 2.3.5 of its wheel, the file of Milvus Lite, or what SHELFLIST_TEST_MILVUS_URL names."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engines import ServerProcess, engine_folder, free_port, missing, require_isolation

from shelflist.config import parse_url
from shelflist.stores.milvus.store import MilvusStore

URL = "SHELFLIST_TEST_MILVUS_URL"

# Runs in the server's own environment: unpacks its files once for all, writes its settings and becomes the server.
_SERVE = """
import fcntl, json, os, pathlib, sys
import milvus

folder, shared, settings = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
shared.mkdir(parents=True, exist_ok=True)
folder.mkdir(parents=True, exist_ok=True)
if not (folder / "bin").exists():
    (folder / "bin").symlink_to(shared)
template = pathlib.Path(milvus.MilvusServerConfig().template_file).read_text()
for old, new in settings["template"]:
    assert old in template, old
    template = template.replace(old, new, 1)
(folder / "template").write_text(template)
config = milvus.MilvusServerConfig(template=str(folder / "template"), data_dir=str(folder), **settings["ports"])
config.glog_conf_file = str(pathlib.Path(milvus.__file__).parent / "data" / "glog.conf")
for name, value in settings["settings"].items():
    config.set(name, value)
if not (folder / "configs" / "milvus.yaml").exists():
    config.resolve()
with open(shared.with_suffix(".lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    milvus._initialize_data_files(str(folder))
os.chdir(folder)
os.environ |= {"DEPLOY_MODE": "STANDALONE", "METRICS_PORT": settings["metrics"], "MILVUS_RUN_DIR": str(folder / "run"),
               "LD_LIBRARY_PATH": str(shared)}
os.execv(folder / "bin" / "milvus", ["milvus", "run", "standalone"])
"""

_PORTS = (
    "proxy_port",
    "proxy_internal_port",
    "root_coord_port",
    "query_coord_port",
    "query_node_port",
    "index_coord_port",
    "index_node_port",
    "data_coord_port",
    "data_node_port",
    "etcd_port",
)

# What only makes the tests wait: how often it looks for collections to load, and how often it tells its time.
_QUICK = [
    ("  checkInterval: 1000\n", "  checkInterval: 100\n  checkChannelInterval: 100\n  checkSegmentInterval: 100\n"),
    ("distPullInterval: 500", "distPullInterval: 100"),
    ("checkHandoffInterval: 5000", "checkHandoffInterval: 500"),
    ("timeTickInterval: 200", "timeTickInterval: 50"),
    ("ttl: 30 #", "ttl: 5 #"),
]


class MilvusServer(ServerProcess):
    """A server with its data in `folder`; `url` opens a store on it. `settings`: those of the wheel's own command.

    `template`: what else is to be replaced in its file of settings, old text and new.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any] | None = None,
        *,
        template: Sequence[tuple[str, str]] = (),
    ) -> None:
        if find_spec("pymilvus") is None:
            missing("the Milvus tests need pymilvus: pip install 'shelflist[milvus]'")
        python = engine_folder() / "milvus-server" / "bin" / "python"
        if not python.is_file():
            missing(f"no Milvus server at {python.parent.parent}: .ci/servers installs it")
        require_isolation("Milvus")
        folder.mkdir(parents=True, exist_ok=True)
        ports = {name: free_port() for name in _PORTS}
        self.port, self._metrics, peer = ports["proxy_port"], free_port(), free_port()
        etcd = folder / "etcd.yaml"
        client = f"http://127.0.0.1:{ports['etcd_port']}"
        etcd.write_text(
            f"name: default\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n"
            f"listen-peer-urls: http://127.0.0.1:{peer}\ninitial-advertise-peer-urls: http://127.0.0.1:{peer}\n"
            f"initial-cluster: default=http://127.0.0.1:{peer}\n"
        )
        changes = [("    embed: true ", f"    embed: true\n  config:\n    path: {etcd} "), *_QUICK, *template]
        chosen = {
            "ports": ports,
            "metrics": str(self._metrics),
            "template": changes,
            "settings": dict(settings or {}),
        }
        shared = engine_folder() / "milvus-bin"
        command = [str(python), "-c", _SERVE, str(folder / "data"), str(shared), json.dumps(chosen)]
        super().__init__(command, folder / "server.log", self._is_ready, seconds=90)

    @property
    def url(self) -> str:
        return f"milvus://127.0.0.1:{self.port}"

    def _is_ready(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/healthz", timeout=2) as answer:
            return answer.read() == b"OK"


@contextmanager
def running(
    folder: Path, settings: Mapping[str, Any] | None = None, *, template: Sequence[tuple[str, str]] = ()
) -> Iterator[MilvusServer]:
    server = MilvusServer(folder, settings, template=template)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)  # to end in peace takes it half a minute


@contextmanager
def any_server(folder: Path) -> Iterator[str]:
    """The URL of a user's own server, or of one that is started here."""
    given = os.environ.get(URL)
    if given:
        yield given
        return
    with running(folder) as server:
        yield server.url


def require_lite() -> None:
    if find_spec("pymilvus") is None or find_spec("milvus_lite") is None:
        missing("the tests of Milvus Lite need it: pip install 'shelflist[milvus-lite]'")


def open_milvus(url: str) -> MilvusStore:
    return MilvusStore.at(parse_url(url), busy_timeout=5.0)


@contextmanager
def opened(url: str) -> Iterator[MilvusStore]:
    store = open_milvus(url)
    try:
        yield store
    finally:
        store.close()
        store.close()


def client_of(store: MilvusStore) -> Any:
    """The client itself, for what somebody else may do to a server."""
    return store._link.client()
