"""Percentiles that are observed values, and milliseconds as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean; NaN of none."""
    found = list(values)
    return math.fsum(found) / len(found) if found else math.nan


def milliseconds(seconds: float) -> str:
    """Three digits or so; a dash for NaN."""
    return "–" if math.isnan(seconds) else digits(seconds * 1000)


def digits(value: float) -> str:
    """A number with three significant digits, without an exponent; a dash for NaN."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 4)}f}"
