"""One client of Chroma, opened at its first use, and what is asked of its collections."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from shelflist.core.errors import StoreFull
from shelflist.core.locks import ProcessLock
from shelflist.stores._connect import retried
from shelflist.stores.chroma import client as chroma_client
from shelflist.stores.chroma.client import CollectionMissing, Hidden, WriteUnapplied, errors_of
from shelflist.stores.protocol import GenerationSpec

MAX_BATCH = 5_461
IDS_A_REQUEST = 10_000
_FLOATS_AN_ANSWER = 1_000_000
_LITTLE_SPACE = 20_000_000


class Link:
    """Safe for many threads; after a fork a server gets a client of the child's own. `directory`: not on a server."""

    def __init__(
        self, address: str, connect: Callable[[], Any], directory: Path | None = None, hidden: Hidden = str
    ) -> None:
        self.address = address
        self._hidden = hidden
        self._connect = connect
        self._directory = directory
        self._opening = ProcessLock()
        self._client: Any = None
        self._process = 0
        self._collections: dict[str, Any] = {}
        self._batch = MAX_BATCH

    def batch(self) -> int:
        """Most records in one request."""
        retried(self._open, f"Opening {self.address}")
        return self._batch

    def made(self, name: str, **how: Any) -> Any:
        """The collection of this name, which is made if it is not there; what is there keeps its own settings."""

        def make() -> Any:
            client = self._open()
            with errors_of(self.address, self._hidden):
                return client.get_or_create_collection(name, embedding_function=None, **how)

        made = self._collections[name] = retried(make, f"Creating {name} at {self.address}")
        return made

    def drop(self, name: str) -> None:
        def remove() -> None:
            client = self._open()
            with errors_of(self.address, self._hidden):
                client.delete_collection(name)

        self._collections.pop(name, None)
        with suppress(CollectionMissing):
            retried(remove, f"Dropping {name} at {self.address}")

    def ask(self, name: str, method: str, **how: Any) -> Any:
        """A method of the collection of this name: again if the error is transient, and if the collection is another."""

        def once() -> Any:
            client = self._open()
            for last in (False, True):
                try:
                    with errors_of(self.address, self._hidden):
                        there = self._collections.get(name)
                        if there is None:
                            there = self._collections[name] = client.get_collection(name, embedding_function=None)
                        return getattr(there, method)(**how)
                except WriteUnapplied as error:
                    if self._directory is not None and shutil.disk_usage(self._directory).free < _LITTLE_SPACE:
                        raise StoreFull(
                            f"No space is left for {self.address}. Free some, then run the same again; what was "
                            "acknowledged is kept."
                        ) from error
                    raise
                except CollectionMissing:
                    if self._collections.pop(name, None) is None or last:
                        raise
            raise AssertionError("unreachable: the second time returns or raises")

        return retried(once, f"{name} at {self.address}")

    def ids(self, name: str, **how: Any) -> set[str]:
        return set(self.ask(name, "get", include=[], **how)["ids"])

    def records(self, spec: GenerationSpec, ids: Sequence[str], include: list[str]) -> Iterator[Mapping[str, Any]]:
        """Records by id, in answers of bounded size; unknown ids are left out."""
        for part in parts_of(ids, max(1, min(IDS_A_REQUEST, _FLOATS_AN_ANSWER // spec.dimensions))):
            found = self.ask(spec.name, "get", ids=part, include=include)
            if found["ids"]:
                yield found

    def close(self) -> None:
        with self._opening:
            client, self._client = self._client, None
            self._collections.clear()
            if client is None or self._process != os.getpid():
                return
            with errors_of(self.address, self._hidden):
                chroma_client.close(client)
            if self._directory is not None:
                chroma_client.release(self._directory)

    def _open(self) -> Any:
        with self._opening:
            if self._client is not None and self._process != os.getpid():
                if self._directory is not None:
                    raise chroma_client.forked(self.address)
                self._client = None
                self._collections.clear()
            if self._client is None:
                self._client, self._process = self._connect(), os.getpid()
                with errors_of(self.address, self._hidden):
                    self._batch = min(MAX_BATCH, int(self._client.get_max_batch_size()))
            return self._client


def parts_of(ids: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(ids), size):
        yield list(ids[start : start + size])
