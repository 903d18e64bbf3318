"""Run a command line in this process, on a fake collection: what the CLI does with what a collection says."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_collection import FakeCollection, FakeShelf, Result, Shell

import shelflist
from shelflist.cli.main import run


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Shell:
    """`shell("search", "keys")` runs the command in an empty folder without any setting around."""
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "COLLECTION", "LEDGER", "EMBEDDER", "TENANT"):
        monkeypatch.delenv(f"SHELFLIST_{name}", raising=False)

    def call(*arguments: str) -> Result:
        capfdbinary.readouterr()
        code = run(list(arguments))
        out, err = capfdbinary.readouterr()
        return Result(code, out.decode(), err.decode())

    return call


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> FakeShelf:
    """Stands in for `shelflist.open` and `shelflist.open_source`, and remembers how they were called."""
    fake = FakeShelf()
    for name in ("open", "open_source"):
        monkeypatch.setitem(vars(shelflist), name, getattr(fake, name))
    monkeypatch.setitem(vars(shelflist), "Chunker", fake.chunker)
    return fake


@pytest.fixture
def fake(shelf: FakeShelf, monkeypatch: pytest.MonkeyPatch) -> FakeCollection:
    """The one collection of the fake shelf, named by the environment."""
    monkeypatch.setenv("SHELFLIST_URL", "memory:")
    collection = FakeCollection("docs")
    shelf.collections["docs"] = collection
    return collection
