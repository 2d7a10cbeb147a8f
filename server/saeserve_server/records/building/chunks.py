"""Cuts a corpus into chunks, chunks into blocks of tokens and batches: always the same ones, whoever computes them.

Activations move in their last bits with the batch that they were computed in. So the unit of an index is the *chunk*:
64 texts by their numbers, whose blocks are always run as the same batches. Checkpoints, shards and tasks end at one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import tokenizers

from saeserve_server.catalog import ModelInfo
from saeserve_server.errors import ConfigError
from saeserve_server.records.building.hashing import HashArray, content_hash, place_hash
from saeserve_server.records.made_of import Cut

CHUNK_TEXTS: Final = 64

Tokenise = Callable[[list[str]], list[list[int]]]
"""Token ids of each text, without a leading BOS."""
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Blocks that are run together, all of one chunk."""

    chunk: int
    number: int
    """Place among the chunk's batches."""
    blocks: list[list[int]]
    text: IntArray
    """[blocks] number of each block's text in the whole corpus."""
    start: IntArray
    """[blocks] where each block begins in its text, in tokens."""

    @cached_property
    def begins(self) -> IntArray:
        """[blocks + 1] rows of the batch at which the blocks begin."""
        return np.cumsum([0, *map(len, self.blocks)])

    @cached_property
    def ids(self) -> npt.NDArray[np.uint32]:
        """[rows] token ids."""
        return np.concatenate([np.array(block, np.uint32) for block in self.blocks])

    @cached_property
    def block(self) -> IntArray:
        """[rows] the block of each row."""
        return np.repeat(np.arange(len(self.blocks)), np.diff(self.begins))

    @cached_property
    def row_text(self) -> IntArray:
        """[rows] the text of each row."""
        return self.text[self.block]

    @cached_property
    def position(self) -> IntArray:
        """[rows] position of each row in its text."""
        return np.arange(len(self.block)) - self.begins[self.block] + self.start[self.block]

    @cached_property
    def place_hash(self) -> HashArray:
        """[rows] hash of each row's place in the corpus."""
        return place_hash(self.row_text, self.position)

    @cached_property
    def content(self) -> npt.NDArray[np.uint32]:
        """[blocks] hash of each block's tokens."""
        return content_hash(self.ids, self.begins)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Texts that are counted together."""

    number: int
    first_text: int
    texts: list[list[int]]
    """Token ids of each."""

    def batches(self, cut: Cut) -> Iterator[Batch]:
        """Its batches, in the order of (text, block); none for texts without tokens."""
        number, blocks, text, start, tokens = 0, list[list[int]](), list[int](), list[int](), 0
        for place, ids in enumerate(self.texts):
            for begin in range(0, len(ids), cut.context):
                blocks.append(ids[begin : begin + cut.context])
                text.append(self.first_text + place)
                start.append(begin)
                tokens += len(blocks[-1])
                if tokens >= cut.batch_tokens or len(blocks) == cut.batch_blocks:
                    yield Batch(self.number, number, blocks, np.array(text), np.array(start))
                    number, blocks, text, start, tokens = number + 1, [], [], [], 0
        if blocks:
            yield Batch(self.number, number, blocks, np.array(text), np.array(start))


def chunks(
    texts: Iterable[str],
    tokenise: Tokenise,
    model: ModelInfo,
    wanted: Callable[[int], bool] = lambda number: True,
    seen: Callable[[int], None] = lambda texts: None,
) -> Iterator[Chunk]:
    """The wanted chunks of a corpus, in order; the texts of others are read, and not tokenised. `seen` is told at the
    end how many texts there were.

    Raises ConfigError for a text that holds a token which the model has no embedding for.
    """
    for number, group in groups(texts, wanted, seen):
        yield make_chunk(number, group, tokenise, model)


def groups(
    texts: Iterable[str],
    wanted: Callable[[int], bool] = lambda number: True,
    seen: Callable[[int], None] = lambda texts: None,
) -> Iterator[tuple[int, list[str]]]:
    """Number and texts of the wanted chunks of a corpus, in order, as `chunks` makes them."""
    number, group, total = 0, list[str](), 0
    is_wanted = wanted(0)
    for text in texts:
        total += 1
        if is_wanted:
            group.append(text)
        if total % CHUNK_TEXTS == 0:
            if is_wanted:
                yield number, group
            group, number = [], number + 1
            is_wanted = wanted(number)
    if group:
        yield number, group
    seen(total)


def make_chunk(number: int, texts: list[str], tokenise: Tokenise, model: ModelInfo) -> Chunk:
    """The chunk of a group of texts. Raises as `chunks` does."""
    ids = tokenise(texts)
    most = model.vocabulary - 1
    for place, one in enumerate(ids):
        if max(one, default=0) > most:
            _refuse(model, next(token for token in one if token > most), number * CHUNK_TEXTS + place, most)
    return Chunk(number, number * CHUNK_TEXTS, ids)


def _refuse(model: ModelInfo, token_id: int, text: int, most: int) -> None:
    token = tokenizers.Tokenizer.from_str(model.tokenizer_json).id_to_token(token_id)
    raise ConfigError(
        f"text {text + 1} (of all, in their order) holds the token {token!r} (id {token_id}), and the "
        f"model has embeddings for ids 0 to {most} only; take it out of the text"
    )
