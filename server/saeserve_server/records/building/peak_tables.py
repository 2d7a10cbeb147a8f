"""On which tokens features peak, complete: of every feature and token the blocks, the least and the largest peak.

Peaks are collected, and where there are many put on the disk as runs sorted by (feature, token), which are joined a
stretch of features at a time at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.records.building.best import KeyArray

PEAK: Final = np.dtype([("key", "<u8"), ("blocks", "<u4"), ("least", "<f4"), ("most", "<f4")])
"""`key`: the feature in the upper half, the token id in the lower."""
Table = npt.NDArray[Any]

WAITING: Final = 1 << 18
HELD: Final = 1 << 19
"""Rows that wait to be joined, and rows after which a run goes to the disk (10 MiB)."""
_FEATURES_AT_ONCE: Final = 1 << 12


class PeakTable:
    """The table of one source. `runs` are files of those that went to the disk."""

    def __init__(self, runs: Sequence[Path] = (), held: Table | None = None) -> None:
        self.runs = list(runs)
        self.held: Table = np.zeros(0, PEAK) if held is None else held
        self._waiting: list[Table] = []
        self._waiting_rows = 0

    def add(self, feature: npt.NDArray[Any], token: npt.NDArray[Any], peak: FloatArray) -> None:
        """Takes in the peaks of blocks."""
        rows = np.empty(len(peak), PEAK)
        rows["key"] = (feature.astype(np.uint64) << np.uint64(32)) | token.astype(np.uint64)
        rows["blocks"] = 1
        rows["least"] = rows["most"] = peak
        self.join(rows)

    def join(self, rows: Table) -> None:
        """Takes in rows, of this or of another table."""
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows > WAITING:
            self.settle()

    def settle(self) -> Table:
        """Joins what waits with what is held, which it gives."""
        if self._waiting:
            self.held = joined([self.held, *self._waiting])
            self._waiting, self._waiting_rows = [], 0
        return self.held

    def spill(self, path: Path) -> bool:
        """Puts what is held on the disk if it is much; whether it did."""
        if len(self.settle()) <= HELD:
            return False
        np.save(path, self.held)
        self.runs.append(path)
        self.held = np.zeros(0, PEAK)
        return True

    def stretches(self, n_features: int) -> Iterator[Table]:
        """The whole table by (feature, token), some thousand features at a time."""
        parts = [self.settle(), *(np.load(run, mmap_mode="r") for run in self.runs)]
        if len(parts) == 1:
            yield parts[0]
            return
        for first in range(0, n_features, _FEATURES_AT_ONCE):
            ends = np.array([first, first + _FEATURES_AT_ONCE], np.uint64) << np.uint64(32)
            bounds = [np.searchsorted(part["key"], ends) for part in parts]
            yield joined([np.asarray(part[begin:end]) for part, (begin, end) in zip(parts, bounds, strict=True)])


def joined(parts: Sequence[Table]) -> Table:
    """Rows of several tables, those of a key made one."""
    rows = np.concatenate(parts)
    if not len(rows):
        return rows
    rows = rows[np.argsort(rows["key"])]
    starts = np.flatnonzero(np.diff(rows["key"].view(np.int64), prepend=-1))
    table = np.empty(len(starts), PEAK)
    keys: KeyArray = rows["key"][starts]
    table["key"] = keys
    table["blocks"] = np.add.reduceat(rows["blocks"], starts, dtype=np.uint64)
    table["least"] = np.minimum.reduceat(rows["least"], starts)
    table["most"] = np.maximum.reduceat(rows["most"], starts)
    return table
