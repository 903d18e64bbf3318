"""Vectors as SQLite's rows hold them: float32 one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shelflist.core.errors import StoreDamaged
from shelflist.core.types import Vector
from shelflist.stores.protocol import GenerationSpec


def vector_of(blob: bytes) -> Vector:
    """One row's vector; of what is damaged the whole numbers, so that who compares it finds it to be another."""
    return np.frombuffer(blob[: len(blob) // 4 * 4], np.float32)


def vectors_of(blobs: Sequence[bytes], spec: GenerationSpec, directory: Path) -> Vector:
    """Shape (n, dimensions); StoreDamaged if one has another length."""
    joined = b"".join(blobs)
    if len(joined) != len(blobs) * spec.dimensions * 4 or any(len(blob) != spec.dimensions * 4 for blob in blobs):
        raise StoreDamaged(
            f"The index in {directory.parent} holds a vector that has not {spec.dimensions} numbers. Find and replace it with: "
            "shelflist repair --sample 1000000"
        )
    return np.frombuffer(joined, np.float32).reshape(len(blobs), spec.dimensions)
