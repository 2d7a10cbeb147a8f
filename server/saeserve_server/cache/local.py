"""The tier in this process's memory: what was asked last, within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from saeserve_server.metrics import Metrics

ENTRY_OVERHEAD: Final = 256
"""Bytes that an entry takes beyond its payload: its key, two object headers, its places in table and order."""
LARGEST_SHARE: Final = 8
"""An entry that takes more than one part in this many of the tier is not kept, since it would push out too much."""


class LocalTier:
    """Least recently used goes first. A capacity of 0 keeps nothing and counts nothing."""

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._hits = metrics.cache_hits.labels("local")
        self._misses = metrics.cache_misses.labels("local")
        self._gauge = metrics.cache_bytes.labels("local")

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    @property
    def size(self) -> int:
        """Bytes that the entries take, their overhead included."""
        return self._bytes

    def get(self, key: bytes) -> bytes | None:
        """The payload under the key, which is now the most recently used, or None."""
        if not self._capacity:
            return None
        payload = self._entries.get(key)
        if payload is None:
            self._misses.inc()
            return None
        self._entries.move_to_end(key)
        self._hits.inc()
        return payload

    def put(self, key: bytes, payload: bytes) -> None:
        """Keeps the payload, in place of what the key had, unless it is too large."""
        self._drop(key)
        if _size(payload) * LARGEST_SHARE <= self._capacity:
            self._entries[key] = payload
            self._bytes += _size(payload)
            while self._bytes > self._capacity:
                self._drop(next(iter(self._entries)))
        self._gauge.set(self._bytes)

    def _drop(self, key: bytes) -> None:
        payload = self._entries.pop(key, None)
        if payload is not None:
            self._bytes -= _size(payload)


def _size(payload: bytes) -> int:
    return len(payload) + ENTRY_OVERHEAD
