"""Cuts texts into blocks of tokens, groups blocks into batches, and finds texts again by the number of a block."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tokenizers

from saeserve_server.catalog import ModelInfo
from saeserve_server.errors import ConfigError
from saeserve_server.records import layout
from saeserve_server.records.writer import StoreWriter

_TOKENISE_TEXTS: Final = 64
_TOKENISE_CHARACTERS: Final = 1 << 18

Tokenise = Callable[[list[str]], list[list[int]]]
"""Token ids of each text, without a leading BOS."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Blocks that are run together."""

    first: int
    """Number of the first of them, over all texts."""
    blocks: list[list[int]]

    @property
    def bounds(self) -> list[int]:
        """[blocks + 1] rows of the batch at which the blocks begin."""
        bounds = [0]
        for block in self.blocks:
            bounds.append(bounds[-1] + len(block))
        return bounds


def batches(blocks: Iterable[list[int]], batch_tokens: int, batch_blocks: int) -> Iterator[Batch]:
    """Blocks in their order; a batch ends at `batch_blocks` blocks or when `batch_tokens` tokens are reached."""
    first, waiting, tokens = 0, list[list[int]](), 0
    for block in blocks:
        waiting.append(block)
        tokens += len(block)
        if tokens >= batch_tokens or len(waiting) == batch_blocks:
            yield Batch(first, waiting)
            first, waiting, tokens = first + len(waiting), [], 0
    if waiting:
        yield Batch(first, waiting)


class BlockCutter:
    """Cuts texts into blocks of `context` tokens and writes their tokens to the disk on the way."""

    def __init__(self, writer: StoreWriter, context: int, model: ModelInfo) -> None:
        self._model = model
        self._file = writer.file(layout.TOKENS)
        self._file.append(np.zeros(0, np.uint32))
        self._writer = writer
        self._context = context
        self._offsets = array("q", [0])

    @property
    def texts(self) -> int:
        """Texts read so far."""
        return len(self._offsets) - 1

    @property
    def tokens(self) -> int:
        """Tokens of those."""
        return self._offsets[-1]

    def blocks(self, tokenise: Tokenise, texts: Iterable[str]) -> Iterator[list[int]]:
        """The blocks of all texts, in the order of (text, block). A text without tokens has none.

        Raises ConfigError for a text that holds a token which the model has no embedding for.
        """
        for group in _groups(texts):
            for _, ids in zip(group, tokenise(group), strict=True):
                self._check(ids)
                self._file.append(np.array(ids, np.uint32))
                self._offsets.append(self.tokens + len(ids))
                for start in range(0, len(ids), self._context):
                    yield ids[start : start + self._context]

    def _check(self, ids: list[int]) -> None:
        most = self._model.vocabulary - 1
        if max(ids, default=0) > most:
            token_id = next(one for one in ids if one > most)
            token = tokenizers.Tokenizer.from_str(self._model.tokenizer_json).id_to_token(token_id)
            raise ConfigError(
                f"text {self.texts + 1} (of all, in their order) holds the token {token!r} (id {token_id}), and the "
                f"model has embeddings for ids 0 to {most} only; take it out of the text"
            )

    def finish(self) -> Places:
        """Write the texts' offsets; tells where blocks and tokens are."""
        self._file.flush()
        offsets = np.array(self._offsets, np.int64)
        self._writer.write(layout.TEXT_OFFSETS, offsets)
        tokens = np.memmap(self._file.path, np.uint32, "r") if self.tokens else np.zeros(0, np.uint32)
        return Places(tokens, offsets, self._context)


class Places:
    """Finds texts and tokens by the number of a block over all texts."""

    def __init__(self, tokens: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], context: int) -> None:
        self._tokens = tokens
        self._offsets = offsets
        self._context = context
        self._first_blocks = np.concatenate(([0], np.cumsum(-(-np.diff(offsets) // context))))

    def find(self, blocks: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
        """Of each block: its text, where in the text it begins, and its length."""
        texts = np.searchsorted(self._first_blocks, blocks, side="right") - 1
        begins = (blocks - self._first_blocks[texts]) * self._context
        lengths = np.minimum(self._offsets[texts + 1] - self._offsets[texts] - begins, self._context)
        return texts, begins, lengths

    def tokens(self, texts: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The token id at a position of each text."""
        return np.asarray(self._tokens[self._offsets[texts] + positions])


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group, characters = list[str](), 0
    for text in texts:
        group.append(text)
        characters += len(text)
        if characters >= _TOKENISE_CHARACTERS or len(group) == _TOKENISE_TEXTS:
            yield group
            group, characters = [], 0
    if group:
        yield group
