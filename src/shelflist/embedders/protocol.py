"""What an embedder is: it turns texts into vectors, and names the vector space that they live in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from shelflist.core.types import Vector


@runtime_checkable
class Embedder(Protocol):
    """Makes vectors. Two embedders with the same fingerprint make interchangeable vectors."""

    @property
    def spec(self) -> str:
        """The text that opens this embedder again, for example `static` or `fastembed:BAAI/bge-base-en-v1.5`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the vector space: model, dimensions, normalisation, prefixes."""
        ...

    @property
    def dimensions(self) -> int: ...

    @property
    def max_tokens(self) -> int | None:
        """Texts with more tokens are cut by the model; None: no limit."""
        ...

    @property
    def fusion_alpha(self) -> float:
        """Weight of the dense leg in hybrid search, 0 to 1: .45 for static embedders, .7 for contextual ones."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        """float32, shape (len(texts), dimensions)."""
        ...

    def embed_query(self, text: str) -> Vector:
        """float32, shape (dimensions,)."""
        ...

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, as the model counts them (or a fair estimate, for remote models)."""
        ...
