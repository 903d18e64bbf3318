"""Numbers from outside, as the float32 that everything here computes with."""

from __future__ import annotations

import numpy as np

from shelflist.core.types import Vector


def float32(numbers: object) -> Vector:
    """An array of the same shape. TypeError, ValueError or OverflowError, saying why, where float32 does not hold them."""
    if type(numbers) is np.ndarray and numbers.dtype == np.float32:
        return numbers
    given = np.asarray(numbers)
    if given.dtype.kind == "c":  # NumPy would leave the imaginary part out, with a warning
        raise TypeError("they are complex")
    try:
        with np.errstate(over="raise"):
            return np.asarray(given, dtype=np.float32)
    except FloatingPointError:
        raise OverflowError(f"one of them is beyond {np.finfo(np.float32).max:.1e}, its largest") from None
