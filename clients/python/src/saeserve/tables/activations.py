"""Activations of encoded texts as plain arrays: which row is which token, wide by feature, and long by what fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve.answers.activations import Floats, Integers
from saeserve.answers.results import EncodedText


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Which token of which text a row is: [rows] each."""

    text: Integers
    position: Integers
    """Counts the text's rows from 0, a BOS among them."""
    token: npt.NDArray[Any]
    """What is displayed; None with `omit_tokens`."""
    is_bos: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Long:
    """What fires, by row and then by source and feature: [entries] each."""

    row: Integers
    """Of `Rows`."""
    feature: npt.NDArray[Any]
    source: npt.NDArray[Any]
    index: Integers
    activation: Floats


def length(text: EncodedText) -> int:
    """How many rows a text has, with `omit_tokens` too."""
    blocks = [block for block in (text.dense, *text.sparse.values(), *text.neurons.values()) if block is not None]
    return len(blocks[0]) if blocks else len(text.tokens)


def rows(texts: Sequence[EncodedText], numbers: Sequence[int] | None = None) -> Rows:
    """The rows of some texts below each other; `numbers` are what the texts are called, else they count from 0."""
    lengths = [length(text) for text in texts]
    tokens: list[str | None] = []
    for text, count in zip(texts, lengths, strict=True):
        tokens += [intern(token.display) for token in text.tokens] or [None] * count
    position = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in lengths)])
    bos = np.repeat([text.bos_included for text in texts], lengths).astype(np.bool_)
    return Rows(
        text=np.repeat(np.asarray(range(len(texts)) if numbers is None else numbers, np.int64), lengths),
        position=position,
        token=np.array([*tokens, None], object)[:-1],  # whatever the tokens, an array of them and of nothing else
        is_bos=bos & (position == 0),
    )


def wide(texts: Sequence[EncodedText]) -> Floats:
    """[rows, features]; of texts with chosen features."""
    return np.concatenate([text.dense for text in texts if text.dense is not None])


def long(texts: Sequence[EncodedText]) -> Long:
    """What fires on texts of whole sources; of neurons, what is not 0."""
    starts = np.cumsum([0, *(length(text) for text in texts)])
    found: list[tuple[Integers, str, Integers, Floats]] = []
    for start, text in zip(starts, texts, strict=False):
        for source, csr in text.sparse.items():
            row = start + np.repeat(np.arange(len(csr)), np.diff(csr.indptr))
            found.append((row, source, csr.indices.astype(np.int64), csr.data))
        for source, values in text.neurons.items():
            row, index = np.nonzero(values)
            found.append((start + row, source, index.astype(np.int64), values[row, index]))
    if not found:
        nothing = np.zeros(0, np.int64)
        return Long(nothing, np.zeros(0, object), np.zeros(0, object), nothing, np.zeros(0, np.float32))
    row = np.concatenate([part[0] for part in found])
    order = np.argsort(row, kind="stable")
    sources = np.concatenate([np.full(len(part[0]), part[1], object) for part in found])
    names = np.concatenate([_names(part[1], part[2]) for part in found])
    return Long(
        row=row[order],
        feature=names[order],
        source=sources[order],
        index=np.concatenate([part[2] for part in found])[order],
        activation=np.concatenate([part[3] for part in found])[order],
    )


def _names(source: str, index: Integers) -> npt.NDArray[Any]:
    """[entries]; each name is made once."""
    kinds, which = np.unique(index, return_inverse=True)
    return np.array([*(f"{source.upper()}:{one}" for one in kinds), None], object)[which]
