"""Sign bits: Hamming distances that follow the angle, and codes that never change."""

from __future__ import annotations

import numpy as np

from shelflist.engine.signs import code_bits, sign_bits
from shelflist.testing.points import distances, random_vectors


def test_sign_bits_order_by_angle() -> None:
    for dimensions in (2, 16, 384, 1_500):
        vectors = random_vectors(400, seed=dimensions, dimensions=dimensions)
        codes = sign_bits(vectors)
        assert codes.shape == (400, code_bits(dimensions) // 8)
        assert (sign_bits(vectors[:3] * np.float32(7.5)) == codes[:3]).all()
        differing = np.unpackbits(codes ^ codes[:1], axis=1).sum(axis=1)
        angles = np.arccos(np.clip(1 - distances("cosine", vectors[0], vectors), -1, 1))
        assert np.corrcoef(differing, angles)[0, 1] > 0.9


def test_sign_bits_are_the_same_everywhere() -> None:
    """They are stored: another rotation in a later version would silently spoil every index."""
    rows = (np.arange(3 * 40).reshape(3, 40) % 7 - 3).astype(np.float32)
    assert [code[:6].tobytes().hex() for code in sign_bits(rows)] == ["de8f9dfc5607", "2d2843a63928", "4c5c6e61c4d6"]
    assert [code[:6].tobytes().hex() for code in sign_bits(rows[:, :5])] == [
        "6ba7c9bfe03a",
        "b57057e0516e",
        "448f34971d99",
    ]
