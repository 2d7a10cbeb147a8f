"""What a timeout is."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Literal, SupportsFloat, TypeAlias

_FOREVER = 1e8
"""Seconds (three years) from which on a timeout is none: gRPC counts in nanoseconds, and would wrap round."""


class _Default(Enum):
    CLIENT = "the client's"

    def __repr__(self) -> str:
        return self.value


DEFAULT: Literal[_Default.CLIENT] = _Default.CLIENT
"""Of a call: as long as its client says."""

Seconds: TypeAlias = SupportsFloat | None
"""None and infinity: no limit."""
OfCall: TypeAlias = Seconds | Literal[_Default.CLIENT]


def seconds(value: Any, what: str = "timeout", *, zero: bool = False) -> float | None:
    """Seconds above 0 (`zero`: or 0); None where there is no limit, which None and infinity say.

    Raises TypeError for what is no number, ValueError for NaN and for what has passed already.
    """
    if value is None:
        return None
    if isinstance(value, str | bytes | bool) or not hasattr(value, "__float__"):
        advice = ": give its total_seconds()" if hasattr(value, "total_seconds") else ""
        raise TypeError(f"{what} is {value!r}, not a number of seconds or None{advice}")
    limit = float(value)
    if math.isnan(limit) or limit < 0 or (limit == 0 and not zero):
        raise ValueError(f"{what} is {limit:g}: expected seconds above 0, or None for no limit")
    return None if limit >= _FOREVER else limit


def of_call(value: Any, client: Seconds) -> float | None:
    """A call's own timeout, or its client's."""
    return seconds(client if value is DEFAULT else value)
