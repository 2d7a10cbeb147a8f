"""How much two features have in common, over the index: the positions on which they fire, or their records.

**Positions.** Of each feature the index keeps the smallest hashes of the positions on which it fires, all of them up to
128. Two such sketches, cut at the smaller of their largest hashes, are samples of one and the same set of positions: so
the share of the common ones estimates the Jaccard index without bias, and how many there are says how well. The
interval is Wilson's. Which features are worth a look is read from the exact rows of the sampled positions of the whole
index: those that fire on any on which the feature does.

**Records.** A feature's records are the blocks in which it fires most: the overlap is the exact Jaccard index of two
sets of blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from saeserve_server.rows import Csr, IntArray, entries_of

DoubleArray = npt.NDArray[np.float64]
HashArray = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

SKETCH = 128
"""Hashes of a sketch; of a feature that fires no more often it holds all."""
SHARED_BITS = ~np.uint64(2**20 - 1)
"""Of a hash, what all sources keep: those of more features keep fewer of its low bits."""
LEAST_POSITIONS = 16
"""On fewer an overlap has no interval."""
Z = 1.959963984540054
"""Of a normal distribution, 95% lie within so many standard deviations."""
CANDIDATES, MORE = 4, 256
"""Features whose sketches are looked at: so many times as many as are asked for, and so many more."""
AT_ONCE = 1024
"""Rows of bits that are unpacked together."""
RARE = 16
"""Of a feature that fires on fewer sampled positions, those that have a hash in common are found by reading all."""


class Sketched(Protocol):
    """What an index tells of firing positions and of records."""

    @property
    def tokens(self) -> int:
        """Of the whole index."""
        ...

    def fires(self, source_id: str) -> npt.NDArray[np.int64]:
        """[n] tokens on which each feature fires."""
        ...

    def sketch(self, source_id: str) -> tuple[npt.NDArray[np.int64], HashArray]:
        """Offsets [n + 1] and hashes, ascending within a feature."""
        ...

    def sampled_rows(self, source_id: str) -> Csr:
        """Which features fire on each sampled position."""
        ...

    def sampled_bits(self, source_id: str) -> npt.NDArray[np.uint8] | None:
        """The same, a bit for each, the lowest first; None where rows are sparse."""
        ...

    def record_blocks(self, source_id: str) -> tuple[npt.NDArray[np.int64], HashArray]:
        """Offsets [n + 1] and, for each record, text << 32 | block."""
        ...


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one feature has in common with another."""

    source: int
    """Place among the sources that were looked at."""
    index: int
    value: float
    """Jaccard index, 0 to 1."""
    positions: int
    """Positions, or blocks, that it rests on: the union."""
    contained: float | None = None
    """Share of the sampled positions of the feature asked about on which this one fires too."""
    contains: float | None = None
    """Share of this one's sampled positions on which the feature asked about fires too."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's of 95%, of an overlap of positions; None on too few."""
        return None if self.positions < LEAST_POSITIONS else wilson(self.value, self.positions)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Bounds of Wilson's interval of 95% for a share of `count`."""
    centre = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def by_firing(
    store: Sketched, sources: Sequence[str], masks: Mapping[str, BoolArray], asked: tuple[str, int], limit: int
) -> list[Overlap]:
    """The features with the largest overlaps of firing positions, by value falling, then source, then index.

    `sources` are those that are looked at, in the order of ties, and `masks` says which of their features.
    """
    own, complete = _sketch(store, *asked)
    if not len(own):
        return []
    mine = _positions(store, *asked)
    is_rare = len(mine) < RARE
    shared = [_co_firing(store, source, mine) for source in sources]
    candidates: list[tuple[int, IntArray]] = []
    for place, source in enumerate(sources):
        taken = masks[source] & (_touched(store, source, own) if is_rare else shared[place] > 0)
        if source == asked[0]:
            taken[asked[1]] = False
        candidates.append((place, np.flatnonzero(taken)))
    if not is_rare:
        candidates = _likeliest(store, candidates, shared, sources, len(mine), limit * CANDIDATES + MORE)
    found = []
    for place, index in candidates:
        for one in index.tolist():
            value, positions = jaccard(own, complete, *_sketch(store, sources[place], one))
            if value > 0:
                found.append(Overlap(place, one, value, positions))
    return [_with_shares(store, one, sources[one.source], shared[one.source], len(mine)) for one in _best(found, limit)]


def by_records(
    store: Sketched, sources: Sequence[str], masks: Mapping[str, BoolArray], asked: tuple[str, int], limit: int
) -> list[Overlap]:
    """The features with the largest overlaps of records, in the same order."""
    offsets, blocks = store.record_blocks(asked[0])
    own = np.unique(blocks[offsets[asked[1]] : offsets[asked[1] + 1]])
    found = []
    for place, source in enumerate(sources):
        offsets, blocks = store.record_blocks(source)
        hits = np.flatnonzero(_is_in(blocks, own))
        feature = np.searchsorted(offsets, hits, side="right") - 1
        common = np.bincount(feature, minlength=len(offsets) - 1)
        taken = masks[source] & (common > 0)
        if source == asked[0]:
            taken[asked[1]] = False
        index = np.flatnonzero(taken)
        union = len(own) + np.diff(offsets)[index] - common[index]
        value = common[index] / union
        best = np.argsort(-value, kind="stable")[:limit]
        found += [
            Overlap(place, int(one), float(share), int(size))
            for one, share, size in zip(index[best], value[best], union[best], strict=True)
        ]
    return _best(found, limit)


def jaccard(one: HashArray, all_of_one: bool, other: HashArray, all_of_other: bool) -> tuple[float, int]:
    """The overlap of two sets from the smallest hashes of each, ascending, and how many positions it rests on.

    Under the smaller of the last hashes both sketches are complete; that hash itself is there by choice and says
    nothing. A sketch that holds all hashes bounds nothing.
    """
    bars = [hashes[-1] for hashes, whole in ((one, all_of_one), (other, all_of_other)) if not whole and len(hashes)]
    if bars:
        bar = min(bars)
        one, other = one[: np.searchsorted(one, bar)], other[: np.searchsorted(other, bar)]
    common = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - common
    return (common / union if union else 0.0), union


def _sketch(store: Sketched, source: str, index: int) -> tuple[HashArray, bool]:
    """A feature's smallest hashes, and whether they are all."""
    offsets, hashes = store.sketch(source)
    begin, end = int(offsets[index]), int(offsets[index + 1])
    return hashes[begin:end] & SHARED_BITS, end - begin >= int(store.fires(source)[index])


def _positions(store: Sketched, source: str, index: int) -> IntArray:
    """The sampled positions on which a feature fires, by number."""
    bits = store.sampled_bits(source)
    if bits is not None:
        return np.flatnonzero(bits[:, index >> 3] >> (index & 7) & 1)
    rows = store.sampled_rows(source)
    return np.searchsorted(rows.indptr, np.flatnonzero(rows.indices == index), side="right") - 1


def _co_firing(store: Sketched, source: str, positions: IntArray) -> IntArray:
    """[n] on how many of some sampled positions each feature fires."""
    count = len(store.fires(source))
    bits = store.sampled_bits(source)
    if bits is None:
        rows = store.sampled_rows(source)
        _, place = entries_of(rows, positions)
        return np.bincount(rows.indices[place], minlength=count)
    total = np.zeros(count, dtype=np.int64)
    for first in range(0, len(positions), AT_ONCE):
        some = bits[positions[first : first + AT_ONCE]]
        total += np.unpackbits(some, axis=1, count=count, bitorder="little").sum(axis=0, dtype=np.int64)
    return total


def _likeliest(
    store: Sketched,
    candidates: Sequence[tuple[int, IntArray]],
    shared: Sequence[IntArray],
    sources: Sequence[str],
    mine: int,
    most: int,
) -> list[tuple[int, IntArray]]:
    """The candidates with the largest overlaps on the sampled positions, as far as densities tell."""
    values = []
    for place, index in candidates:
        common, source = shared[place][index], sources[place]
        bits = store.sampled_bits(source)
        sampled = len(store.sampled_rows(source).indptr) - 1 if bits is None else len(bits)
        theirs = store.fires(source)[index] * (sampled / store.tokens)
        values.append(common / np.maximum(mine + theirs - common, 1.0))
    total = np.concatenate(values) if values else np.zeros(0)
    if len(total) <= most:
        return list(candidates)
    bar = np.partition(total, len(total) - most)[len(total) - most]
    return [(place, index[value >= bar]) for (place, index), value in zip(candidates, values, strict=True)]


def _with_shares(store: Sketched, found: Overlap, source: str, shared: IntArray, mine: int) -> Overlap:
    """The overlap with what the exact rows say: which share of either's sampled positions is the other's too."""
    common, theirs = int(shared[found.index]), len(_positions(store, source, found.index))
    return replace(
        found,
        contained=common / mine if mine else None,
        contains=common / theirs if theirs else None,
    )


def _touched(store: Sketched, source: str, own: HashArray) -> BoolArray:
    """[n] whose sketches hold any of these hashes."""
    offsets, hashes = store.sketch(source)
    found = np.zeros(len(offsets) - 1, dtype=np.bool_)
    found[np.searchsorted(offsets, np.flatnonzero(_is_in(hashes & SHARED_BITS, own)), side="right") - 1] = True
    return found


def _is_in(values: HashArray, ascending: HashArray) -> BoolArray:
    """Which of the values stand in a list that ascends."""
    if not len(ascending):
        return np.zeros(len(values), dtype=np.bool_)
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: BoolArray = ascending[place] == values
    return found


def _best(found: list[Overlap], limit: int) -> list[Overlap]:
    return sorted(found, key=lambda one: (-np.float32(one.value), one.source, one.index))[:limit]
