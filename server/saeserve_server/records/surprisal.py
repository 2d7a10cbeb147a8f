"""How surprising an activation is: `log2(N / n)`, n the indexed tokens on which the feature is at least this active.

n is read off the feature's histogram, whose bins are an eighth of a power of two (`bins.py`). Inside a bin its tokens
are taken to lie evenly; the highest bin ends at the largest activation, where n = 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.records import bins as binning

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]

_LAST_CODE: Final = binning.FIRST_CODE + binning.BINS - 1


class Surprisal:
    """The histograms of a source's features. Its arrays may be mapped from a file; they are only read."""

    def __init__(
        self,
        tokens: int,
        maxima: FloatArray,
        offsets: IntArray,
        bins: npt.NDArray[np.uint16],
        counts: npt.NDArray[np.uint64],
    ) -> None:
        """`tokens` of the index; `maxima` [n] the features' largest activations, 0 for one that never fires; of
        feature i the bins that are not empty, by code ascending, and the tokens in each: `bins` and `counts` [e] from
        `offsets[i]` to `offsets[i + 1]`."""
        self.tokens = tokens
        self.maxima = maxima
        self._offsets = offsets
        self._bins = bins
        self._counts = counts

    def tokens_at_least(self, index: IntArray, value: FloatArray) -> DoubleArray:
        """[e] tokens of the index on which feature `index[e]` is at least as active as `value[e]`, at least 1.

        It falls, or stays, as the value rises, and is within its bin's count of the true number. At the largest
        activation and beyond it is 1, and so it is for a feature that never fires.
        """
        first, end = self._offsets[index], self._offsets[index + 1]
        if not len(self._bins):
            return np.ones(len(index))
        value = np.where(value > 0, value, np.float32(0))  # as bits, what is negative would be large
        code = np.clip(value.view(np.uint32) >> binning.SHIFT, binning.FIRST_CODE, _LAST_CODE)
        place = self._first_not_below(code, first, end)
        last = len(self._bins) - 1
        inside = (place < end) & (self._bins[np.minimum(place, last)] == code)
        found = self._sums(place + inside, end)

        own = np.flatnonzero(inside)
        place, code, top = place[own], code[own], place[own] + 1 == end[own]
        count = self._counts[place].astype(np.float64)
        edges = binning.edges(code)
        lower, upper = edges[:, 0], np.where(top, self.maxima[index[own]], edges[:, 1])
        wide = (upper > lower) & np.isfinite(upper)  # all of the highest bin may lie at its lower edge
        share = np.divide(upper - value[own], upper - lower, out=np.zeros(len(own)), where=wide)
        share = np.clip(share, 0, 1)
        found[own] += np.where(top, 1 + (count - 1) * share, count * share)
        return np.maximum(found, 1)

    def bits(self, index: IntArray, value: FloatArray) -> FloatArray:
        """[e] surprisal of an activation `value[e]` of feature `index[e]`, in bits, >= 0."""
        return np.log2(np.maximum(self.tokens / self.tokens_at_least(index, value), 1)).astype(np.float32)

    def _first_not_below(self, code: npt.NDArray[np.uint32], first: IntArray, end: IntArray) -> IntArray:
        """[e] the first place from `first` to `end` whose bin is not below `code`; `end` if there is none."""
        low, high = first.copy(), end.copy()
        last = len(self._bins) - 1
        for _ in range(int((end - first).max(initial=0)).bit_length()):
            middle = (low + high) >> 1
            below = (self._bins[np.minimum(middle, last)] < code) & (low < high)
            low = np.where(below, middle + 1, low)
            high = np.where(below, high, middle)
        return low

    def _sums(self, first: IntArray, end: IntArray) -> DoubleArray:
        """[e] the sum of the counts from `first` to `end`.

        Taken one by one, or, where that reads more than all of them, from their running sum.
        """
        lengths = end - first
        total = int(lengths.sum())
        if total > len(self._counts):
            running = np.zeros(len(self._counts) + 1, np.uint64)
            np.cumsum(self._counts, out=running[1:])
            return (running[end] - running[first]).astype(np.float64)
        sums = np.zeros(len(first))
        filled = np.flatnonzero(lengths)
        before = np.cumsum(lengths) - lengths
        places = np.arange(total) + np.repeat(first - before, lengths)
        if len(filled):
            sums[filled] = np.add.reduceat(self._counts[places], before[filled]).astype(np.float64)
        return sums
