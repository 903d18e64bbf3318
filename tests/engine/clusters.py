"""Vectors that lie in clusters, as texts do: among those of no structure nothing is near."""

from __future__ import annotations

import numpy as np

from shelflist.core.types import Vector

COUNT, DIMENSIONS = 6_000, 64


def clustered(count: int, dimensions: int, seed: int = 0) -> Vector:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(40, dimensions))
    return (centres[random.integers(0, 40, count)] + 0.7 * random.normal(size=(count, dimensions))).astype(np.float32)
