"""Activations of a whole set of texts as one SciPy matrix, with the names of its rows and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from saeserve.answers.activations import Csr, Floats, Integers
from saeserve.answers.names import FeatureLike, FeatureName
from saeserve.answers.results import EncodedText, EncodeResult, StreamItem
from saeserve.answers.wording import counted
from saeserve.arguments import extras
from saeserve.tables.activations import Rows, length, rows

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FeatureMatrix:
    """Tokens × features, without projections. Row r of `csr`, which scikit-learn takes, is token `position[r]` of text
    `text[r]`."""

    csr: csr_array
    """[tokens of all texts, features], float32."""
    text: Integers
    """[tokens]; which text: its place among those given, or its `sequence` in a stream. Ascending."""
    position: Integers
    """[tokens]; which of the text's rows, from 0, a BOS among them."""
    token: npt.NDArray[Any]
    """[tokens]; what is displayed; None with `omit_tokens`."""
    is_bos: npt.NDArray[np.bool_]
    """[tokens]; whether it is a BOS, where those were asked for."""
    blocks: tuple[tuple[str, int], ...]
    """The columns from left to right: sources and how many features each has. Empty for chosen features."""
    chosen: tuple[FeatureName, ...]
    """The columns, where features were chosen."""

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens of all texts, features)."""
        return len(self.text), len(self.chosen) or sum(width for _, width in self.blocks)

    @property
    def texts(self) -> Integers:
        """[texts]; the texts that have rows, ascending: the rows of `by_text`."""
        return np.unique(self.text)

    @property
    def names(self) -> npt.NDArray[np.str_]:
        """[features]; the columns' names, made anew each time: `0-DEMO:1633`."""
        named = [f"{source.upper()}:{index}" for source, width in self.blocks for index in range(width)]
        return np.array(named or [str(name) for name in self.chosen], np.str_)

    def feature(self, column: int) -> FeatureName:
        """The name of a column, which counts from the end if it is negative. Raises IndexError."""
        column = range(self.shape[1])[column]
        if self.chosen:
            return self.chosen[column]
        for source, width in self.blocks:
            if column < width:
                return FeatureName(source, column)
            column -= width
        raise IndexError(column)

    def column(self, feature: FeatureLike) -> int:
        """Which column a feature has. Raises KeyError for one that has none."""
        name = FeatureName.of(feature)
        if name in self.chosen:
            return self.chosen.index(name)
        start = 0
        for source, width in self.blocks:
            if source == name.source and name.index < width:
                return start + name.index
            start += width
        raise KeyError(str(name))

    def by_text(self, how: Literal["max", "mean", "sum"] = "max") -> csr_array:
        """[texts, features]; one row for each of `texts`, BOS left out: what a probe on whole texts takes.

        how: the largest activation over the text's tokens, their mean, or their sum. Raises ValueError for another.
        """
        if how not in ("max", "mean", "sum"):
            raise ValueError(f"how {how!r} is none of max, mean and sum")
        sparse = extras.load("scipy.sparse", "by_text()", "SciPy", "scipy")
        texts, number = np.unique(self.text, return_inverse=True)
        kept = ~self.is_bos
        tokens = np.bincount(number[kept], minlength=len(texts))
        entries = self.csr.tocoo()
        inside = kept[entries.row]
        key = number[entries.row[inside]].astype(np.int64) * self.shape[1] + entries.col[inside]
        order = np.argsort(key, kind="stable")
        cells, starts, counts = np.unique(key[order], return_index=True, return_counts=True)
        row, column = np.divmod(cells, max(1, self.shape[1]))
        pooled: Floats = np.zeros(0, np.float32)
        if len(cells):
            data = entries.data[inside][order]
            pooled = np.maximum.reduceat(data, starts) if how == "max" else np.add.reduceat(data, starts)
        if how == "max":  # the tokens without an entry have 0, which is more than a neuron's negative value
            pooled = np.where(counts < tokens[row], np.maximum(pooled, 0), pooled)
        elif how == "mean":
            pooled = np.divide(pooled, tokens[row], dtype=np.float32)
        made: csr_array = sparse.csr_array((pooled, (row, column)), shape=(len(texts), self.shape[1]))
        made.eliminate_zeros()
        return made

    def __repr__(self) -> str:
        tokens, features = self.shape
        size = f"{counted(tokens, 'token')} × {counted(features, 'feature')}"
        return f"<FeatureMatrix {size} of {counted(len(self.texts), 'text')}, {counted(self.csr.nnz, 'value')}>"


def of_answer(encoded: EncodeResult) -> FeatureMatrix:
    """All texts of an answer. Raises ImportError without SciPy."""
    return _matrix(list(range(len(encoded))), list(encoded.texts))


def collect(items: Iterable[StreamItem], *, skip_errors: bool = False) -> FeatureMatrix:
    """What an `encode_stream` yields, as one matrix, the texts in the order of their `sequence`.

    items: a stream's items, in any order; of `AsyncClient` a list of them: `[item async for item in stream]`.
    skip_errors: leave out texts that could not be encoded, instead of raising the first one's error.

    All activations are held in memory: 8 bytes for each that is not 0. Raises the error of an item; ValueError for
    nothing at all, or items of streams that were asked for different features; ImportError without SciPy.
    """
    extras.load("scipy.sparse", "collect()", "SciPy", "scipy")  # before a long stream is read
    found = {item.sequence: item.unwrap() for item in items if not (skip_errors and item.error is not None)}
    if not found:
        raise ValueError("items holds no text that was encoded: there is no telling how many columns there are")
    numbers = sorted(found)
    return _matrix(numbers, [found[number] for number in numbers])


def _matrix(numbers: Sequence[int], texts: Sequence[EncodedText]) -> FeatureMatrix:
    sparse = extras.load("scipy.sparse", "to_scipy()", "SciPy", "scipy")
    where: Rows = rows(texts, numbers)
    blocks: tuple[tuple[str, int], ...] = ()
    chosen = texts[0].features
    if any(text.features != chosen or tuple(text.sparse) != tuple(texts[0].sparse) for text in texts):
        raise ValueError("items of streams that were asked for different features fit no common matrix")
    if texts[0].dense is not None:  # projections, which behind them have columns too, are no features
        dense = [text.dense[:, : len(chosen)] for text in texts if text.dense is not None]
        csr = sparse.csr_array(np.concatenate(dense))
    else:
        parts = {source: [text.sparse[source] for text in texts] for source in texts[0].sparse}
        found = [(source, _scipy(sparse, Csr.concatenate(block))) for source, block in parts.items()]
        for source in texts[0].neurons:
            values: Floats = np.concatenate([text.neurons[source] for text in texts])
            found.append((source, sparse.csr_array(values)))
        blocks = tuple((source, block.shape[1]) for source, block in found)
        csr = found[0][1] if len(found) == 1 else sparse.hstack([block for _, block in found], format="csr")
    if csr.shape[0] != sum(length(text) for text in texts):
        raise ValueError(f"{csr.shape[0]} rows for {len(where.text)} tokens")
    return FeatureMatrix(
        csr=csr,
        text=where.text,
        position=where.position,
        token=where.token,
        is_bos=where.is_bos,
        blocks=blocks,
        chosen=chosen,
    )


def _scipy(sparse: Any, csr: Csr) -> Any:
    return sparse.csr_array((csr.data, csr.indices, csr.indptr), shape=csr.shape)
