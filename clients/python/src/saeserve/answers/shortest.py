"""Numbers as JSON has them: float32 by their shortest decimal form, 0.1 and not 0.10000000149011612."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from saeserve.answers.activations import Floats

_REMEMBERED = 2**14
"""Activations whose text is kept: those of features recur from answer to answer."""


def shortest(values: Floats) -> list[float]:
    """float32 as the float64 whose decimal form is the shortest that reads back as the same float32.

    NaN and infinities stay what they are, which JSON has no number for.
    """
    exact = values.astype(np.float64)
    made = exact.copy()
    left = exact != 0
    with np.errstate(all="ignore"):
        # A whole number of at most 9 digits over a power of ten that is exact: the nearest float64 to that decimal.
        power = 8 - np.floor(np.log10(np.abs(exact)))
        plain = np.isfinite(power) & (power <= 22) & (power >= -13)
        for fewer in (2, 1, 0):
            places = power - fewer
            up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
            tried = np.rint(exact * up / down) * down / up
            fits = left & plain & (tried.astype(np.float32) == values)
            made[fits] = tried[fits]
            left &= ~fits
    for place in np.flatnonzero(left):
        made[place] = float(str(values[place]))
    found: list[float] = made.tolist()
    return found


@lru_cache(maxsize=_REMEMBERED)
def float32(value: float) -> str:
    """The text of a float32 that protobuf gave as a float64."""
    if not value:
        return "0.0"  # -0.0 is the same key
    return str(np.float32(value)) if math.isfinite(value) else _not_finite(value)


def float64(value: float) -> str:
    """The text of a float64."""
    return repr(value) if math.isfinite(value) else _not_finite(value)


def _not_finite(value: float) -> str:
    return '"NaN"' if math.isnan(value) else '"Infinity"' if value > 0 else '"-Infinity"'
