"""Records of which each says for how many it stands: of those that are the same at some level, only the strongest.

Greedy: in the order of the records, falling activation with ties settled by the index, a record is shown unless one
shown before stands for it; then it counts for the first that does. So no two that are shown are the same, and what one
stands for is like it and not only like something like it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from saeserve_server.records.likeness import Folding, Sets, ngrams, sets_of
from saeserve_server.records.store import FeatureStatistics, PeakCounts, Record

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


class Level(Enum):
    """What makes two records the same."""

    NONE = "none"
    """Nothing: every record is shown."""
    TOKEN = "token"  # noqa: S105 (a level, not a password)
    """The same peak token."""
    FOLDED_TOKEN = "folded-token"  # noqa: S105
    """The same peak token but for case and the space around it."""
    PHRASE = "phrase"
    """The same folded peak token, and an overlap of the 1- to 3-grams of it and the three tokens either side."""
    SENTENCE = "sentence"
    """The same folded peak token, and an overlap of the 1- to 3-grams of the window."""
    TEXT = "text"
    """The same folded peak token, and an overlap of the 3-grams of the texts, of each the first 256 tokens."""
    SEMANTIC = "semantic"
    """An overlap of the 16 strongest latents at the peak. The one level that folds different tokens."""


DEFAULT_THRESHOLD: Final = 0.5
"""From what overlap on two records are the same."""
BY_OVERLAP: Final = frozenset({Level.PHRASE, Level.SENTENCE, Level.TEXT, Level.SEMANTIC})
"""The levels that take a threshold."""
SIDE: Final = 3
"""Tokens either side of the peak that make a phrase."""
TEXT_TOKENS: Final = 256
"""Tokens of a text that are compared: the first."""
EXAMPLES: Final = 3
"""Of what a record stands for, so many others are told at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A record, and what it stands for."""

    record: Record
    stands_for: float
    """Blocks, its own included."""
    is_lower_bound: bool
    """Whether it may stand for more, of which nothing is kept."""
    least: float
    """Smallest of the activations that it stands for."""
    most: float
    """Largest of them."""
    others: tuple[Record, ...] = ()
    """The strongest others that it stands for; at most three."""

    @classmethod
    def alone(cls, record: Record) -> Shown:
        """A record that stands for itself."""
        return cls(record, 1.0, False, record.max_activation, record.max_activation)


class Kept(Protocol):
    """What is read of an index."""

    @property
    def records_per_feature(self) -> int: ...
    def records(self, source_id: str, index: int, offset: int = 0, count: int = 10) -> list[Record]: ...
    def statistics(self, source_id: str, index: int) -> FeatureStatistics: ...
    def peak_counts(self, source_id: str, index: int) -> PeakCounts: ...
    def text_ids(self, text: int) -> npt.NDArray[np.uint32]: ...


def diverse(
    store: Kept, source_id: str, index: int, level: Level, threshold: float, offset: int, count: int, folding: Folding
) -> tuple[list[Shown], bool]:
    """At most `count` of the records that are shown at a level, from the `offset`-th on, and whether there are more.

    `threshold` is read by the levels of BY_OVERLAP. With TOKEN and FOLDED_TOKEN a record stands for all blocks of the
    index that peak on its token; else for those of the kept records that are the same, which is a lower bound wherever
    the feature fires in blocks that are not kept.
    """
    if level is Level.NONE:
        found = store.records(source_id, index, offset, count + 1)
        return [Shown.alone(record) for record in found[:count]], len(found) > count
    records = store.records(source_id, index, 0, store.records_per_feature)
    same = _comparison(store, records, level, threshold, folding)
    groups, more = _lead(len(records), same, offset + count)
    tell = _telling(store, source_id, index, level, len(records))
    return [tell([records[place] for place in group.tolist()]) for group in groups[offset:]], more


_Same = Callable[[int, IntArray], BoolArray]
"""Which of some records are the same as one."""


def _lead(count: int, same: _Same, wanted: int) -> tuple[list[IntArray], bool]:
    """The first groups of records, each led by the one shown, and whether there are more of them."""
    groups: list[IntArray] = []
    left = np.arange(count)
    while len(left) and len(groups) < wanted:
        alike = same(int(left[0]), left)
        groups.append(left[alike])
        left = left[~alike]
    return groups, len(left) > 0


def _comparison(store: Kept, records: Sequence[Record], level: Level, threshold: float, folding: Folding) -> _Same:
    if level is Level.TOKEN:
        return _equal(np.array([_peak_id(record) for record in records], np.int64))
    if level is Level.SEMANTIC:
        return _overlapping(sets_of([record.active for record in records]), threshold)
    windows = [folding.number(record.token_ids) for record in records]
    peaks = np.array([window[record.max_position] for record, window in zip(records, windows, strict=True)], np.int64)
    on_token = _equal(peaks)
    if level is Level.FOLDED_TOKEN:
        return on_token
    # What peaks on a token of its own is like nothing else, whatever stands round it.
    _, group, sizes = np.unique(peaks, return_inverse=True, return_counts=True)
    nothing = np.zeros(0, np.int64)
    compared = [
        _compared(store, record, window, level, folding) if size > 1 else nothing
        for record, window, size in zip(records, windows, sizes[group].tolist(), strict=True)
    ]
    sets = ngrams(compared, least=3 if level is Level.TEXT else 1)
    alike = _overlapping(sets, threshold)
    return lambda one, among: on_token(one, among) & alike(one, among)


def _compared(store: Kept, record: Record, window: IntArray, level: Level, folding: Folding) -> IntArray:
    """The tokens whose n-grams are compared."""
    if level is Level.PHRASE:
        return window[max(0, record.max_position - SIDE) : record.max_position + SIDE + 1]
    if level is Level.SENTENCE:
        return window
    return folding.number(store.text_ids(record.text_index)[:TEXT_TOKENS])


def _equal(keys: IntArray) -> _Same:
    def same(one: int, among: IntArray) -> BoolArray:
        alike: BoolArray = keys[among] == keys[one]
        return alike

    return same


def _overlapping(sets: Sets, threshold: float) -> _Same:
    def same(one: int, among: IntArray) -> BoolArray:
        alike: BoolArray = sets.overlaps(one)[among] >= threshold
        return alike

    return same


def _telling(store: Kept, source_id: str, index: int, level: Level, kept: int) -> Callable[[list[Record]], Shown]:
    """What the first of a group of records, which fall, is said to stand for."""
    if level in (Level.TOKEN, Level.FOLDED_TOKEN):
        counts = store.peak_counts(source_id, index)
        places = {token_id: place for place, token_id in enumerate(counts.ids.tolist())}
        blocks, least, most = (
            (counts.blocks, counts.least, counts.most)
            if level is Level.TOKEN
            else (counts.folded_blocks, counts.folded_least, counts.folded_most)
        )

        def exactly(group: list[Record]) -> Shown:
            place = places[_peak_id(group[0])]
            others = tuple(group[1 : 1 + EXAMPLES])
            return Shown(group[0], float(blocks[place]), False, float(least[place]), float(most[place]), others)

        return exactly
    is_all = store.statistics(source_id, index).blocks <= kept

    def among_kept(group: list[Record]) -> Shown:
        least, most = group[-1].max_activation, group[0].max_activation
        return Shown(group[0], float(len(group)), not is_all, least, most, tuple(group[1 : 1 + EXAMPLES]))

    return among_kept


def _peak_id(record: Record) -> int:
    return int(record.token_ids[record.max_position])
