"""What an index keeps of one source: counts and sums of every feature, and its strongest blocks as windows."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.records import layout
from saeserve_server.records.blocks import Batch, Places
from saeserve_server.records.layout import SPAN, WINDOW, source_file
from saeserve_server.records.peaks import count_peaks
from saeserve_server.records.writer import StoreWriter
from saeserve_server.rows import Csr, IntArray, SourceRows, as_csr, cut, height

_ENTRIES: Final = 1 << 22
"""Activations that are worked on at once, as far as blocks allow."""

_CANDIDATE: Final = np.dtype(
    [("feature", "i4"), ("peak", "i4"), ("block", "i8"), ("maximum", "f4"), ("window", "f4", (SPAN,))]
)
"""A block that may become a record of a feature: `peak` is the place of its maximum, the earliest, in the block."""


class Tally:
    """Takes in a source's rows, batch after batch, and writes the source's files.

    A block is a candidate if its maximum exceeds the feature's bar, the K-th best so far. Candidates wait until there
    are a quarter as many as records, and are then cut to K a feature, which lifts the bars.
    """

    def __init__(self, n_features: int, k: int) -> None:
        self.k = k
        self.bars = np.zeros(n_features, np.float32)
        self.records = np.zeros(0, _CANDIDATE)  # in the order of `_best`
        self.waiting: list[npt.NDArray[Any]] = []  # in the order of blocks
        self.sums = np.zeros(n_features)
        self.histogram = np.zeros((n_features, layout.BINS), np.int64)

    def add(self, rows: SourceRows, batch: Batch, counts: npt.NDArray[np.bool_]) -> None:
        """Take in the rows of a batch; of activations > 0 those on rows where `counts` is true count."""
        entries = len(rows.data) if isinstance(rows, Csr) else rows.size
        step = max(1, len(batch.blocks) * _ENTRIES // max(1, entries))
        bounds = np.array(batch.bounds)
        for first in range(0, len(batch.blocks), step):
            begins = bounds[first : first + step + 1]
            piece = cut(rows, begins[0], begins[-1])
            self._add(piece, begins - begins[0], counts[begins[0] : begins[-1]], batch.first + first)
        if sum(map(len, self.waiting)) > len(self.records) // 4:
            self._cut()

    def _add(self, rows: SourceRows, begins: IntArray, counts: npt.NDArray[np.bool_], first_block: int) -> None:
        """`begins` [blocks + 1]: the rows at which blocks begin."""
        firing = as_csr(rows)
        row = np.repeat(np.arange(height(rows)), np.diff(firing.indptr))
        counted = counts[row]
        row, feature, value = row[counted], firing.indices[counted].astype(np.int64), firing.data[counted]
        self._count(feature, value)

        high = value > self.bars[feature]
        row, feature, value = row[high], feature[high], value[high]
        block = np.searchsorted(begins, row, side="right") - 1
        cell = feature * (len(begins) - 1) + block
        # The sorts are stable and rows ascend: of equal maxima of a block the earlier comes first.
        order = np.lexsort((-value, cell))
        peaks = order[_changes(cell[order])]
        peaks = peaks[_best(feature[peaks], value[peaks], self.k)]
        row, feature, block = row[peaks], feature[peaks], block[peaks]
        place = row - begins[block]
        found = np.empty(len(peaks), _CANDIDATE)
        found["feature"] = feature
        found["peak"] = place
        found["block"] = first_block + block
        found["maximum"] = value[peaks]
        starts = begins[block] + np.maximum(place - WINDOW, 0)
        found["window"] = _windows(rows, feature, starts, np.minimum(row + WINDOW + 1, begins[block + 1]))
        self.waiting.append(found)

    def _count(self, feature: IntArray, value: FloatArray) -> None:
        # value = mantissa · 2^exponent, 0.5 ≤ mantissa < 1
        bins = np.clip(np.frexp(value)[1] - layout.LOWEST_EXPONENT, 0, layout.BINS - 1)
        np.add.at(self.histogram.reshape(-1), feature * layout.BINS + bins, 1)
        np.add.at(self.sums, feature, value.astype(np.float64))  # one after another: however blocks are batched

    def _cut(self) -> None:
        self.records = np.concatenate((self.records, *self.waiting))
        self.waiting = []
        self.records = self.records[_best(self.records["feature"], self.records["maximum"], self.k)]
        features = self.records["feature"]
        kth = np.arange(self.k - 1, len(features))
        kth = kth[features[kth] == features[kth - (self.k - 1)]]  # of a feature with K records, the last is the bar
        self.bars[features[kth]] = self.records["maximum"][kth]

    def write(self, writer: StoreWriter, source_id: str, places: Places) -> None:
        """Write the source's files."""
        self._cut()
        n_features = len(self.sums)
        features, maxima = self.records["feature"].astype(np.int64), self.records["maximum"]
        offsets = np.searchsorted(features, np.arange(n_features + 1))
        firing = _changes(features)
        highest = np.zeros(n_features, np.float32)
        highest[features[firing]] = maxima[firing]
        writer.write(source_file(source_id, "fires"), self.histogram.sum(1))
        writer.write(source_file(source_id, "sums"), self.sums)
        writer.write(source_file(source_id, "maxima"), highest)
        writer.write(source_file(source_id, "histogram"), self.histogram)

        texts, begins, lengths = places.find(self.records["block"])
        peaks = self.records["peak"]
        starts = np.maximum(peaks - WINDOW, 0)
        records = np.zeros(len(self.records), layout.RECORD)
        records["text"] = texts
        records["position"] = begins + starts
        records["maximum"] = maxima
        records["length"] = np.minimum(peaks + WINDOW + 1, lengths) - starts
        records["peak"] = peaks - starts
        writer.write(source_file(source_id, "record_offsets"), offsets)
        writer.write(source_file(source_id, "records"), records)
        windows = writer.file(source_file(source_id, "windows"))
        for part in np.array_split(self.records["window"], 1 + len(self.records) * SPAN // _ENTRIES):
            windows.append(part)

        top_offsets, top_tokens = count_peaks(features, places.tokens(texts, begins + peaks), maxima, n_features)
        writer.write(source_file(source_id, "top_offsets"), top_offsets)
        writer.write(source_file(source_id, "top_tokens"), top_tokens)


def _changes(values: IntArray) -> IntArray:
    """The places of a sorted array at which another value begins."""
    return np.flatnonzero(np.diff(values, prepend=-1))


def _best(features: IntArray, values: FloatArray, k: int) -> IntArray:
    """The places of each feature's K largest values: features ascend, values fall, of equal ones the first stays."""
    order = np.lexsort((-values, features))
    ordered = features[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return order[rank < k]


def _windows(rows: SourceRows, features: IntArray, starts: IntArray, ends: IntArray) -> FloatArray:
    """[features, SPAN]: the activations of each feature from row `starts` to row `ends`, and zeros after them."""
    found = np.zeros((len(features), SPAN), np.float32)
    if not isinstance(rows, Csr):
        for offset in range(SPAN):
            inside = starts + offset < ends
            found[inside, offset] = rows[starts[inside] + offset, features[inside]]
        return found
    # The rows by feature: there a window is a run of entries.
    mine = np.flatnonzero(np.isin(rows.indices, features))
    row = np.repeat(np.arange(height(rows)), np.diff(rows.indptr))[mine]
    cells = rows.indices[mine].astype(np.int64) * height(rows) + row
    order = np.argsort(cells)
    cells = cells[order]
    first = np.searchsorted(cells, features * height(rows) + starts)
    counts = np.searchsorted(cells, features * height(rows) + ends) - first
    window = np.repeat(np.arange(len(features)), counts)
    entry = order[np.arange(len(window)) + np.repeat(first - (np.cumsum(counts) - counts), counts)]
    found[window, row[entry] - starts[window]] = rows.data[mine[entry]]
    return found
