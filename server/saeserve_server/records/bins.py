"""The fixed bins in which activations are counted: an eighth of a power of two each, read off the float's own bits.

A bin's *code* is the highest 12 bits of the float32s in it: sign, exponent, and the first three bits of the fraction.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray

SHIFT: Final = 20
"""Bits of a float32 that a bin leaves out."""
PER_POWER: Final = 8
LOWEST_POWER: Final = -20
HIGHEST_POWER: Final = 20
POWERS: Final = HIGHEST_POWER - LOWEST_POWER + 1
BINS: Final = POWERS * PER_POWER
FIRST_CODE: Final = (127 + LOWEST_POWER) * PER_POWER
"""The first bin also holds what is smaller than 2^-20, the last what is 2^21 or more."""

IntArray = npt.NDArray[np.int64]


def bin_of(values: FloatArray) -> IntArray:
    """[e] the bin of each activation > 0, from 0 to BINS - 1."""
    codes = (values.view(np.uint32) >> np.uint32(SHIFT)).astype(np.int64)
    return np.clip(codes - FIRST_CODE, 0, BINS - 1)


def edges(codes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """[bins, 2] lower and upper edge of bins, by code; the first begins at 0 and the last has no end."""
    lower = (codes.astype(np.uint32) << SHIFT).view(np.float32).astype(np.float64)
    upper = ((codes.astype(np.uint32) + 1) << SHIFT).view(np.float32).astype(np.float64)
    lower[codes == FIRST_CODE] = 0
    upper[codes == FIRST_CODE + BINS - 1] = np.inf
    return np.stack([lower, upper], axis=1)


def exact_parts(values: FloatArray) -> tuple[IntArray, IntArray]:
    """Of each activation > 0 the group of its exponent, 0 to 31, and whole number s: it is s · 2^(8 · group - 149).

    Whole numbers add up to the same in any order; s is less than 2^32, so 2^31 of them fit an int64.
    """
    bits = values.view(np.uint32)
    exponent = bits >> np.uint32(23)
    significand = (bits & np.uint32(0x7FFFFF)) | ((exponent > 0).astype(np.uint32) << np.uint32(23))
    steps = np.maximum(exponent, 1) - np.uint32(1)  # of the smallest normal number, and of those below it, 0
    return (steps >> np.uint32(3)).astype(np.int64), significand.astype(np.int64) << (steps & np.uint32(7)).astype(
        np.int64
    )


GROUPS: Final = 32


def exact_means(sums: IntArray, counts: IntArray) -> npt.NDArray[np.float64]:
    """[n] means, rounded once, of sums [n, GROUPS] over counts [n]; 0 where nothing is counted."""
    totals = [0] * len(sums)
    feature, group = np.nonzero(sums)
    parts = zip(feature.tolist(), group.tolist(), sums[feature, group].tolist(), strict=True)
    for place, power, part in parts:  # Python's numbers have room for all of it
        totals[place] += part << (8 * power)
    return np.array(
        [total / (count << 149) if count else 0.0 for total, count in zip(totals, counts.tolist(), strict=True)]
    )
