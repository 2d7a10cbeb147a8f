"""Encoded texts, gathered until they are enough for a part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saeserve.answers.activations import Csr
from saeserve.answers.results import EncodedText
from saeserve.files.activations import Activations
from saeserve.files.blocks import beside, of_dense
from saeserve.files.settings import About, Settings
from saeserve.files.strings import Strings
from saeserve.files.texts import Given

PART_BYTES = 2**24
"""A part is finished once its activations take so much memory."""
PART_TEXTS = 256
"""Or so many texts are in it: how much is done again at most after a kill."""
_TOKEN_BYTES = 64
"""Of a token in memory, without its activations."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the input had been read when a text was taken from it."""

    consumed: int
    """Texts, this one and those that could not be read among them."""
    unread: int
    """Those that could not be read."""
    digest: str


class Gathering:
    """The texts of a part that is not finished."""

    def __init__(self, settings: Settings, unread: int) -> None:
        """`unread`: how many texts could not be read up to the end of the part before."""
        self._settings = settings
        self._reached: Reached | None = None
        self._unread = unread
        self._refused = 0
        self._given: list[Given] = []
        self._texts: list[EncodedText] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, given: Given, text: EncodedText, reached: Reached) -> None:
        """A text that was encoded. Raises ValueError for an answer that is not what was asked for."""
        self._reached = reached
        self._given.append(given)
        self._texts.append(text)
        self._bytes += _TOKEN_BYTES * len(text.tokens) + (0 if text.dense is None else text.dense.nbytes)
        self._bytes += sum(8 * block.nnz for block in text.sparse.values())
        self._bytes += sum(block.nbytes for block in text.neurons.values())

    def refuse(self, reached: Reached) -> None:
        """A text that could not be encoded, and is left out."""
        self._reached = reached
        self._refused += 1

    @property
    def enough(self) -> bool:
        """Whether it is time to finish the part."""
        return self._bytes >= PART_BYTES or len(self._texts) + self._refused >= PART_TEXTS

    def finished(self) -> Activations:
        """The part. Raises ValueError for answers that do not fit together."""
        tokens = [token for text in self._texts for token in text.tokens]
        lengths = [len(text.tokens) for text in self._texts]
        positions = np.concatenate([np.zeros(0, np.int32), *(np.arange(length, dtype=np.int32) for length in lengths)])
        with_bos = np.repeat([text.bos_included for text in self._texts], lengths).astype(np.bool_)
        reached = self._reached or Reached(0, 0, "")
        about = About(
            self._settings,
            texts=len(self._texts),
            skipped=self._refused + reached.unread - self._unread,
            consumed=reached.consumed,
            digest=reached.digest,
        )
        return Activations(
            about=about,
            csr=self._csr(len(tokens)),
            text_numbers=np.array([given.number for given in self._given], np.int64),
            text_offsets=np.cumsum([0, *lengths], dtype=np.int64),
            ids=Strings.of(given.id or "" for given in self._given) if self._settings.has_ids else None,
            tokens=Strings.of(token.display for token in tokens),
            token_ids=np.array([token.id for token in tokens], np.uint32),
            positions=positions,
            is_bos=with_bos & (positions == 0),
            starts=np.array([token.start for token in tokens], np.int32),
            ends=np.array([token.end for token in tokens], np.int32),
        )

    def _csr(self, rows: int) -> Csr:
        """[tokens, features] of all texts."""
        settings = self._settings
        if settings.features:
            dense = [text.dense for text in self._texts if text.dense is not None]
            blocks = [of_dense(np.concatenate([np.zeros((0, settings.columns), np.float32), *dense]))]
        else:
            blocks = []
            for block, _, _ in settings.places():
                empty = Csr((0, block.features), np.zeros(1, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.float32))
                try:
                    if block.kind == "neuron":
                        own = [of_dense(text.neurons[block.id]) for text in self._texts]
                    else:
                        own = [text.sparse[block.id] for text in self._texts]
                except KeyError as error:
                    raise ValueError(f"an answer lacks {block.name}") from error
                blocks.append(Csr.concatenate([empty, *own]))
        for made in blocks:
            if len(made) != rows:
                raise ValueError(f"{len(made)} rows for {rows} tokens")
        csr = beside(blocks, rows)
        if csr.shape[1] != settings.columns:
            raise ValueError(f"{csr.shape[1]} columns for {settings.columns} features")
        return csr
