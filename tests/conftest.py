"""Where the tests of the promises put a collection: in memory, in a directory, in a directory with the ledger apart."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import Place, place_of

SERVERS = Path(__file__).parent / "servers"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests against servers start them and take long: they run when they are named, as .ci/servers does."""
    if collection_path != SERVERS:
        return None
    named = [(config.invocation_params.dir / one.partition("::")[0]).resolve() for one in config.args]
    return None if any(one.is_relative_to(SERVERS) for one in named) else True


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory where the system has such a place: these tests would mostly wait for the disk."""
    quick = Path("/dev/shm")
    if not os.access(quick, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="shelflist-", dir=quick) as name:
        yield Path(name)


@pytest.fixture(params=["memory", "file", "apart", "late"])
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    """Every arrangement of store and ledger."""
    found = place_of(request.param, folder)
    yield found
    found.close()


@pytest.fixture(params=["file", "apart"])
def directory(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    """The arrangements that outlive a process."""
    found = place_of(request.param, folder)
    yield found
    found.close()


@pytest.fixture
def alone(folder: Path) -> Iterator[Place]:
    """One directory, for what does not depend on the arrangement."""
    found = place_of("file", folder)
    yield found
    found.close()
