"""Loads that are cut off, by a kill or a quota, or that find their file taken: what was acknowledged is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from milvus_engine import MilvusServer, client_of, opened, require_lite, running
from milvus_generation import FIELDS, ask

import shelflist
from shelflist import Chunk, Document
from shelflist.core.errors import StoreError, StoreFull, StoreTimeout, StoreUnavailable, Transient
from shelflist.stores.milvus.store import MilvusStore
from shelflist.stores.protocol import GenerationSpec, Scope
from shelflist.testing.points import make_points, random_vectors


def test_killed_in_the_middle_of_a_load(tmp_path: Path, no_patience: None) -> None:
    """What was acknowledged is there after the restart, and the same batches again bring the rest, nothing twice."""
    spec = GenerationSpec("sl_killed_1", 16, fields=FIELDS)
    batches = [make_points(f"b{i}.", 300, seed=i, metadata={"year": i}, fields=FIELDS) for i in range(12)]
    with running(tmp_path) as server, opened(f"{server.url}?timeout=5") as store:
        store.create(spec)
        acknowledged: list[bytes] = []
        for number, batch in enumerate(batches):
            if number == 6:
                server.stop(signal.SIGKILL)
            try:
                acknowledged += store.upsert(spec, batch).stored
            except StoreError as error:
                assert isinstance(error, Transient) and server.url in str(error)
                break
        assert len(acknowledged) == 6 * 300
        server.start()
        deadline = time.monotonic() + 60
        while True:
            try:
                there = {one for one, _ in store.scan(spec)}
                break
            except (StoreUnavailable, StoreTimeout):
                assert time.monotonic() < deadline
                time.sleep(0.5)
        assert there >= set(acknowledged)
        for batch in batches:
            assert not store.upsert(spec, batch).failed
        store.flush(spec)
        assert store.count(spec, Scope()) == 3_600 == store.stats(spec)["points"]
        assert len(ask(store, spec, 4_000).items) == 3_600


@contextmanager
def killed_at_the_insert(store: MilvusStore, server: MilvusServer, number: int) -> Iterator[list[str]]:
    """Kills the server, from another thread, while this insert is in flight. What is yielded tells that it was."""
    client = client_of(store)
    insert, begun, calls, told = client.insert, Event(), count(1), list[str]()

    def watched(*words: Any, **options: Any) -> Any:
        if next(calls) != number:
            return insert(*words, **options)
        os.kill(server.pid, signal.SIGSTOP)  # so that it cannot have answered
        begun.set()
        try:
            return insert(*words, **options)
        except BaseException:
            told.append("in flight")
            raise

    def kill() -> None:
        if begun.wait(60):
            time.sleep(0.3)
            server.stop(signal.SIGKILL)

    killer = Thread(target=kill)
    killer.start()
    client.insert = watched
    try:
        yield told
    finally:
        client.insert = insert
        begun.set()
        killer.join()


def test_killed_while_a_request_is_in_flight(tmp_path: Path, no_patience: None) -> None:
    """The sync that it stops says so; the same sync after the restart finishes, and nothing is lost or there twice."""
    ledger = f"sqlite:{tmp_path / 'ledger.db'}"
    vectors = random_vectors(400, seed=5)
    documents = [
        Document(f"{i}.md", chunks=[Chunk(f"text {n}", embedding=vectors[n]) for n in range(i * 10, i * 10 + 10)])
        for i in range(40)
    ]
    given: dict[str, Any] = {"embedder": None, "fingerprint": "f", "dimensions": 16, "ledger": ledger}
    with running(tmp_path) as server:
        docs = shelflist.open(f"{server.url}?timeout=5", "cut", **given)
        try:
            docs.sync_all(documents[:10])
            store = docs._parts.store
            assert isinstance(store, MilvusStore)
            with killed_at_the_insert(store, server, 1) as told:
                with pytest.raises(StoreError) as caught:
                    docs.sync_all(documents)
                assert isinstance(caught.value, Transient) and server.url in str(caught.value)
            assert told == ["in flight"]
            server.start()
            deadline = time.monotonic() + 60
            while True:
                try:
                    docs.sync_all(documents)
                    break
                except (StoreUnavailable, StoreTimeout):
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
            found = docs.verify(sample=400)
            assert found["ok"] and found["store"] == 400 and docs.count() == 400
            assert docs.search(vectors[399], limit=1, mode="dense")[0].content == "text 399"
        finally:
            docs.close()


def set_quota(server: MilvusServer, *, deny: bool) -> None:
    """As an operator does who sees the disk run full, and has made room. The server reads its settings again by itself."""
    settings = server.log.parent / "data" / "configs" / "milvus.yaml"
    old, new = ("forceDeny: false", "forceDeny: true") if deny else ("forceDeny: true", "forceDeny: false")
    text = settings.read_text()
    assert old in text
    settings.write_text(text.replace(old, new, 1))


def test_no_space_is_left(tmp_path: Path) -> None:
    """As an operator's quota says it, which comes before the disk is full. With room again, the load is finished."""
    vectors = random_vectors(300, seed=6)

    def documents(number: int) -> list[Document]:
        return [
            Document(f"{i}.md", chunks=[Chunk(f"text {n}", embedding=vectors[n]) for n in (2 * i, 2 * i + 1)])
            for i in range(number)
        ]

    given: dict[str, Any] = {"embedder": None, "fingerprint": "f", "dimensions": 16}
    with running(tmp_path) as server:
        docs = shelflist.open(server.url, "full", ledger=f"sqlite:{tmp_path / 'ledger.db'}", **given)
        try:
            docs.sync_all(documents(20))
            set_quota(server, deny=True)
            loaded = 20
            with pytest.raises(StoreFull, match=server.url):
                for loaded in range(21, 150):  # the server looks at its settings every few seconds
                    docs.sync_all(documents(loaded))
                    time.sleep(0.2)
            assert 20 <= loaded - 1 <= docs.count() // 2
            set_quota(server, deny=False)
            deadline = time.monotonic() + 60
            while True:
                try:
                    docs.sync_all(documents(150))
                    break
                except StoreFull:
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
            found = docs.verify(sample=300)
            assert found["ok"] and found["store"] == 300 and docs.count() == 300
        finally:
            docs.close()


def test_lite_in_another_process(tmp_path: Path) -> None:
    require_lite()
    path = tmp_path / "index.db"
    spec = GenerationSpec("sl_lite_1", 16)
    with opened(f"milvus:{path}") as store:
        store.create(spec)
        store.upsert(spec, make_points("p", 5, seed=1))
        code = (
            "from shelflist.config import parse_url\nfrom shelflist.core.errors import StoreUnavailable\n"
            "from shelflist.stores.milvus.store import MilvusStore\n"
            f"try:\n    MilvusStore.at(parse_url('milvus:{path}'), busy_timeout=1).read_marker('docs')\n"
            "except StoreUnavailable as error:\n    print(error)\n"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert "another process has it open" in other.stdout, other.stderr
        assert store.stats(spec)["points"] == 5
    with opened(f"milvus:{path}") as again:
        assert again.stats(spec)["points"] == 5 and not again.capabilities.concurrent_writers


def test_lite_in_no_folder(tmp_path: Path) -> None:
    require_lite()
    with (
        opened(f"milvus:{tmp_path / 'nowhere' / 'index.db'}") as store,
        pytest.raises(StoreUnavailable, match="nowhere"),
    ):
        store.read_marker("docs")
