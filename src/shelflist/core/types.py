"""The words that every layer shares: what goes in (documents, chunks), what is stored (points), what comes out (hits)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Metadata = Mapping[str, Any]
Metric = Literal["cosine", "dot", "l2"]
Wait = Literal["searchable", "stored"]
OnFailed = Literal["keep_old", "switch_without"]
Tenancy = Literal["none", "required"]
Mode = Literal["dense", "keyword", "hybrid"]

MAX_CHUNK_BYTES = 1_000_000
"""Longest accepted text of one chunk, in UTF-8 bytes. A longer one is a chunking mistake: no embedder reads it."""


class IndexStatus(StrEnum):
    """State of one chunk in one generation."""

    PENDING = "pending"
    """Known, not yet searchable."""
    INDEXED = "indexed"
    """Searchable: the only status that is ever served."""
    STALE = "stale"
    """Never served; the reason is `superseded` (waits for purge) or `marked` (to be embedded again)."""
    FAILED = "failed"
    """Could not be embedded or stored; the error and the number of attempts are in the ledger."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: the unit of indexing.

    `embedding` is a float32 vector of shape (dimensions,), for collections that take given vectors.
    `section` is the path of headings above the text; `chunk_strategy` records how the text was cut.
    """

    content: str
    metadata: Metadata = field(default_factory=dict)
    embedding: Vector | Sequence[float] | None = None
    section: str | None = None
    chunk_strategy: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A source item that owns an ordered list of chunks.

    `source_digest` is the hash of the raw bytes that the chunks came from: sources that know it
    let a later sync skip parsing. `revision` is the caller's own monotonic number, if there is one.
    """

    document_id: str
    chunks: Sequence[Chunk] = ()
    tenant: str | None = None
    revision: int | None = None
    source_digest: bytes | None = None


Quantization = Literal["half", "scalar", "binary", "rabitq", "rabitq2"]
"""Smaller vectors inside an index, rescored by the whole vectors: 16-bit floats, 8-bit integers, sign bits, or one or two bits
a dimension after a random rotation (RaBitQ)."""


@dataclass(frozen=True, slots=True)
class Flat:
    """Exact scan."""

    quantization: Quantization | None = None
    kind: Literal["flat"] = "flat"


@dataclass(frozen=True, slots=True)
class Ivf:
    """Inverted file: `nlist` cells, of which a search visits `nprobe`."""

    nlist: int | None = None
    nprobe: int | None = None
    quantization: Quantization | None = None
    kind: Literal["ivf"] = "ivf"


@dataclass(frozen=True, slots=True)
class Hnsw:
    """Graph: `m` links a node, `ef_construction` candidates while building, `ef_search` while searching.

    `full_scan_threshold`: a search that fewer rows match is exact. `indexing_threshold`: rows from which the graph is
    built. None leaves each to the store.
    """

    m: int = 16
    ef_construction: int = 128
    ef_search: int | None = None
    full_scan_threshold: int | None = None
    indexing_threshold: int | None = None
    quantization: Quantization | None = None
    kind: Literal["hnsw"] = "hnsw"


IndexSpec = Flat | Ivf | Hnsw


@dataclass(frozen=True, slots=True)
class SearchParams:
    """Per-query settings of the vector index. `exact=True` asks for the exact scan on any index."""

    ef_search: int | None = None
    nprobe: int | None = None
    exact: bool = False


class Recall(float):
    """A measured recall, 0 to 1: the mean over the queries. `target` is what it is compared with."""

    __slots__ = ("target",)
    target: float

    def __new__(cls, value: float, target: float) -> Recall:
        recall = super().__new__(cls, value)
        recall.target = target
        return recall

    @property
    def is_met(self) -> bool:
        """Whether the target is reached."""
        return self >= self.target


@dataclass(frozen=True, slots=True)
class Point:
    """A row of a store. Immutable once written; only `index_status` may later become `stale`.

    `point_id` is 16 bytes (a UUID), `vector` float32 of shape (dimensions,). `metadata` holds every key that the
    user gave; declared fields have been checked and are plain JSON values (datetimes as int µs UTC).
    """

    point_id: bytes
    chunk_id: bytes
    document_id: str
    tenant_id: str | None
    content: str
    metadata: Metadata
    vector: Vector
    index_status: IndexStatus = IndexStatus.INDEXED


class Candidate(NamedTuple):  # a frozen dataclass takes four times as long to make
    """What a store answers: a point id and its raw distance (dense) or BM25 score (keyword)."""

    point_id: bytes
    value: float


@dataclass(frozen=True, slots=True)
class Candidates:
    """A store's answer, best first, with how it was found.

    `exhausted` is true when no further matching candidate exists: the caller need not ask for more.
    `exact` is true when no approximate index was involved. `plan` is a short sentence for people.
    `live`: by point id, the row of the scope's live clause for each candidate that the ledger lets through; None when
    the store was not given one, or does not join it.
    """

    items: Sequence[Candidate]
    exact: bool
    exhausted: bool
    plan: str
    live: Mapping[bytes, Sequence[Any]] | None = None


@dataclass(frozen=True, slots=True)
class UpsertResult:
    """Per-item acknowledgement of an upsert: ids that the store has, and the error of each that it has not."""

    stored: Sequence[bytes]
    failed: Mapping[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a hit stands where it stands. Ranks count from 1; None means that the leg did not return the chunk."""

    dense_rank: int | None = None
    dense_score: float | None = None
    keyword_rank: int | None = None
    keyword_score: float | None = None
    rerank_score: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that answers a query.

    `score`: higher is better on every metric and leg. `distance`: the raw vector distance (cosine: 1 - cos,
    dot: -dot, l2: Euclidean); None when only the keyword leg ran.
    """

    score: float
    distance: float | None
    content: str
    document_id: str
    chunk_id: str
    metadata: Metadata
    section: str | None = None
    position: int = 0
    tenant: str | None = None
    explanation: Explanation = Explanation()


class Hits(Sequence[Hit]):
    """The answer to a search, best first.

    `plan` says which way the search went, `exact` whether no approximation was involved, `refused` how many
    candidates of the store the ledger did not let through.
    """

    __slots__ = ("_hits", "exact", "plan", "refused")

    def __init__(self, hits: Sequence[Hit], *, plan: str, exact: bool, refused: int = 0) -> None:
        self._hits = tuple(hits)
        self.plan = plan
        self.exact = exact
        self.refused = refused

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self._hits[index]

    def __len__(self) -> int:
        return len(self._hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self._hits)

    def __repr__(self) -> str:
        return f"<Hits {len(self)}, {self.plan}>"


Reranker = Callable[[str, Sequence[Hit]], Sequence[float]]
"""Takes the query text and the hits; returns one score a hit, higher is better."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that could not be indexed, and why. `position` counts the document's chunks from 0."""

    document_id: str
    error: str
    position: int | None = None


@dataclass(slots=True)
class SyncReport:
    """What a sync did, or (from `plan`) what it would do. Plain counts are chunks; documents are `documents_*`.

    `added` new chunks, `metadata_only` same text with other metadata or given vector, `moved` same chunk at another position, `removed`, `unchanged`.
    `files_skipped`: of a kind that the source does not read; `skipped` names the first of them.
    `embedded` texts sent to the embedder, `cached` vectors found in the embedding cache, `tokens` of the embedded texts.
    """

    added: int = 0
    metadata_only: int = 0
    moved: int = 0
    removed: int = 0
    unchanged: int = 0
    embedded: int = 0
    cached: int = 0
    tokens: int = 0
    purged: int = 0
    documents_added: int = 0
    documents_changed: int = 0
    documents_unchanged: int = 0
    documents_removed: int = 0
    documents_superseded: int = 0
    documents_failed: int = 0
    documents_parsed: int = 0
    files_skipped: int = 0
    skipped: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Chunks and documents that could not be indexed: the length of `failures`."""
        return len(self.failures)

    def to_dict(self) -> dict[str, Any]:
        """The same names as in `--json`."""
        data: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("skipped", "failures", "warnings")
        }
        data["failed"] = self.failed
        data["failures"] = [
            {"document_id": f.document_id, "position": f.position, "error": f.error} for f in self.failures
        ]
        data["skipped"] = list(self.skipped)
        data["warnings"] = list(self.warnings)
        return data


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of long work: `done` of `total` (None: not known), in `unit`s, doing `stage`."""

    stage: str
    done: int
    total: int | None
    unit: str = "chunks"


ProgressListener = Callable[[Progress], None]
