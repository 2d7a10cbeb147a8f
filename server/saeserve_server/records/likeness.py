"""How alike records are: overlaps of sets of n-grams of their tokens, or of the latents active at their peaks.

Tokens are compared but for case and the space around them. An overlap is the Jaccard index of two sets: the size of
what both have by the size of what either has.
"""

from __future__ import annotations

import threading
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
    """Numbers tokens so that those have the same number that are equal but for case and the space around them.

    White space, and what is not whole characters, is equal to nothing but itself. Numbers are from 1 on, and stay: what
    was seen once costs a look into an array. Safe to share between threads.
    """

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self._numbers: dict[str | int, int] = {}
        self._by_id = np.zeros(0, np.int64)
        """0 for an id that was not seen."""
        self._lock = threading.Lock()

    def number(self, ids: npt.NDArray[np.uint32]) -> IntArray:
        """[tokens] the tokens' numbers."""
        by_id = self._by_id
        if len(ids) and int(ids.max()) < len(by_id):
            found: IntArray = by_id[ids]
            if found.all():
                return found
        with self._lock:
            self._learn(ids)
            return self._by_id[ids]

    def _learn(self, ids: npt.NDArray[np.uint32]) -> None:
        size = int(ids.max(initial=0)) + 1
        by_id = np.concatenate([self._by_id, np.zeros(max(0, size - len(self._by_id)), np.int64)])
        for token_id in set(ids[by_id[ids] == 0].tolist()):
            folded = fold(self._piece(token_id)) or token_id
            by_id[token_id] = self._numbers.setdefault(folded, len(self._numbers) + 1)
        self._by_id = by_id  # another array: those who read the one before are not disturbed


class Sets:
    """A set of numbers for each of some rows, and how much any two overlap."""

    def __init__(self, rows: IntArray, members: IntArray, count: int) -> None:
        """`members[i]` belongs to the set of row `rows[i]`, ascending, of `count` rows; a pair may come again."""
        order = np.argsort(members, kind="stable")
        rows, members = rows[order], members[order]
        is_new = np.diff(members, prepend=-1) != 0
        is_first = is_new | (np.diff(rows, prepend=-1) != 0)
        rows, numbers = rows[is_first], (np.cumsum(is_new) - 1)[is_first]
        self._sizes = np.bincount(rows, minlength=count)
        # What is in one set only is shared by no two.
        is_shared = np.bincount(numbers)[numbers] > 1 if len(numbers) else is_first
        self._rows, self._members = rows[is_shared], numbers[is_shared]
        self._marks = np.zeros(int(is_new.sum()), np.bool_)

    def overlaps(self, row: int) -> DoubleArray:
        """[count] overlap of a row's set with every row's; 1 with itself, and 0 where both sets are empty."""
        self._marks[:] = False
        self._marks[self._members[self._rows == row]] = True
        shared = np.bincount(self._rows[self._marks[self._members]], minlength=len(self._sizes))
        overlaps: DoubleArray = shared / np.maximum(self._sizes + self._sizes[row] - shared, 1)
        overlaps[row] = 1
        return overlaps


def sets_of(rows: Sequence[npt.NDArray[np.uint32]]) -> Sets:
    """The rows as sets."""
    members = np.concatenate([np.zeros(0, np.uint32), *rows]).astype(np.int64)
    return Sets(np.repeat(np.arange(len(rows)), [len(row) for row in rows]), members, len(rows))


def ngrams(rows: Sequence[IntArray], least: int = 1) -> Sets:
    """The n-grams of each row of numbered tokens, of `least` to three tokens; of a shorter row the row as one.

    Numbers are 1 to 2^21 - 1, so that an n-gram is exactly one number.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    longest = int(lengths.max(initial=0))
    tokens = np.zeros((len(rows), longest + LONGEST), np.int64)
    for place, numbers in enumerate(rows):
        tokens[place, : len(numbers)] = numbers
    bits = int(tokens.max(initial=1)).bit_length()
    found: list[tuple[IntArray, IntArray]] = []
    for length in range(1, LONGEST + 1):
        whole = np.arange(longest) < lengths[:, None] - length + 1
        whole &= (lengths[:, None] == length) | (length >= least)
        row, start = np.nonzero(whole)
        codes = np.zeros(len(row), np.int64)
        for offset in range(length):
            codes |= tokens[row, start + offset] << (bits * (LONGEST - 1 - offset))
        found.append((row, codes))
    rows_, codes_ = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(rows_.astype(np.uint16), kind="stable")
    return Sets(rows_[order], codes_[order], len(rows))
