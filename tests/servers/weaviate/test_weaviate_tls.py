"""Weaviate behind TLS with a certificate that only the environment vouches for: over HTTP and over gRPC."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tls_proxy import certificate, tls_before
from weaviate_engine import WeaviateServer, running

HTTP, GRPC = "SSL_CERT_FILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
_ASK = """
import sys
from shelflist.config import parse_url
from shelflist.core.types import SearchParams
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.stores.weaviate.store import WeaviateStore
from shelflist.testing.points import make_points

store = WeaviateStore.at(parse_url(sys.argv[1]), busy_timeout=5.0)
spec = GenerationSpec(f"sl_tls{sys.argv[2]}_1", 16)
try:
    store.create(spec)
    points = make_points("p", 3, seed=1)
    stored = store.upsert(spec, points).stored
    found = store.search(spec, points[1].vector, limit=1, scope=Scope(), params=SearchParams())
    print(len(stored), found.items[0].point_id == points[1].point_id)
    store.drop(spec.name)
finally:
    store.close()
"""
"""In a process of its own: gRPC reads its variable once."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeaviateServer]:
    with running(tmp_path_factory.mktemp("weaviate")) as server:
        yield server


def _asked(url: str, name: str, trusted: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in (HTTP, GRPC, "SSL_CERT_DIR")}
    return subprocess.run(
        [sys.executable, "-c", _ASK, url, name],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**environment, **trusted},
    )


@pytest.mark.parametrize("trusted", [(HTTP, GRPC), (HTTP,), (GRPC,), ()])
def test_an_authority_of_ones_own_is_named_in_the_environment(
    server: WeaviateServer, tmp_path: Path, trusted: tuple[str, ...]
) -> None:
    signed, key = certificate(tmp_path)
    with tls_before(server.port, signed, key) as port, tls_before(server.grpc_port, signed, key) as grpc_port:
        url = f"weaviate://127.0.0.1:{port}?grpc_port={grpc_port}&tls=1&timeout=5"
        done = _asked(url, str(len(trusted)) + "".join(trusted)[:1].lower(), dict.fromkeys(trusted, str(signed)))
    if trusted == (HTTP, GRPC):
        assert done.stdout.split() == ["3", "True"], done.stderr
    else:
        assert done.returncode != 0 and not done.stdout
        assert "StoreError" in done.stderr and f"{HTTP} and {GRPC}" in done.stderr
