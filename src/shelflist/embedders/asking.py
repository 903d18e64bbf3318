"""Asking an embedder that may be anybody's: what it raises is named after it, and shows no secret."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shelflist.config import without_secrets
from shelflist.core.errors import EmbedderError, ShelflistError
from shelflist.embedders.protocol import Embedder


@contextmanager
def named_errors(embedder: Embedder) -> Iterator[None]:
    """Every error that is not ours becomes an EmbedderError."""
    try:
        yield
    except ShelflistError:
        raise
    except Exception as error:
        said = without_secrets(str(error))
        raise EmbedderError(f"{embedder.fingerprint}: {type(error).__name__}: {said}") from error


def token_counts(embedder: Embedder, texts: Sequence[str]) -> list[int]:
    """One count a text, or EmbedderError."""
    with named_errors(embedder):
        counts = list(embedder.token_counts(texts))
    if len(counts) != len(texts):
        raise EmbedderError(f"{embedder.fingerprint} returned {len(counts)} token counts for {len(texts)} texts.")
    return counts
