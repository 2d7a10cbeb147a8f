"""The first k of every owner under a total order, taken in piece by piece: a union that is cut, in any order the same.

A row's `key` holds its owner in the highest bits and what orders it below them; rows of equal key are ordered by the
fields that follow, one after another. An owner is a feature, a feature and a power of two, a token.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
KeyArray = npt.NDArray[np.uint64]

LEAST_WAITING: Final = 1 << 15
_NONE: Final = np.uint64(0xFFFFFFFFFFFFFFFF)


def owner_shift(owners: int) -> int:
    """How many bits of a key lie below the owner's."""
    return 64 - max(1, (owners - 1).bit_length())


class Best:
    """The first k rows of each owner."""

    def __init__(self, dtype: np.dtype[Any], owners: int, k: int, shift: int | None = None) -> None:
        self.k = k
        self.shift = owner_shift(owners) if shift is None else shift
        self.owners = owners
        self.rows: Rows = np.zeros(0, dtype)
        """In their order. Call `cut` first."""
        self._waiting: list[Rows] = []
        self._waiting_rows = 0
        self._last = np.full(owners, _NONE)  # key of the last row of an owner that has k of them

    def key(self, owner: npt.NDArray[Any], order: KeyArray) -> KeyArray:
        """[n] keys of owners, ordered by the highest bits of `order` that there is room for."""
        return (owner.astype(np.uint64) << np.uint64(self.shift)) | (order >> np.uint64(64 - self.shift))

    def wants(self, key: KeyArray) -> npt.NDArray[np.bool_]:
        """[n] whether a row of that key may be among the first."""
        return key <= self._last[(key >> np.uint64(self.shift)).astype(np.int64)]

    def add(self, rows: Rows) -> None:
        """Takes in rows, the wanted ones of a piece."""
        if len(rows):
            self._waiting.append(rows)
            self._waiting_rows += len(rows)
            if self._waiting_rows > max(LEAST_WAITING, len(self.rows) // 2):
                self.cut()

    def cut(self) -> Rows:
        """Leaves the first k of each owner, in their order."""
        if self._waiting:
            rows = np.concatenate((self.rows, *self._waiting))
            self._waiting, self._waiting_rows = [], 0
            rows = rows[in_order(rows)]
            owner = (rows["key"] >> np.uint64(self.shift)).astype(np.int64)
            starts = np.flatnonzero(np.diff(owner, prepend=-1))
            rank = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
            kept = rank < self.k
            full = kept & (rank == self.k - 1)
            self._last[owner[full]] = rows["key"][full]
            self.rows = rows[kept]
        return self.rows

    def owner(self) -> IntArray:
        """[rows] the owner of each row."""
        owner: IntArray = (self.rows["key"] >> np.uint64(self.shift)).astype(np.int64)
        return owner


def in_order(rows: Rows) -> IntArray:
    """The places of rows in their order. One sort by key; only where keys are equal are the other fields looked at."""
    order = np.argsort(rows["key"])
    fields = list(rows.dtype.names or ())[1:]
    if fields:
        keys = rows["key"][order]
        same = keys[1:] == keys[:-1]
        if same.any():
            tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
            some = order[tied]
            order[tied] = some[np.lexsort([rows[name][some] for name in reversed(fields)] + [rows["key"][some]])]
    return order
