"""`kill -9` while a copy writes: what is there is whole, nothing is embedded, and the same copy goes on and ends equal.

Every failure prints the seed.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from crash_worker import count_statements

import shelflist
from shelflist import Chunk, Document
from shelflist.core.types import Vector
from shelflist.indexing import copy as copy_module
from shelflist.indexing import original

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]
DOCUMENTS = 40
KILLS_EACH = 8
SEEDS = range(1, 2 + int(os.environ.get("SHELFLIST_KILLS", "0")) // (6 * KILLS_EACH))
"""One, and in .ci/run, in a stage of its own, five."""


class Mute:
    """An embedder that must not be asked: the vectors of a copy come from the source."""

    spec = "custom:mute"
    fingerprint = "mute-8"
    dimensions = 8
    max_tokens = None
    fusion_alpha = 0.5
    allowed = True

    def embed_documents(self, texts: Any) -> Vector:
        import numpy as np

        assert self.allowed, "a copy embedded something"
        seeds = [sum(text.encode()) for text in texts]
        return np.stack([np.random.default_rng(seed).standard_normal(8).astype(np.float32) for seed in seeds])

    def embed_query(self, text: str) -> Vector:
        return self.embed_documents([text])[0]

    def token_counts(self, texts: Any) -> list[int]:
        return [1] * len(texts)


def _page(number: int, version: int) -> Document:
    texts = [f"page {number} part {part} of version {version if part == 1 else 0}" for part in range(3)]
    return Document(f"page-{number}", [Chunk(text) for text in texts])


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_kill_during_copy(folder: Path, seed: int, apart: bool) -> None:
    rng = random.Random(seed)
    embedder = Mute()
    source = shelflist.open(f"file:{folder / 'a'}", "docs", embedder=embedder)
    source.sync_all([_page(number, 0) for number in range(DOCUMENTS)], source="pages")
    ledger = f"sqlite:{folder / 'b.db'}" if apart else None
    place = {"url": f"file:{folder / 'b'}", "ledger": ledger}
    statements, kills, rounds = 1_500, 0, 0
    while kills < KILLS_EACH and rounds < 100:
        rounds += 1
        for number in rng.sample(range(DOCUMENTS), 5):  # the source moves on between two tries
            source.sync_all([_page(number, rounds)], source="pages")
        source.delete(f"page-{rng.randrange(DOCUMENTS)}")
        status, seen = _copy_in_a_child(folder, place, rng.randint(1, statements))
        kills += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):
            assert status == 0, f"seed {seed}: {seen}"
            statements = max(50, int(statements * 0.8))
        _whole(source, place, f"seed {seed}, round {rounds}")
    assert kills == KILLS_EACH, f"seed {seed}: only {kills} of {rounds} copies were killed"

    report = shelflist.copy(source.url, place["url"], "docs", to_ledger=ledger)
    embedder.allowed = False
    with shelflist.open(place["url"], "docs", embedder=embedder, ledger=ledger) as copy:
        shown = [
            {
                one["document_id"]: [chunk["chunk_id"] for chunk in side.show(one["document_id"])["chunks"]]
                for one in side.documents()
            }
            for side in (source, copy)
        ]
        assert shown[0] == shown[1] and len(shown[0]) == report.documents, f"seed {seed}"
        found = copy.verify()
        assert found["ok"] and found["unfinished"] == 0, f"seed {seed}: {found}"
    source.close()


def _whole(source: shelflist.Collection, place: dict[str, Any], where: str) -> None:
    """Every document of an unfinished copy is at one version, and searchable, or not there."""
    if "docs" not in shelflist.collections(place["url"], place["ledger"]):
        return
    with shelflist.open(place["url"], "docs", embedder=Mute(), ledger=place["ledger"]) as copy:
        found = {}
        for one in copy.documents():
            texts = [
                chunk["content"]
                for chunk in copy.show(one["document_id"])["chunks"]
                if chunk["index_status"] == "indexed"
            ]
            assert len(texts) == 3 and len({text.partition(" of ")[0] for text in texts}) == 3, f"{where}: {texts}"
            found[one["document_id"]] = texts
        assert copy.count() == 3 * len(found), where
        hits = copy.search("page", mode="keyword", limit=1_000)
        assert sorted(hit.content for hit in hits) == sorted(text for texts in found.values() for text in texts), where


def _copy_in_a_child(folder: Path, place: dict[str, Any], fatal: int) -> tuple[int, str]:
    """A process that is killed before its SQL statement number `fatal`: its wait status, and its error if it had one."""
    log = folder / "error.txt"
    log.write_text("")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            count_statements(fatal)
            copy_module._CHUNKS_PER_WRITE, original.DOCUMENTS_PER_PAGE = 10, 15
            shelflist.copy(f"file:{folder / 'a'}", place["url"], "docs", to_ledger=place["ledger"])
            status = 0
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    deadline = time.monotonic() + 60
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status, log.read_text()
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("a copy did not end in a minute")
        time.sleep(0.01)
