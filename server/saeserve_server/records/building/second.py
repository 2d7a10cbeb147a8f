"""The second pass: over the batches that hold a record, its window, what else fires at its peak, and near misses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.records.building.corpus_map import CorpusMap
from saeserve_server.records.building.hashing import place_key
from saeserve_server.records.layout import WINDOW
from saeserve_server.rows import Csr, IntArray, SourceRows, as_csr, entries_of, height

ACTIVE: Final = 16
"""Latents kept of those that fire at a peak: the strongest."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Activations round places: of latents those that are not 0, of neurons all."""

    offsets: IntArray  # [wants + 1]
    place: npt.NDArray[np.uint8]  # [entries] in the window
    value: FloatArray  # [entries]
    at: FloatArray  # [wants] the activation at the place itself
    most: FloatArray  # [wants] the largest of its block


@dataclass(slots=True, eq=False)
class Wants:
    """What is wanted of one source: windows of features round places. Answered batch by batch."""

    feature: npt.NDArray[np.int32]  # [wants]
    text: npt.NDArray[Any]
    position: npt.NDArray[Any]
    of_latents: bool
    misses: int
    """Wants from this one on are asked whether the feature fires there: where it does, nothing is kept."""
    _order: npt.NDArray[np.int32] = field(init=False)
    _bounds: IntArray = field(init=False)
    _where: tuple[npt.NDArray[np.int32], ...] = field(init=False)
    _slots: list[npt.NDArray[np.int32]] = field(default_factory=list)
    _places: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    _values: list[FloatArray] = field(default_factory=list)
    _active: list[tuple[npt.NDArray[np.uint64], IntArray, npt.NDArray[np.uint32]]] = field(default_factory=list)
    at: FloatArray = field(init=False)
    most: FloatArray = field(init=False)

    def locate(self, corpus: CorpusMap) -> None:
        """Finds the batches."""
        batch, *where = corpus.place(self.text, self.position)
        self._where = tuple(one.astype(np.int32) for one in where)
        self._order = np.argsort(batch, kind="stable").astype(np.int32)
        self._bounds = np.searchsorted(batch[self._order], np.arange(len(corpus.batches) + 1))
        self.at = np.zeros(len(self.feature), np.float32)
        self.most = np.zeros(len(self.feature), np.float32)

    def is_wanted(self, batch: int) -> bool:
        """Whether anything is wanted of a batch."""
        return bool(self._bounds[batch] < self._bounds[batch + 1])

    def answer(self, batch: int, rows: SourceRows) -> None:
        """Takes what is wanted from the source's rows on a batch."""
        slots = self._order[self._bounds[batch] : self._bounds[batch + 1]]
        row, first, end = (one[slots].astype(np.int64) for one in self._where)
        low, high = np.maximum(row - WINDOW, first), np.minimum(row + WINDOW + 1, end)
        feature = self.feature[slots].astype(np.int64)
        take = _sparse if isinstance(rows, Csr) else _dense
        want, place, value, at, most = take(rows, feature, row, low, high, first, end)
        self.at[slots], self.most[slots] = at, most
        fires = (slots >= self.misses) & (at > 0)
        left_out = fires[want] | (value == 0) if self.of_latents else fires[want]
        if left_out.any():
            kept = np.flatnonzero(~left_out)
            want, place, value = want[kept], place[kept], value[kept]
        if self.of_latents:
            key = place_key(self.text[slots[~fires]], self.position[slots[~fires]])
            at_row, chosen = np.unique(row[~fires], return_index=True)
            self._active.append((key[chosen], *_strongest(as_csr(rows), at_row)))
        self._slots.append(slots[want])
        self._places.append(place.astype(np.uint8))
        self._values.append(value)

    def windows(self) -> Windows:
        """The answers, in the order of the wants."""
        slots = np.concatenate([np.zeros(0, np.int32), *self._slots])
        order = np.argsort(slots, kind="stable")
        offsets = np.cumsum([0, *np.bincount(slots, minlength=len(self.feature)).tolist()])
        place = np.concatenate([np.zeros(0, np.uint8), *self._places])[order]
        value = np.concatenate([np.zeros(0, np.float32), *self._values])[order]
        return Windows(offsets, place, value, self.at, self.most)

    def active(self, keys: npt.NDArray[np.uint64]) -> tuple[IntArray, npt.NDArray[np.uint32]]:
        """Of places by ascending key: where each one's latents begin, and the latents, the strongest first."""
        found = np.concatenate([np.zeros(0, np.uint64), *(key for key, _, _ in self._active)])
        counts = np.concatenate([np.zeros(0, np.int64), *(count for _, count, _ in self._active)])
        latents = np.concatenate([np.zeros(0, np.uint32), *(latents for _, _, latents in self._active)])
        begins = np.cumsum([0, *counts.tolist()])
        order = np.argsort(found)
        chosen = order[np.searchsorted(found[order], keys)]
        each = [latents[begins[one] : begins[one + 1]] for one in chosen.tolist()]
        return np.cumsum([0, *map(len, each)]), np.concatenate([np.zeros(0, np.uint32), *each])


def _sparse(
    rows: Any, feature: IntArray, row: IntArray, low: IntArray, high: IntArray, first: IntArray, end: IntArray
) -> tuple[IntArray, IntArray, FloatArray, FloatArray, FloatArray]:
    """Of windows from rows `low` to `high`: which each entry belongs to, its place, its value; the activation at `row`;
    the largest from `first` to `end`."""
    count = height(rows)
    wanted = np.zeros(rows.columns, np.bool_)
    wanted[feature] = True
    mine = np.flatnonzero(wanted[rows.indices])
    of_row = np.repeat(np.arange(count), np.diff(rows.indptr))[mine]
    cells = rows.indices[mine].astype(np.int64) * count + of_row
    order = np.argsort(cells)
    cells, of_row, data = cells[order], of_row[order], rows.data[mine[order]]

    begin = np.searchsorted(cells, feature * count + low)
    counts = np.searchsorted(cells, feature * count + high) - begin
    want = np.repeat(np.arange(len(feature)), counts)
    entry = np.arange(len(want)) + np.repeat(begin - (np.cumsum(counts) - counts), counts)

    at = np.zeros(len(feature), np.float32)
    place = np.minimum(np.searchsorted(cells, feature * count + row), max(0, len(cells) - 1))
    if len(cells):
        hit = cells[place] == feature * count + row
        at[hit] = data[place[hit]]
    most = np.zeros(len(feature), np.float32)
    begin, stop = np.searchsorted(cells, feature * count + first), np.searchsorted(cells, feature * count + end)
    fires = np.flatnonzero(begin < stop)
    if len(fires):
        bounds = np.stack([begin[fires], stop[fires]], 1).reshape(-1)
        most[fires] = np.maximum.reduceat(np.append(data, np.float32(0)), bounds)[::2]
    return want, of_row[entry] - low[want], data[entry], at, most


def _dense(
    rows: Any, feature: IntArray, row: IntArray, low: IntArray, high: IntArray, first: IntArray, end: IntArray
) -> tuple[IntArray, IntArray, FloatArray, FloatArray, FloatArray]:
    """The same of rows [rows, n_features]; negative activations too."""
    offset = np.arange(2 * WINDOW + 1)
    at_row = np.minimum(low[:, None] + offset, len(rows) - 1)
    window = rows[at_row, feature[:, None]]
    want, place = np.nonzero(low[:, None] + offset < high[:, None])
    most = np.zeros(len(feature), np.float32)
    for begin in np.unique(first).tolist():
        own = np.flatnonzero(first == begin)
        most[own] = rows[begin : end[own[0]]].max(0)[feature[own]]
    return want, place, window[want, place], rows[row, feature], np.maximum(most, 0)


def _strongest(rows: Csr, at: IntArray) -> tuple[IntArray, npt.NDArray[np.uint32]]:
    """Of each row, how many latents are kept, and all of them, the strongest first; of equal ones the lower number."""
    of_row, entry = entries_of(rows, at)
    order = np.lexsort((-rows.data[entry], of_row))
    counts = np.bincount(of_row, minlength=len(at))
    begins = np.cumsum(counts) - counts
    kept = order[np.arange(len(order)) - begins[of_row[order]] < ACTIVE]
    return np.minimum(counts, ACTIVE), rows.indices[entry[kept]]
