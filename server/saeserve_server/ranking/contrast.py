"""What tells two sets of texts apart: of each feature in how many texts of either set it fires, and how strongly.

The unit is the text: tokens of a text are not independent, and a feature that fires on each of them has said one thing.
So each text is folded to the largest activation of each feature, and then counted. What is held is bounded however many
texts there are: two counts and two maxima a feature, and a histogram of the maxima in bins of an eighth of a power of
two, coarser where they would be too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.rows import Csr, IntArray, SourceRows, entries_of

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

LEAST_TEXTS = 5
"""Texts of a side, under which nothing can be told."""
BIN_SHIFT = 20
"""Bits of a float32 that a bin leaves out: what is left are sign, exponent and three bits of the significand."""
BIN_BITS = 12
MOST_CELLS = 2**19
"""Counts of the histograms that are held, or two a feature; at more, bins are joined by twos."""
PENDING = 2**18
"""Maxima that are gathered before they are counted."""
CELL_BYTES = 40
"""Of a count while it is brought together with others."""
FEATURE_BYTES = 16
SAME = 1 + 1e-7
"""Two tables are equally likely if their probabilities, computed, are so near."""
P_BITS = 36
"""To so many p is rounded: the same chances, added in another order, are the same p, and ties are ties."""

A, B = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Features of both sides: p rising, then difference falling in size, then source and index."""

    source: IntArray  # [k] place among the sources that were compared
    index: IntArray  # [k]
    texts_a: IntArray  # [k] texts in which it fires
    texts_b: IntArray
    difference: DoubleArray  # [k] of the shares of texts
    log_odds: DoubleArray
    p: DoubleArray
    q: DoubleArray
    auc: DoubleArray
    auc_error: DoubleArray
    max_a: FloatArray
    max_b: FloatArray
    tested: int
    """Features that fire in any text."""


def fold(rows: SourceRows, kept: IntArray, mask: BoolArray | None) -> tuple[IntArray, FloatArray]:
    """The features that fire on any of the rows `kept`, ascending, and the largest activation of each; of those that
    `mask` lets take part, None: all."""
    if isinstance(rows, Csr):
        _, place = entries_of(rows, kept)
        order = np.argsort(rows.indices[place], kind="stable")
        index, value = rows.indices[place][order].astype(np.int64), rows.data[place][order]
        starts = np.flatnonzero(np.diff(index, prepend=-1))
        index, value = index[starts], np.maximum.reduceat(value, starts) if len(starts) else value
    else:
        largest = rows[kept].max(axis=0, initial=0.0)
        index = np.flatnonzero(largest > 0)
        value = largest[index]
    taken = value > 0
    if mask is not None:
        taken &= mask[index]
    return index[taken], value[taken]


class Tally:
    """The texts of both sides, counted."""

    def __init__(self, sizes: Sequence[int], most_cells: int = MOST_CELLS) -> None:
        """`sizes` are the numbers of features of the sources that are compared."""
        self._begins = np.cumsum([0, *sizes])
        count = int(self._begins[-1])
        self.texts = [0, 0]
        self.fires = np.zeros((2, count), dtype=np.uint32)
        self.largest = np.zeros((2, count), dtype=np.float32)
        self._most = max(most_cells, 2 * count)
        self._coarser = 0
        self._cells = np.zeros(0, dtype=np.int64)  # (side, feature, bin) as one number, ascending
        self._counts = np.zeros(0, dtype=np.int64)
        self._pending: list[IntArray] = []
        self._waiting = 0

    def add(self, side: int, folded: Sequence[tuple[IntArray, FloatArray]]) -> None:
        """Takes in a text: for each source which features fire and their maxima."""
        self.texts[side] += 1
        if not folded:
            return
        feature = np.concatenate([begin + index for begin, (index, _) in zip(self._begins, folded, strict=False)])
        value = np.concatenate([value for _, value in folded])
        self.fires[side, feature] += 1
        self.largest[side, feature] = np.maximum(self.largest[side, feature], value)
        bins = value.view(np.uint32).astype(np.int64) >> (BIN_SHIFT + self._coarser)
        self._pending.append(((side * self.fires.shape[1] + feature) << BIN_BITS) | bins)
        self._waiting += len(feature)
        if self._waiting > PENDING:
            self._count()

    def _count(self) -> None:
        """Counts what was gathered."""
        cells = np.concatenate([self._cells, *self._pending])
        counts = np.concatenate([self._counts, np.ones(self._waiting, dtype=np.int64)])
        self._pending, self._waiting = [], 0
        self._cells, self._counts = _summed(cells, counts)
        while len(self._cells) > self._most:
            self._coarser += 1
            bins = self._cells & ((1 << BIN_BITS) - 1)
            self._cells, self._counts = _summed((self._cells - bins) | (bins >> 1), self._counts)

    def found(self, limit: int) -> Found:
        """The `limit` features of each side that tell it best from the other."""
        self._count()
        texts_a, texts_b = self.texts
        tested = np.flatnonzero(self.fires.any(axis=0))
        a, b = self.fires[A, tested].astype(np.int64), self.fires[B, tested].astype(np.int64)
        p = fisher(a, b, texts_a, texts_b)
        q = false_discovery(p)
        excess = a * texts_b - b * texts_a  # whole, so that ties are ties
        difference = excess / (texts_a * texts_b)
        order = np.lexsort((tested, -np.abs(excess), p))
        more = excess[order]
        chosen = np.zeros(len(order), dtype=np.bool_)
        for side in (more > 0, more < 0):
            chosen[np.flatnonzero(side)[:limit]] = True
        which = order[chosen]
        feature, a, b = tested[which], a[which], b[which]
        source = np.searchsorted(self._begins, feature, side="right") - 1
        auc, error = self._auc(feature)
        return Found(
            source=source,
            index=feature - self._begins[source],
            texts_a=a,
            texts_b=b,
            difference=difference[which],
            log_odds=np.log((a + 0.5) / (texts_a - a + 0.5)) - np.log((b + 0.5) / (texts_b - b + 0.5)),
            p=p[which],
            q=q[which],
            auc=auc,
            auc_error=error,
            max_a=self.largest[A, feature],
            max_b=self.largest[B, feature],
            tested=len(tested),
        )

    def _auc(self, features: IntArray) -> tuple[DoubleArray, DoubleArray]:
        """Of each feature the chance that a text of A has a larger maximum than one of B, ties counted half, and by how
        much it may be off: by half of the pairs that share a bin. Texts in which it does not fire are ties exactly."""
        texts_a, texts_b = self.texts
        count = self.fires.shape[1]
        auc, error = np.zeros(len(features)), np.zeros(len(features))
        for place, feature in enumerate(features.tolist()):
            (bins_a, a), (bins_b, b) = (self._histogram(side * count + feature) for side in (A, B))
            bins = np.union1d(bins_a, bins_b)
            in_a, in_b = np.zeros(len(bins)), np.zeros(len(bins))
            in_a[np.searchsorted(bins, bins_a)], in_b[np.searchsorted(bins, bins_b)] = a, b
            silent_a, silent_b = texts_a - a.sum(), texts_b - b.sum()
            below = silent_b + np.cumsum(in_b) - in_b
            ties = float(in_a @ in_b)
            pairs = texts_a * texts_b
            auc[place] = (in_a @ below + ties / 2 + silent_a * silent_b / 2) / pairs
            error[place] = ties / 2 / pairs
        return auc, error

    def _histogram(self, row: int) -> tuple[IntArray, IntArray]:
        """The bins of a side's feature that are not empty, ascending, and their counts."""
        begin, end = np.searchsorted(self._cells, [row << BIN_BITS, (row + 1) << BIN_BITS])
        return self._cells[begin:end] & ((1 << BIN_BITS) - 1), self._counts[begin:end]


def tally_bytes(features: int) -> int:
    """Memory that a tally takes at most."""
    return FEATURE_BYTES * features + CELL_BYTES * (max(MOST_CELLS, 2 * features) + PENDING)


def fisher(a: IntArray, b: IntArray, texts_a: int, texts_b: int) -> DoubleArray:
    """Two-sided p of Fisher's exact test, for each feature that fires in `a` of A's and `b` of B's texts: the chance of
    a table that is no likelier than this one, of all with the same margins. Computed once for each pair that occurs."""
    from scipy.stats import hypergeom  # takes half a second to import, and most servers never contrast

    pairs, inverse = np.unique(np.stack([a + b, a], axis=1), axis=0, return_inverse=True)
    p = np.ones(len(pairs))
    for fires in np.unique(pairs[:, 0]).tolist():
        here = np.flatnonzero(pairs[:, 0] == fires)
        support = np.arange(max(0, fires - texts_b), min(texts_a, fires) + 1)
        chance = hypergeom.pmf(support, texts_a + texts_b, texts_a, fires)
        ascending = np.sort(chance)
        upto = np.cumsum(ascending)
        bars = chance[pairs[here, 1] - support[0]] * SAME
        p[here] = upto[np.searchsorted(ascending, bars, side="right") - 1]
    share, power = np.frexp(np.minimum(p, 1.0))
    rounded = np.ldexp(np.round(share * 2.0**P_BITS) / 2.0**P_BITS, power)
    found: DoubleArray = rounded[inverse.reshape(-1)]
    return found


def false_discovery(p: DoubleArray) -> DoubleArray:
    """Of each p the least rate of false discoveries at which it counts, after Benjamini and Hochberg."""
    from scipy.stats import false_discovery_control

    found: DoubleArray = false_discovery_control(p, method="bh") if len(p) else p
    return found


def _summed(cells: IntArray, counts: IntArray) -> tuple[IntArray, IntArray]:
    """Each cell once, ascending, with the sum of its counts."""
    order = np.argsort(cells, kind="stable")
    cells, counts = cells[order], counts[order]
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    return cells[starts], np.add.reduceat(counts, starts) if len(starts) else counts
