"""What an embedder need not say itself: defaults for embedders of the user's own, and the check of their answers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from shelflist.core.errors import EmbedderError
from shelflist.core.types import Vector
from shelflist.core.vectors import float32

SMALLEST = ("fingerprint", "dimensions", "embed_documents", "embed_query")
WHOLE = (*SMALLEST, "spec", "max_tokens", "fusion_alpha", "token_counts")


def estimated_tokens(text: str) -> int:
    """A fair guess, within a third for English prose: a token is about four bytes, and a word is at least one."""
    return max(len(text.encode("utf-8", "surrogatepass")) // 4, len(text.split()))


def checked_vectors(rows: Any, count: int, dimensions: int | None, who: str) -> Vector:
    """`rows` as float32 of shape (count, dimensions). Raises EmbedderError, naming `who`, if it is anything else."""
    try:
        vectors = np.ascontiguousarray(float32(rows))
    except (TypeError, ValueError, OverflowError) as error:
        raise EmbedderError(
            f"{who} did not return rows of numbers of one length that float32 holds: {error}"
        ) from error
    if count == 0 and vectors.size == 0:
        return np.empty((0, dimensions or 0), dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != count:
        raise EmbedderError(
            f"{who} returned an array of shape {vectors.shape} for {count} texts: one row for each text is needed."
        )
    if dimensions is not None and vectors.shape[1] != dimensions:
        raise EmbedderError(
            f"{who} returned vectors of {vectors.shape[1]} dimensions, {dimensions} were declared. "
            "Has the model changed? Vectors of two models do not mix: open a new collection or migrate this one."
        )
    if not np.isfinite(vectors).all():
        bad = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise EmbedderError(f"{who} returned NaN or infinity for text {bad} of {count}.")
    return vectors


class EmbedderDefaults:
    """Mix-in for an embedder of your own: it then needs only `fingerprint`, `dimensions`, `embed_documents`
    and `embed_query`. The defaults suit a contextual encoder without a limit on its texts.

    `spec` cannot open such an embedder again, so its object is passed each time that the collection is opened.
    """

    fingerprint: str
    max_tokens: int | None = None
    fusion_alpha: float = 0.7

    @property
    def spec(self) -> str:
        return f"custom:{self.fingerprint}"

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """An estimate: see `estimated_tokens`."""
        return [estimated_tokens(text) for text in texts]


class AdaptedEmbedder(EmbedderDefaults):
    """Completes an object that has only the smallest set of members, and checks what it returns.

    Members that the object does have (`max_tokens`, `fusion_alpha`, `spec`, `token_counts`) are kept.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        return str(self.inner.fingerprint)

    @property
    def dimensions(self) -> int:
        return int(self.inner.dimensions)

    @property
    def spec(self) -> str:
        return str(self.inner.spec) if has_member(self.inner, "spec") else super().spec

    @property
    def max_tokens(self) -> int | None:  # type: ignore[override]
        return self.inner.max_tokens if has_member(self.inner, "max_tokens") else None

    @property
    def fusion_alpha(self) -> float:  # type: ignore[override]
        return float(self.inner.fusion_alpha) if has_member(self.inner, "fusion_alpha") else 0.7

    def embed_documents(self, texts: Sequence[str]) -> Vector:
        """float32, shape (len(texts), dimensions). Raises EmbedderError if the object returned anything else."""
        return checked_vectors(self.inner.embed_documents(texts), len(texts), self.dimensions, self._who)

    def embed_query(self, text: str) -> Vector:
        """float32, shape (dimensions,). A result of shape (1, dimensions) is accepted too."""
        vector = np.asarray(self.inner.embed_query(text))
        row: Vector = checked_vectors(np.atleast_2d(vector), 1, self.dimensions, self._who)[0]
        return row

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        if has_member(self.inner, "token_counts"):
            return [int(n) for n in self.inner.token_counts(texts)]
        return super().token_counts(texts)

    @property
    def _who(self) -> str:
        return f"The embedder {type(self.inner).__qualname__} ({self.fingerprint})"

    def __repr__(self) -> str:
        return f"AdaptedEmbedder({self.inner!r})"


def has_member(thing: object, name: str) -> bool:
    """Whether the object has this member, without asking it: a property might call a remote model."""
    missing = object()
    return inspect.getattr_static(thing, name, missing) is not missing
