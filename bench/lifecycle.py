"""One real change of a documentation, 2023-08-25 to 2023-12-07, while a second process reads.

    python bench/lifecycle.py
    python bench/lifecycle.py --documents 600      # a sample, as in tests/acceptance/test_lifecycle.py

Checks three promises: exactly the distinct new texts are embedded, counted inside the embedder; after the sync no query,
in any mode, returns a chunk that is not in the new version; and during it another process sees each document wholly old or
wholly new. Writes bench/results/lifecycle.json. The exit code is 1 when one of them does not hold.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import data
import report

from shelflist.core.types import Vector
from shelflist.embedders.static import StaticEmbedder

OLD, NEW = "2023-08-25", "2023-12-07"
MODES = ("dense", "keyword", "hybrid")
COLLECTION = "cfn"
SOURCE = "cloudformation"


class CountingEmbedder(StaticEmbedder):
    """The bundled embedder; remembers every text that it was paid for. A pause per call stands for a slower model."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause
        self.texts: list[str] = []

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        self.texts += texts
        time.sleep(self.pause)
        return super().embed_documents(texts)


@dataclass
class Watch:
    """What the second process saw. `mixed` lists observations that are neither the old document nor the new one."""

    looks: int = 0
    old: int = 0
    new: int = 0
    mixed: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What a run of `change` measured."""

    documents: int
    changed: int
    expected_texts: set[str]
    embedded_texts: list[str]
    first_seconds: float
    change_seconds: float
    watch: Watch
    queries: int
    foreign_hits: list[str]
    verify: dict[str, Any]
    counted: int
    expected_count: int
    report: dict[str, Any]


def documents_of(version: data.Version, ids: Iterable[str], pause_at: frozenset[str] = frozenset()) -> Iterator[Any]:
    """Documents, each with its id as the field `page`; pauses a moment before those in `pause_at`."""
    from shelflist import Chunk, Document

    for document_id in ids:
        if document_id in pause_at:
            time.sleep(0.001)
        yield Document(
            document_id,
            chunks=[
                Chunk(content=text, section=section, metadata={"page": document_id})
                for section, text in version[document_id]
            ],
        )


def sampled(old: data.Version, new: data.Version, documents: int | None) -> tuple[data.Version, data.Version]:
    """Both versions cut down to about `documents` documents, half of them changed, added or deleted."""
    if documents is None:
        return old, new
    everything = sorted(set(old) | set(new))
    touched = [one for one in everything if old.get(one) != new.get(one)]
    same = [one for one in everything if old.get(one) == new.get(one)]
    rng = random.Random(20231207)
    share = min(len(touched), documents // 2)
    chosen = set(rng.sample(touched, share)) | set(rng.sample(same, min(len(same), documents - share)))
    return tuple({one: version[one] for one in sorted(chosen & set(version))} for version in (old, new))  # type: ignore[return-value]


def change(
    directory: str, old: data.Version, new: data.Version, queries: Sequence[str], *, pause: float = 0.0, seed: int = 1
) -> Outcome:
    """Sync `old`, then `new` while a second process looks, then ask every query in every mode."""
    import shelflist

    url = f"file:{directory}/index"
    touched = sorted(one for one in set(old) | set(new) if old.get(one) != new.get(one))
    embedder = CountingEmbedder()
    with shelflist.open(url, COLLECTION, embedder=embedder, fields={"page": str}) as collection:
        started = time.perf_counter()
        collection.sync_all(documents_of(old, old), source=SOURCE, delete="missing")
        first_seconds = time.perf_counter() - started
        embedder.texts.clear()
        embedder.pause = pause

        context = multiprocessing.get_context("spawn")
        stop, ready, results = context.Event(), context.Event(), context.Queue()
        versions = [[(one, [text for _, text in version.get(one, [])]) for one in touched] for version in (old, new)]
        watcher = context.Process(target=watch, args=(url, *versions, seed, ready, stop, results), daemon=True)
        watcher.start()
        ready.wait(60)
        started = time.perf_counter()
        synced = collection.sync_all(documents_of(new, new, frozenset(touched)), source=SOURCE, delete="missing")
        change_seconds = time.perf_counter() - started
        embedded_texts = list(embedder.texts)
        embedder.pause = 0.0
        time.sleep(0.2)
        stop.set()
        seen: Watch = results.get(timeout=60)
        watcher.join(60)

        known = {(document_id, text) for document_id, chunks in new.items() for _, text in chunks}
        foreign = []
        for mode in MODES:
            for query, hits in zip(queries, collection.search_many(queries, mode=mode, limit=10), strict=True):
                foreign += [
                    f"{mode}: {query[:60]!r} -> {hit.document_id}: {hit.content[:60]!r}"
                    for hit in hits
                    if (hit.document_id, hit.content) not in known
                ]
        return Outcome(
            documents=len(new),
            changed=len(touched),
            expected_texts=_texts(new) - _texts(old),
            embedded_texts=embedded_texts,
            first_seconds=first_seconds,
            change_seconds=change_seconds,
            watch=seen,
            queries=len(queries) * len(MODES),
            foreign_hits=foreign,
            verify=collection.verify(),
            counted=collection.count(),
            expected_count=sum(map(len, new.values())),
            report=synced.to_dict(),
        )


def watch(
    url: str,
    old: list[tuple[str, list[str]]],
    new: list[tuple[str, list[str]]],
    seed: int,
    ready: Any,
    stop: Any,
    results: Any,
) -> None:
    """The second process: looks at random changed documents, by name and by filtered searches, until told to stop."""
    import shelflist
    from shelflist import F
    from shelflist.core.errors import InvalidInput

    rng = random.Random(seed)
    seen = Watch()
    with shelflist.open(url, COLLECTION, create=False) as collection:
        collection.search("warm up", limit=1)
        ready.set()
        while not stop.is_set() or seen.looks < 20:
            place = rng.randrange(len(old))
            document_id, before = old[place]
            after = new[place][1]
            way = rng.choice(("show", "dense", "hybrid", "keyword", "count"))
            if way == "show":
                try:
                    found: Any = [
                        chunk["content"]
                        for chunk in collection.show(document_id)["chunks"]
                        if chunk["index_status"] == "indexed"
                    ]
                except InvalidInput:
                    found = []
                fits = [found == before, found == after]
            elif way == "count":
                found = collection.count(F("page") == document_id)
                fits = [found == len(before), found == len(after)]
            else:
                hits = collection.search(
                    rng.choice(before or after), where=F("page") == document_id, mode=way, limit=1_000
                )
                found = sorted(hit.content for hit in hits)
                if way == "keyword":
                    fits = [set(found) <= set(before), set(found) <= set(after)]
                else:
                    fits = [found == sorted(before), found == sorted(after)]
            seen.looks += 1
            seen.old += fits == [True, False]
            seen.new += fits == [False, True]
            if not any(fits) and len(seen.mixed) < 20:
                size = found if way == "count" else len(found)
                seen.mixed.append(f"{way} of {document_id}: {size} chunks, old has {len(before)}, new has {len(after)}")
    results.put(seen)


def questions(old: data.Version, new: data.Version) -> list[str]:
    """All headings of both versions, the corpus questions, and the beginning of every text that went away."""
    headings = {section for version in (old, new) for chunks in version.values() for section, _ in chunks if section}
    gone = [text[:300] for text in sorted(_texts(old) - _texts(new))]
    return [*sorted(headings), *gone, *data.load_query_texts()]


def _texts(version: data.Version) -> set[str]:
    return {text for chunks in version.values() for _, text in chunks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, help="a sample of about so many documents")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds that the embedder waits per call")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    reference = data.reference_difference(OLD, NEW)
    old, new = sampled(data.load_version(OLD), data.load_version(NEW), options.documents)
    queries = questions(old, new)
    with tempfile.TemporaryDirectory(prefix="shelflist-bench-") as directory:
        outcome = change(directory, old, new, queries, pause=options.pause, seed=options.seed)

    expected = outcome.expected_texts
    wanted = len(expected) if options.documents else reference["distinct_new_texts_to_embed"]
    exact = len(outcome.embedded_texts) == wanted and set(outcome.embedded_texts) == expected
    seen = outcome.watch
    targets = [
        report.target("texts embedded, exactly the distinct new ones", len(outcome.embedded_texts), str(wanted), exact),
        report.target(
            f"foreign hits in {outcome.queries:,} searches", len(outcome.foreign_hits), "0", not outcome.foreign_hits
        ),
        report.target(f"mixed documents in {seen.looks:,} looks", len(seen.mixed), "0", not seen.mixed),
        report.target(
            "looks that saw the old and the new", min(seen.old, seen.new), ">= 1", min(seen.old, seen.new) > 0
        ),
        report.target(
            "chunks found", outcome.counted, str(outcome.expected_count), outcome.counted == outcome.expected_count
        ),
        report.target("verify ok", outcome.verify["ok"], "1", bool(outcome.verify["ok"])),
    ]
    print(
        f"{OLD} -> {NEW}: {outcome.documents:,} documents, {outcome.changed} changed, added or deleted. "
        f"First sync {outcome.first_seconds:.1f} s, change {outcome.change_seconds:.1f} s."
    )
    print(f"The second process looked {seen.looks:,} times: {seen.old:,} old, {seen.new:,} new.")
    for line in [*outcome.foreign_hits[:5], *seen.mixed[:5]]:
        print(f"  {line}")
    report.print_targets(targets)
    report.write(
        "lifecycle",
        {
            "old": OLD,
            "new": NEW,
            "documents": outcome.documents,
            "changed_documents": outcome.changed,
            "first_seconds": outcome.first_seconds,
            "change_seconds": outcome.change_seconds,
            "report": outcome.report,
            "searches": outcome.queries,
            "looks": seen.looks,
            "looks_old": seen.old,
            "looks_new": seen.new,
            "targets": targets,
            "environment": report.environment(["numpy", "tantivy", "tokenizers"]),
        },
    )
    sys.exit(0 if all(target["met"] for target in targets) else 1)


if __name__ == "__main__":
    main()
