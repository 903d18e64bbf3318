"""Vectors as sign bits: after a random rotation the number of differing bits of two vectors grows with their angle.

The rotation is part of what is stored, so it is made of nothing that another version of NumPy would make otherwise:
numbers from a hash and a Hadamard matrix, as many times over as it takes to fill the bits.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shelflist.core.types import Vector

Codes = npt.NDArray[np.uint8]
_LEAST_BITS = 1024
"""With 384 bits of 384 dimensions the true neighbours stand ten times as deep in the list."""
_MOST_BITS = 2048
_FEW_DIMENSIONS = 32
"""Below it there are not enough different rows of 1 and -1."""
_ROWS = 1024


def code_bits(dimensions: int) -> int:
    """How many bits the code of one vector has: 1,024, or 2,048 above 1,024 dimensions."""
    return min(_MOST_BITS, max(_LEAST_BITS, _padded(dimensions)))


def sign_bits(vectors: Vector) -> Codes:
    """The codes of vectors (n, d), packed: shape (n, code_bits(d) / 8). The length of a vector does not matter."""
    count, dimensions = vectors.shape
    rotation = _rotation(dimensions)
    codes = np.empty((count, code_bits(dimensions) // 8), np.uint8)
    for start in range(0, count, _ROWS):
        part = vectors[start : start + _ROWS]
        largest = np.abs(part).max(axis=1, keepdims=True)
        codes[start : start + _ROWS] = np.packbits((part / np.where(largest == 0, 1, largest)) @ rotation > 0, axis=1)
    return codes


def _padded(dimensions: int) -> int:
    return max(8, 1 << (dimensions - 1).bit_length())


@lru_cache(maxsize=4)
def _rotation(dimensions: int) -> Vector:
    """Shape (d, code_bits(d))."""
    width, bits = _padded(dimensions), code_bits(dimensions)
    if dimensions < _FEW_DIMENSIONS:
        numbers = np.frombuffer(_hashed(0, 2 * dimensions * bits), "<i2")
        return numbers.astype(np.float32).reshape(dimensions, bits)
    rows, columns = np.arange(dimensions, dtype=np.uint16), np.arange(min(width, bits), dtype=np.uint16)
    parity = rows[:, None] & columns[None, :]
    for shift in (8, 4, 2, 1):
        parity ^= parity >> shift
    hadamard = (1 - 2 * (parity & 1).astype(np.int8)).astype(np.float32)
    frames = [hadamard * _signs(frame, width)[:dimensions, None] for frame in range(max(1, bits // width))]
    return np.hstack(frames)


def _signs(frame: int, width: int) -> Vector:
    bits = np.unpackbits(np.frombuffer(_hashed(frame, width // 8), np.uint8)).astype(np.float32)
    return np.asarray(1 - 2 * bits, dtype=np.float32)


def _hashed(frame: int, size: int) -> bytes:
    return hashlib.shake_256(f"shelflist sign bits {frame}".encode()).digest(size)
