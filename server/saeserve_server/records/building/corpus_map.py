"""The whole corpus once it has been folded: its tokens by text, and in which batch and row each of them was run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from saeserve_server.errors import ConfigError
from saeserve_server.records.building.best import Best
from saeserve_server.records.building.chunks import CHUNK_TEXTS, Batch, Chunk
from saeserve_server.records.building.hashing import place_hash
from saeserve_server.records.building.part import Part, missing_chunks
from saeserve_server.records.building.state import STRATUM
from saeserve_server.records.made_of import Cut

IntArray = npt.NDArray[np.int64]

OCCURRENCES: Final = 16
"""Of every token of the vocabulary so many places in the corpus are looked at for near misses, by their hashes."""
_TOKENS_AT_ONCE: Final = 1 << 20


class CorpusMap:
    """Tokens of all texts, and where they were run."""

    def __init__(self, ids: npt.NDArray[np.uint32], offsets: IntArray, cut: Cut) -> None:
        self.ids = ids
        """[tokens] of all texts, in the order of their numbers."""
        self.offsets = offsets
        """[texts + 1] where each begins."""
        self.cut = cut
        self._first_block = np.cumsum([0, *(-(-np.diff(offsets) // cut.context)).tolist()])
        self.batches: list[tuple[int, int]] = []
        """Chunk and number of each batch."""
        batch, row = list[int](), list[int]()
        for chunk in range(-(-(len(offsets) - 1) // CHUNK_TEXTS)):
            for one in self.chunk(chunk).batches(cut):
                batch += [len(self.batches)] * len(one.blocks)
                row += one.begins[:-1].tolist()
                self.batches.append((chunk, one.number))
        self._batch, self._row = np.array(batch, np.int64), np.array(row, np.int64)

    @classmethod
    def of(cls, parts: Sequence[Part], corpus_texts: int) -> CorpusMap:
        """Of parts that hold every text once. Raises ConfigError where chunks are missing."""
        if missing := missing_chunks(set().union(*(part.chunks for part in parts)), corpus_texts):
            raise ConfigError(
                f"{parts[0].folder}: {len(missing)} chunks of {CHUNK_TEXTS} texts are missing, the first at text "
                f"{missing[0] * CHUNK_TEXTS + 1}: give the parts of all shards"
            )
        lengths = np.zeros(corpus_texts, np.int64)
        for part in parts:
            lengths[np.array(part.texts, np.int64)] = part.lengths
        offsets = np.cumsum([0, *lengths.tolist()])
        ids = np.empty(offsets[-1], np.uint32)
        for part in parts:
            of_part, begin = part.ids(), 0
            for text, length in zip(part.texts, part.lengths, strict=True):
                ids[offsets[text] : offsets[text + 1]] = of_part[begin : begin + length]
                begin += length
        return cls(ids, offsets, part.made_of.cut)

    def chunk(self, number: int) -> Chunk:
        """A chunk, as it was run."""
        first = number * CHUNK_TEXTS
        bounds = self.offsets[first : first + CHUNK_TEXTS + 1].tolist()
        ids = self.ids[bounds[0] : bounds[-1]].tolist()
        texts = [ids[begin - bounds[0] : end - bounds[0]] for begin, end in itertools.pairwise(bounds)]
        return Chunk(number, first, texts)

    def batch(self, place: int) -> Batch:
        """The batch at a place in `batches`."""
        chunk, number = self.batches[place]
        return next(batch for batch in self.chunk(chunk).batches(self.cut) if batch.number == number)

    def token(self, text: npt.NDArray[np.uint32], position: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """[n] the token at a position of each text."""
        found: npt.NDArray[np.uint32] = self.ids[self.offsets[text] + position]
        return found

    def place(self, text: npt.NDArray[np.uint32], position: npt.NDArray[np.uint32]) -> tuple[IntArray, ...]:
        """[n] of each token: the place of its batch, its row there, first row and end of its block."""
        at = position.astype(np.int64) % self.cut.context
        block = self._first_block[text] + position // self.cut.context
        length = self.offsets[text.astype(np.int64) + 1] - self.offsets[text] - (position - at)
        first = self._row[block]
        return self._batch[block], first + at, first, first + np.minimum(length, self.cut.context)

    def occurrences(self, vocabulary: int, bos_id: int | None) -> Best:
        """By token id, its places of smallest hash; `value` is not set."""
        best = Best(STRATUM, vocabulary, OCCURRENCES)
        text_of = np.searchsorted(self.offsets, np.arange(0, len(self.ids), _TOKENS_AT_ONCE), side="right") - 1
        for begin, first_text in zip(range(0, len(self.ids), _TOKENS_AT_ONCE), text_of.tolist(), strict=True):
            ids = self.ids[begin : begin + _TOKENS_AT_ONCE]
            place = np.arange(begin, begin + len(ids))
            text = first_text + np.searchsorted(self.offsets[first_text + 1 :], place, side="right")
            position = place - self.offsets[text]
            key = best.key(ids, place_hash(text, position))
            found = np.flatnonzero(best.wants(key) & (ids != (-1 if bos_id is None else bos_id)))
            rows = np.zeros(len(found), STRATUM)
            rows["key"], rows["text"], rows["position"] = key[found], text[found], position[found]
            best.add(rows)
        best.cut()
        return best
