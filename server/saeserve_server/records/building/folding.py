"""Which tokens are the same but for case and the space around them, and blocks counted by both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve_server.records.layout import PEAK_TOKEN
from saeserve_server.records.match import fold
from saeserve_server.rows import IntArray


class Folds:
    """By token id a number that all tokens share which fold to the same; tokens that fold to nothing have their own."""

    def __init__(self, pieces: list[bytes]) -> None:
        """`pieces` [vocabulary] are what tokens stand for; empty ones are of no text."""
        numbers = dict[str, int]()
        self._numbers = np.array(
            [
                numbers.setdefault(folded, place) if (folded := fold(piece)) else place
                for place, piece in enumerate(pieces)
            ]
        )

    def of(self, ids: npt.NDArray[Any]) -> IntArray:
        """[n] the number of each token."""
        numbers: IntArray = self._numbers[ids]
        return numbers


def fold_counts(
    table: npt.NDArray[Any], wanted: npt.NDArray[np.uint64], folds: Folds, most: int
) -> tuple[IntArray, npt.NDArray[Any]]:
    """Of a table of peaks (peak_tables.py) the rows `wanted` by key, and of each feature the `most` with most blocks.

    Gives the feature of each row, and the rows with what their folds count, by feature, then token.
    """
    rows = np.empty(len(table), PEAK_TOKEN)
    if not len(table):
        return np.zeros(0, np.int64), rows
    feature, ids = (table["key"] >> np.uint64(32)).astype(np.int64), (table["key"] & np.uint64(0xFFFFFFFF))
    rows["id"] = ids
    for name in ("blocks", "least", "most"):
        rows[name] = table[name]
    fold_of = folds.of(ids.astype(np.int64))
    order = np.lexsort((fold_of, feature))
    changes = (np.diff(feature[order], prepend=-1) != 0) | (np.diff(fold_of[order], prepend=-1) != 0)
    starts = np.flatnonzero(changes)
    group = np.cumsum(changes) - 1
    rows["folded_blocks"][order] = np.add.reduceat(table["blocks"][order], starts, dtype=np.int64)[group]
    rows["folded_least"][order] = np.minimum.reduceat(table["least"][order], starts)[group]
    rows["folded_most"][order] = np.maximum.reduceat(table["most"][order], starts)[group]

    order = np.lexsort((ids, -table["blocks"].astype(np.int64), feature))
    begins = np.searchsorted(feature, feature[order])
    kept = np.zeros(len(table), np.bool_)
    kept[order[np.arange(len(order)) - begins < most]] = True
    place = np.minimum(np.searchsorted(wanted, table["key"]), max(0, len(wanted) - 1))
    if len(wanted):
        kept |= wanted[place] == table["key"]
    return feature[kept], rows[kept]
