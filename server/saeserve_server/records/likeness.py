"""How alike records are: overlaps of sets of n-grams of their tokens, or of the latents active at their peaks.

Tokens are compared but for case and the space around them. An overlap is the Jaccard index of two sets: the size of
what both have by the size of what either has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from saeserve_server.records.match import fold

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]
Piece = Callable[[int], bytes]
"""The bytes that a token id stands for."""

LONGEST: Final = 3
"""Tokens of the longest n-grams."""


class Folding:
    """Numbers tokens from 1 so that those have the same that are equal but for case and the space around them.

    White space, and what is not whole characters, is equal to nothing but itself.
    """

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._numbers: dict[str | int, int] = {}

    def number(self, rows: Sequence[npt.NDArray[np.uint32]]) -> list[IntArray]:
        """The numbers of the tokens of every row, in rows as long as the given."""
        if not rows:
            return []
        ids, places = np.unique(np.concatenate(rows), return_inverse=True)
        numbers = self._numbers
        folded = (fold(self._piece(token_id)) or token_id for token_id in ids.tolist())
        known = [numbers.setdefault(one, len(numbers) + 1) for one in folded]
        ends = np.cumsum([len(row) for row in rows])
        return np.split(np.array(known, np.int64)[places], ends[:-1])


class Sets:
    """A set of numbers for each of some rows."""

    def __init__(self, rows: IntArray, members: IntArray, count: int) -> None:
        """`members[i]` belongs to the set of row `rows[i]`, of `count` rows; a pair may come more than once."""
        distinct, members = np.unique(members, return_inverse=True)
        pairs = np.unique(rows * max(len(distinct), 1) + members)
        self._rows, self._members = np.divmod(pairs, max(len(distinct), 1))
        self._sizes = np.bincount(self._rows, minlength=count)
        self._begins = np.concatenate(([0], np.cumsum(self._sizes)))
        self._marks = np.zeros(len(distinct), np.float64)

    def overlaps(self, row: int) -> DoubleArray:
        """[count] overlap of a row's set with every row's; 1 with itself, and 0 where both sets are empty."""
        own = self._members[self._begins[row] : self._begins[row + 1]]
        self._marks[own] = 1
        shared = np.bincount(self._rows, self._marks[self._members], minlength=len(self._sizes))
        self._marks[own] = 0
        either: DoubleArray = self._sizes + len(own) - shared
        overlaps: DoubleArray = shared / np.maximum(either, 1)
        overlaps[row] = 1
        return overlaps


def sets_of(rows: Sequence[npt.NDArray[np.uint32]]) -> Sets:
    """The rows as sets."""
    members = np.concatenate([np.zeros(0, np.uint32), *rows]).astype(np.int64)
    return Sets(np.repeat(np.arange(len(rows)), [len(row) for row in rows]), members, len(rows))


def ngrams(rows: Sequence[IntArray], least: int = 1) -> Sets:
    """The n-grams of each row of numbered tokens, of `least` to three tokens; of a shorter row the row as one.

    Numbers are 1 to 2^20, so that an n-gram is exactly one number.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    longest = int(lengths.max(initial=0))
    tokens = np.zeros((len(rows), longest + LONGEST), np.int64)
    for row, numbers in enumerate(rows):
        tokens[row, : len(numbers)] = numbers
    bits = int(tokens.max(initial=1)).bit_length()
    found: list[tuple[IntArray, IntArray]] = []
    for length in range(1, LONGEST + 1):
        whole = np.arange(longest) < lengths[:, None] - length + 1
        whole &= (lengths[:, None] == length) | (length >= least)
        row, start = np.nonzero(whole)
        codes = np.zeros(len(row), np.int64)
        for place in range(length):
            codes |= tokens[row, start + place] << (bits * (LONGEST - 1 - place))
        found.append((row, codes))
    return Sets(np.concatenate([row for row, _ in found]), np.concatenate([codes for _, codes in found]), len(rows))
