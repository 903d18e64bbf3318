"""The shared data as the benchmarks use it: chunks with vectors, retrieval sets with judgments, versions of one documentation.

The data lies beside the repository in `../shared/data`; the environment variable SHELFLIST_DATA names another place.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def data_directory() -> Path:
    return Path(os.environ.get("SHELFLIST_DATA") or REPOSITORY.parent / "shared" / "data")


def available() -> bool:
    return (data_directory() / "chunks_100k.parquet").exists()


def require() -> Path:
    place = data_directory()
    if not available():
        raise SystemExit(f"The benchmark data is not in {place}. Set SHELFLIST_DATA to the directory that holds it.")
    return place


@dataclass(frozen=True)
class Corpus:
    """Chunks in file order; the chunks of a document stand together. `vectors` is float32 (n, 384) of length 1."""

    document_ids: list[str]
    texts: list[str]
    metadata: list[dict[str, Any]]
    vectors: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.texts)

    def ranges(self) -> Iterator[tuple[str, int, int]]:
        """(document_id, first row, row after the last) of each document."""
        start = 0
        for row in range(1, len(self) + 1):
            if row == len(self) or self.document_ids[row] != self.document_ids[start]:
                yield self.document_ids[start], start, row
                start = row


def load_corpus(rows: int = 100_000) -> Corpus:
    """The first `rows` chunks of the documentation corpus, with their MiniLM vectors."""
    import pyarrow.parquet as pq

    place = require()
    columns = ["document_id", "title", "section", "chunk_index", "kind", "text"]
    table = pq.read_table(place / "chunks_100k.parquet", columns=columns).slice(0, rows).to_pydict()
    vectors = np.load(place / "vectors_100k.npy", mmap_mode="r")[:rows].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    metadata = [
        {"source": source, "title": title, "section": section, "kind": kind, "chunk_index": index}
        for source, title, section, kind, index in zip(
            table["document_id"], table["title"], table["section"], table["kind"], table["chunk_index"], strict=True
        )
    ]
    return Corpus(table["document_id"], table["text"], metadata, vectors)


def with_changes(corpus: Corpus, share: float, seed: int = 7) -> tuple[Corpus, list[str]]:
    """The corpus with `share` of its chunks rewritten (text and vector), all in as few whole documents as hold them.

    Also returns the ids of the documents that changed.
    """
    rng = np.random.default_rng(seed)
    wanted = max(1, round(len(corpus) * share))
    ranges = list(corpus.ranges())
    texts, vectors = list(corpus.texts), corpus.vectors.copy()
    changed: list[str] = []
    for place in rng.permutation(len(ranges)):
        document_id, start, stop = ranges[place]
        stop = min(stop, start + wanted)
        for row in range(start, stop):
            texts[row] += f"\n\nReviewed in revision {seed}."
            vectors[row] += rng.normal(0, 0.01, vectors.shape[1]).astype(np.float32)
            vectors[row] /= np.linalg.norm(vectors[row])
        changed.append(document_id)
        wanted -= stop - start
        if wanted <= 0:
            break
    return Corpus(corpus.document_ids, texts, corpus.metadata, vectors), changed


def shelflist_documents(corpus: Corpus) -> list[Any]:
    """The corpus as Documents of embedded chunks."""
    from shelflist import Chunk, Document

    return [
        Document(
            document_id,
            chunks=[
                Chunk(content=corpus.texts[row], metadata=corpus.metadata[row], embedding=corpus.vectors[row])
                for row in range(start, stop)
            ],
        )
        for document_id, start, stop in corpus.ranges()
    ]


@dataclass(frozen=True)
class RetrievalSet:
    """Documents (id, text to index), queries (id, text) and `relevant`: query id -> {document id: grade}."""

    name: str
    documents: Sequence[tuple[str, str]]
    queries: Sequence[tuple[str, str]]
    relevant: Mapping[str, Mapping[str, int]]


def load_retrieval_set(name: str) -> RetrievalSet:
    """A set of `ir/` whole; a document's text is its title, an empty line, its text."""
    place = require() / "ir" / name
    documents = [(row["id"], f"{row['title']}\n\n{row['text']}") for row in _json_lines(place / "corpus.jsonl")]
    relevant: dict[str, dict[str, int]] = {}
    for line in (place / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query_id, document_id, grade = line.split("\t")
        relevant.setdefault(query_id, {})[document_id] = int(grade)
    queries = [(row["id"], row["text"]) for row in _json_lines(place / "queries.jsonl") if row["id"] in relevant]
    return RetrievalSet(name, documents, queries, relevant)


Version = dict[str, list[tuple[str, str]]]
"""One version of a documentation: document id -> its chunks in order, each (section, text)."""


def load_version(date: str) -> Version:
    """A version of `lifecycle_cfn` with the chunks of its own file."""
    import pyarrow.parquet as pq

    table = pq.read_table(require() / "lifecycle_cfn" / f"chunks_{date}.parquet").to_pydict()
    rows: dict[str, list[tuple[int, str, str]]] = {}
    for document_id, index, section, text in zip(
        table["document_id"], table["chunk_index"], table["section"], table["text"], strict=True
    ):
        rows.setdefault(document_id, []).append((index, section, text))
    return {document_id: [(section, text) for _, section, text in sorted(found)] for document_id, found in rows.items()}


def reference_difference(old: str, new: str) -> dict[str, Any]:
    """The data's own count of what changed between two versions."""
    found = json.loads((require() / "lifecycle_cfn" / "diff.json").read_text())
    return next(entry for entry in found if (entry["old"], entry["new"]) == (old, new))


def load_query_texts() -> list[str]:
    """The 2,700 question texts that come with the documentation corpus."""
    place = require()
    return [row["text"] for name in ("queries_1k.jsonl", "queries_more.jsonl") for row in _json_lines(place / name)]


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
