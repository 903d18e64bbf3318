"""An embedder that remembers every text it was paid for, and a few shapes that many tests need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from shelflist import Chunk, Document
from shelflist.core.types import Vector

DIMENSIONS = 16


def unit(text: str, salt: str = "") -> Vector:
    """A unit vector that follows from the text alone."""
    seed = int.from_bytes(hashlib.sha256(f"{salt}\0{text}".encode()).digest()[:8], "little")
    row = np.random.default_rng(seed).standard_normal(DIMENSIONS).astype(np.float32)
    return np.asarray(row / np.linalg.norm(row), dtype=np.float32)


class CountingEmbedder:
    """Deterministic; `texts` lists what was embedded, in order. `failing` texts raise; `outage` is raised by any call.

    `salt` changes the vectors and not the fingerprint: a model that was mended under its old name.
    """

    max_tokens = None
    fusion_alpha = 0.5
    dimensions = DIMENSIONS

    def __init__(self, name: str = "counting") -> None:
        self.fingerprint = name
        self.spec = f"custom:{name}"
        self.salt = ""
        self.texts: list[str] = []
        self.failing: set[str] = set()
        self.outage: Exception | None = None
        self.calls = 0

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        self.calls += 1
        if self.outage is not None:
            raise self.outage
        for text in texts:
            if text in self.failing:
                raise ValueError(f"cannot embed {text!r}")
        self.texts += texts
        return np.stack([unit(text, self.salt) for text in texts])

    def embed_query(self, text: str) -> Vector:
        return unit(text, self.salt)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def take(self) -> list[str]:
        """What was embedded since the last look."""
        taken, self.texts = self.texts, []
        return taken


def chunks(*texts: str) -> list[Chunk]:
    return [Chunk(content=text) for text in texts]


def document(document_id: str, *texts: str, tenant: str | None = None) -> Document:
    return Document(document_id, chunks(*texts), tenant=tenant)


def documents(number: int, prefix: str = "d") -> list[Document]:
    """Documents of two chunks each, all texts different."""
    return [document(f"{prefix}{i}", f"{prefix}{i} first", f"{prefix}{i} second") for i in range(number)]


def counts(report: object, *names: str) -> tuple[int, ...]:
    return tuple(getattr(report, name) for name in names)


def contents(hits: Iterable[object]) -> list[str]:
    return sorted(hit.content for hit in hits)  # type: ignore[attr-defined]
