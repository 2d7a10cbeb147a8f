"""An answer as the cache sees it: bytes, where they came from, and what they took."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Tier(IntEnum):
    """Where an answer came from; the later, the less it saved."""

    LOCAL = 0
    SHARED = 1
    INNER = 2
    NONE = 3


@dataclass(frozen=True, slots=True)
class Spending:
    """What an answer took. Seconds; of a batch, what the whole batch took."""

    batch_size: int = 0
    queue: float = 0.0
    forward: float = 0.0
    encode: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """The part of a response that is cached, as bytes; `tier` and `spent` are this request's own."""

    payload: bytes
    tier: Tier = Tier.NONE
    spent: Spending = Spending()
