"""A place for collections: in memory, in a directory, or in a directory with the ledger apart."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import late_store  # noqa: F401  (registers itself)
from counting import CountingEmbedder

import shelflist
from shelflist.config import parse_url
from shelflist.stores.registry import open_store

_NUMBERS = count()
"""Stores named "late" live as long as the process: no two tests may meet in one."""


@dataclass
class Place:
    """A place for collections. Everything opened here is closed with it."""

    url: str
    ledger: str | None = None
    directory: Path | None = None
    embedder: CountingEmbedder = field(default_factory=CountingEmbedder)
    _opened: list[shelflist.Collection] = field(default_factory=list)

    @property
    def outlives(self) -> bool:
        """Whether what was written is there when it is opened again."""
        return not self.url.startswith("memory:")

    @property
    def apart(self) -> bool:
        """Whether store and ledger are two databases."""
        return self.directory is None or self.ledger is not None

    def open(self, name: str = "docs", **options: Any) -> shelflist.Collection:
        if "fingerprint" not in options:
            options.setdefault("embedder", self.embedder)
        opened = shelflist.open(self.url, name, ledger=self.ledger, **options)
        self._opened.append(opened)
        return opened

    def given(self, name: str = "given", dimensions: int = 4, **options: Any) -> shelflist.Collection:
        """A collection of given vectors."""
        return self.open(name, embedder=None, fingerprint="model-x", dimensions=dimensions, **options)

    def databases(self) -> list[Path]:
        """The SQLite files, store first."""
        files = [] if self.directory is None else [self.directory / "shelflist.db"]
        return files if self.ledger is None else [*files, Path(self.ledger.partition(":")[2])]

    def sql(self, statement: str, *parameters: Any, ledger: bool = False) -> list[tuple[Any, ...]]:
        """Reach behind the library's back into the store's file, or the ledger's."""
        with sqlite3.connect(self.databases()[-1 if ledger else 0]) as connection:
            rows = connection.execute(statement, parameters).fetchall()
        connection.close()
        return rows

    def table(self) -> str:
        """The points of the only generation in the store."""
        ((name,),) = self.sql("SELECT name FROM store_generations")
        return str(name)

    def drop(self) -> None:
        """Leave nothing in a server that other tests use too."""
        store = open_store(parse_url(self.url))
        for physical, name in self.sql(
            "SELECT physical_name, name FROM sl_generations JOIN sl_collections USING (collection_id)", ledger=True
        ):
            store.drop(physical)
            store.write_marker(name, None)
        store.close()

    def close(self) -> None:
        for one in self._opened:
            one.close()


def place_of(kind: str, folder: Path) -> Place:
    if kind == "memory":
        return Place("memory:")
    if kind == "late":
        return Place(f"late://{folder.name}-{next(_NUMBERS)}", f"sqlite:{folder / 'late.db'}")
    ledger = f"sqlite:{folder / 'ledger.db'}" if kind == "apart" else None
    return Place(f"file:{folder / 'index'}", ledger, folder / "index")
