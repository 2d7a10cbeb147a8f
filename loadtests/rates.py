"""Answers a second where answers come in bursts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

RESOLUTION = 100
"""Answers that come within the hundredth part of a window are one burst: those of one batch do."""


def rate(ended: Iterable[float], begin: float, opens: float, closes: float) -> float:
    """Answers a second between two times, where work began at `begin` and answers came at these times.

    The answers of a batch come together, and whether the last burst falls before or after the close would decide much
    in a window of few batches. So each burst counts as made evenly since the burst before it. Answers after the close
    are needed for the burst that it cuts; where none come, none are supposed.
    """
    span = (closes - opens) / RESOLUTION
    times, counts = [begin], [0]
    first = -np.inf
    for end in sorted(ended):
        if end - first > span:
            first = end
            times.append(end)
            counts.append(counts[-1])
        times[-1] = end
        counts[-1] += 1
    at_opens, at_closes = np.interp([opens, closes], times, counts)
    return float(at_closes - at_opens) / (closes - opens)


def abba(rounds: int) -> list[bool]:
    """Which of two goes first in each round: turn by turn, so that a machine that gets slower favours neither."""
    return list(itertools.islice(itertools.cycle((True, False)), rounds))
