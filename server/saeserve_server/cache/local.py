"""The tier in this process's memory: the answers that were asked for last, within a number of bytes."""

from __future__ import annotations

from typing import Final

from saeserve_server.cache.bounded import Bounded
from saeserve_server.metrics import Metrics

ENTRY_OVERHEAD: Final = 256
"""Bytes that an entry takes beyond its payload: its key, two object headers, its places in table and order."""


class LocalTier(Bounded[bytes, bytes]):
    """Payloads of answers by the digest of their question."""

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        super().__init__(capacity, "local", lambda _, payload: len(payload) + ENTRY_OVERHEAD, metrics)
