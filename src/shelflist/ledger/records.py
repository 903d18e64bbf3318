"""What a revision consists of, on its way through the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from shelflist.core.types import Metadata


@dataclass(slots=True)
class NewChunk:
    """A chunk row that a revision introduces. `chunk_key` is given by `begin`."""

    point_id: bytes
    chunk_id: bytes
    text_hash: bytes
    metadata_hash: bytes
    embedding_hash: bytes | None
    position: int
    token_count: int | None
    section: str | None
    chunk_strategy: str | None
    metadata: str
    content: str
    error: str | None = None
    attempts: int = 0
    chunk_key: int = 0
    vector_hash: bytes | None = None
    stored: Metadata | None = None
    """`metadata` as the dict it was made from, while it is at hand."""


@dataclass(frozen=True, slots=True)
class KeptChunk:
    chunk_key: int
    position: int
    moved: bool


@dataclass(slots=True)
class Revision:
    """One document's next content. `document_key` 0: the document is new. `digest` None: never a no-op next time.

    `number` is the ledger's own count; `fence` the number that the caller gave, 0 if none.
    """

    document_id: str
    tenant: str
    document_key: int
    base_revision: int
    number: int
    source_id: int
    digest: bytes | None
    source_digest: bytes | None
    new: list[NewChunk] = field(default_factory=list)
    kept: list[KeptChunk] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    removes_document: bool = False
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A revision that somebody began and did not finish. `members`: its chunks, in order; None if it removes the document."""

    document_key: int
    number: int
    base_revision: int
    source_id: int
    digest: bytes | None
    source_digest: bytes | None
    fence: int
    members: list[int] | None


@dataclass(frozen=True, slots=True)
class Condemned:
    chunk_key: int
    point_id: bytes
    text_hash: bytes
    embedding_hash: bytes | None
