"""The sides of bench/sync.py. Each runs alone in a process of its own: `python sides.py SIDE --rows N [options]`.

A side first builds its own objects from the same rows, outside the clock, then is timed three times over one store: first
sync, identical sync, sync after 1 % of the chunks changed. The last line it prints is a JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import data

CHANGED_SHARE = 0.01
FINGERPRINT = "all-MiniLM-L6-v2"


class Stopwatch:
    """Times phases with the garbage collector's backlog settled first, so that no side pays for building its input."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        gc.collect()
        gc.freeze()
        started, worked = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = time.perf_counter() - started
        self.cpu[name] = time.process_time() - worked


class WrittenRows:
    """Counts the rows that this process writes through sqlite3, on every connection that it opens."""

    def __init__(self) -> None:
        self._open: list[sqlite3.Connection] = []
        self._of_closed = 0
        connect = sqlite3.connect
        written = self

        class Counted(sqlite3.Connection):
            def close(self) -> None:
                if self in written._open:
                    written._open.remove(self)
                    written._of_closed += self.total_changes
                super().close()

        def counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
            options["factory"] = Counted  # instead of the one that was asked for, which only allows weak references
            connection = connect(*arguments, **options)
            self._open.append(connection)
            return connection

        sqlite3.connect = counted  # type: ignore[assignment]

    def total(self) -> int:
        return self._of_closed + sum(connection.total_changes for connection in self._open)


def run_shelflist(corpus: data.Corpus, changed: data.Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """A durable index in a directory: SQLite with synchronous=FULL, searchable when the call returns.

    The approximate index of the vectors, which no other side has, is built after that in another thread, while searches do
    without it: it is waited for between the phases, off the clock.
    """
    import shelflist

    counter = WrittenRows()
    before, after = data.shelflist_documents(corpus), data.shelflist_documents(changed)
    directory = Path(tempfile.mkdtemp(prefix="shelflist-bench-", dir=options.directory))
    clock = Stopwatch()
    written: dict[str, Any] = {}
    try:
        with shelflist.open(
            f"file:{directory}/index",
            "bench",
            embedder=None,
            fingerprint=FINGERPRINT,
            dimensions=corpus.vectors.shape[1],
        ) as collection:
            database = directory / "index" / "shelflist.db"
            for phase, documents in (("first", before), ("no-op", before), ("1 %", after)):
                _truncate_log(database)
                size, rows = _size(database), counter.total()
                with clock.phase(phase):
                    report = collection.sync_all(documents, source="bench", delete="missing")
                started = time.perf_counter()
                collection.wait_for_build()  # else the next phase is timed beside it
                waited = time.perf_counter() - started
                written[phase] = {
                    "rows": counter.total() - rows,
                    "bytes": _size(database) - size,
                    "index_seconds": waited,
                    "report": {name: value for name, value in report.to_dict().items() if value and name != "failures"},
                }
                expected = corpus if phase != "1 %" else changed
                _must_find(collection, expected)
            checked = collection.verify()
            if not checked["ok"]:
                raise SystemExit(f"verify found: {checked}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return {"seconds": clock.seconds, "cpu_seconds": clock.cpu, "written": written}


def run_langchain(corpus: data.Corpus, changed: data.Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """`index()` into InMemoryVectorStore; embedding is a look-up in a dict of ready rows. Nothing is durable."""
    import warnings

    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.indexing import InMemoryRecordManager, index
    from langchain_core.vectorstores import InMemoryVectorStore

    warnings.simplefilter("ignore")  # LangChain warns of sha1, the fastest of its key encoders
    vectors: dict[str, Any] = {}
    for one in (corpus, changed):
        vectors.update(zip(one.texts, one.vectors, strict=True))

    class Given(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vectors[text] for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return list(vectors[text])

    def documents(one: data.Corpus) -> list[Document]:
        return [
            Document(page_content=text, metadata=metadata)
            for text, metadata in zip(one.texts, one.metadata, strict=True)
        ]

    before, after = documents(corpus), documents(changed)
    store = InMemoryVectorStore(Given())
    if options.records == "memory":
        records: Any = InMemoryRecordManager("bench")
    else:
        from langchain_classic.indexes import SQLRecordManager

        records = SQLRecordManager("bench", db_url="sqlite:///:memory:")
    records.create_schema()
    batch = len(corpus) if options.batch == 0 else options.batch
    clock = Stopwatch()
    results: dict[str, Any] = {}
    for phase, one in (("first", before), ("no-op", before), ("1 %", after)):
        with clock.phase(phase):
            results[phase] = index(
                one, records, store, batch_size=batch, cleanup=options.cleanup, source_id_key="source"
            )
    if len(store.store) != len(corpus):
        raise SystemExit(f"LangChain's store holds {len(store.store)} chunks, not {len(corpus)}.")
    return {"seconds": clock.seconds, "cpu_seconds": clock.cpu, "results": results}


def run_llamaindex(corpus: data.Corpus, changed: data.Corpus, options: argparse.Namespace) -> dict[str, Any]:
    """IngestionPipeline, upserts by node id, SimpleDocumentStore and SimpleVectorStore. Nothing is durable."""
    from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
    from llama_index.core.schema import TextNode
    from llama_index.core.storage.docstore import SimpleDocumentStore
    from llama_index.core.vector_stores import SimpleVectorStore

    lists = {id(one): one.vectors.tolist() for one in (corpus, changed)}

    def nodes(one: data.Corpus) -> list[TextNode]:
        return [
            TextNode(id_=f"{meta['source']}#{meta['chunk_index']}", text=text, metadata=meta, embedding=vector)
            for text, meta, vector in zip(one.texts, one.metadata, lists[id(one)], strict=True)
        ]

    before, again, after = nodes(corpus), nodes(corpus), nodes(changed)
    pipeline = IngestionPipeline(
        transformations=[],
        docstore=SimpleDocumentStore(),
        vector_store=SimpleVectorStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        disable_cache=True,
    )
    clock = Stopwatch()
    results: dict[str, Any] = {}
    for phase, one in (("first", before), ("no-op", again), ("1 %", after)):
        with clock.phase(phase):
            results[phase] = len(pipeline.run(nodes=one))
    return {"seconds": clock.seconds, "cpu_seconds": clock.cpu, "results": results}


def _must_find(collection: Any, corpus: data.Corpus) -> None:
    """The clock may only have stopped when every chunk can be found: count them, and look a few up by vector."""
    if collection.count() != len(corpus):
        raise SystemExit(f"The index answers with {collection.count()} chunks, not {len(corpus)}.")
    for row in range(0, len(corpus), max(1, len(corpus) // 7)):
        hits = collection.search(corpus.vectors[row], limit=3)
        if corpus.texts[row] not in [hit.content for hit in hits]:
            raise SystemExit(f"Chunk {row} of {corpus.document_ids[row]} is not found by its own vector.")


def _truncate_log(database: Path) -> None:
    if database.exists():
        connection = sqlite3.connect(database)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()


def _size(database: Path) -> int:
    files = (database, database.with_name(database.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


SIDES: dict[str, Callable[[data.Corpus, data.Corpus, argparse.Namespace], dict[str, Any]]] = {
    "shelflist": run_shelflist,
    "langchain": run_langchain,
    "llamaindex": run_llamaindex,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=sorted(SIDES))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=100, help="LangChain's batch size; 0: everything in one")
    parser.add_argument("--cleanup", choices=["full", "incremental"], default="full", help="LangChain's cleanup mode")
    parser.add_argument("--records", choices=["memory", "sql"], default="memory", help="LangChain's record manager")
    parser.add_argument("--directory", help="where the durable index is written; default: the system's temporary one")
    options = parser.parse_args()
    corpus = data.load_corpus(options.rows)
    changed, changed_documents = data.with_changes(corpus, CHANGED_SHARE)
    result = SIDES[options.side](corpus, changed, options)
    result |= {
        "chunks": len(corpus),
        "documents": len(set(corpus.document_ids)),
        "changed_documents": len(changed_documents),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
