"""A table within a number of bytes: what was asked last stays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from saeserve_server.metrics import Metrics

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

LARGEST_SHARE: Final = 8
"""An entry that takes more than one part in this many of the table is not kept, since it would push out too much."""


class Bounded(Generic[K, V]):
    """Least recently used goes first. A capacity of 0 keeps nothing and counts nothing."""

    def __init__(self, capacity: int, tier: str, size: Callable[[K, V], int], metrics: Metrics) -> None:
        """`size` gives the bytes of an entry, its overhead included; `tier` is its name in the metrics."""
        self._capacity = capacity
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0
        self._hits = metrics.cache_hits.labels(tier)
        self._misses = metrics.cache_misses.labels(tier)
        self._gauge = metrics.cache_bytes.labels(tier)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    @property
    def size(self) -> int:
        """Bytes that the entries take."""
        return self._bytes

    def get(self, key: K) -> V | None:
        """The value under the key, which is now the most recently used, or None."""
        if not self._capacity:
            return None
        value = self._entries.get(key)
        if value is None:
            self._misses.inc()
            return None
        self._entries.move_to_end(key)
        self._hits.inc()
        return value

    def put(self, key: K, value: V) -> None:
        """Keeps the value, in place of what the key had, unless it is too large."""
        self._drop(key)
        size = self._size(key, value)
        if size * LARGEST_SHARE <= self._capacity:
            self._entries[key] = value
            self._bytes += size
            while self._bytes > self._capacity:
                self._drop(next(iter(self._entries)))
        self._gauge.set(self._bytes)

    def _drop(self, key: K) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            self._bytes -= self._size(key, value)
