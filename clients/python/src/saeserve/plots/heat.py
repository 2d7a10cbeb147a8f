"""Heat maps: features from above, tokens from left to right, their activation as colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np

from saeserve.answers.activations import Floats
from saeserve.answers.compare import Comparison, letter, shown
from saeserve.answers.results import EncodedText, EncodeResult, SearchResult
from saeserve.answers.types import Token
from saeserve.arguments.numbers import number
from saeserve.plots.axes import axes, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST = 20
"""Characters of a token."""


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    features: list[str]
    tokens: list[str]
    values: Floats
    """[features, tokens]; NaN where unknown."""
    starts: list[int] = field(default_factory=list)
    """Where the second text begins, the third…"""
    bos: list[int] = field(default_factory=list)
    """Columns of BOS tokens: often so large that beside them a text would have no colour."""
    what: str = "activation"

    @property
    def largest(self) -> float:
        """Of all texts, whatever the sign."""
        return float(np.nanmax(np.abs(np.delete(self.values, self.bos, axis=1)), initial=0)) or 1.0


def heat_map(answer: Any, limit: int, ax: Axes | None) -> Axes:
    """The strongest `limit` features of an answer. Raises ValueError for an answer without a feature or a token."""
    limit = number(limit, "limit: the number of features drawn", least=1)
    drawn = _parts(answer, limit)
    values, names, tokens = drawn.values, drawn.features, drawn.tokens
    if not names or not tokens:
        raise ValueError("there is nothing to draw: no feature fires, or the answer has no tokens (omit_tokens)")
    panel = axes(ax, min(16, 3 + 0.28 * len(tokens)), min(14, 1.8 + 0.24 * len(names)))
    largest = drawn.largest
    signed = bool(np.nanmin(values, initial=0) < 0)
    image = panel.imshow(
        np.ma.masked_invalid(values),
        aspect="auto",
        interpolation="nearest",
        cmap="RdBu_r" if signed else "Oranges",
        vmin=-largest if signed else 0.0,
        vmax=largest,
    )
    for start in drawn.starts:
        panel.axvline(start - 0.5, color="gray", linewidth=1)
    label(panel, tokens, names)
    beyond = bool(np.nanmax(np.abs(values), initial=0) > largest)
    extend = "neither" if not beyond else "both" if signed else "max"
    panel.figure.colorbar(image, ax=panel, label=drawn.what, extend=extend)
    return panel


@singledispatch
def _parts(answer: Any, limit: int) -> _Parts:
    """What is drawn of an answer."""
    raise TypeError(f"{type(answer).__name__} has no heat map")


@_parts.register
def _(found: SearchResult, limit: int) -> _Parts:
    tokens = _labels(found.tokens)
    begin = int(found.bos_included)
    bos = [0] * begin
    if not found.token_results:
        hits = found.results[:limit]
        values = np.array([hit.activations for hit in hits], np.float32).reshape(len(hits), len(tokens))
        return _Parts([str(hit.name) for hit in hits], tokens, values, bos=bos)
    known: dict[str, Floats] = {}
    for row in found.token_results:
        for feature, value in zip(row.features, row.values, strict=True):
            known.setdefault(str(feature), np.full(len(tokens), np.nan, np.float32))[row.position] = value
    strongest = sorted(known, key=lambda name: -float(np.nanmax(known[name][begin:], initial=0)))[:limit]
    # By what it ranked, activations or shares or bits, the answer does not say.
    values = np.array([known[name] for name in strongest], np.float32)
    return _Parts(strongest, tokens, values, bos=bos, what="value")


@_parts.register
def _(encoded: EncodeResult, limit: int) -> _Parts:
    return _encoded(encoded.texts, limit)


@_parts.register
def _(encoded: EncodedText, limit: int) -> _Parts:
    return _encoded([encoded], limit)


def _encoded(texts: Sequence[EncodedText], limit: int) -> _Parts:
    """Chosen features in their order, at most `limit`; of whole sources those with the largest activations."""
    tokens = [name for text in texts for name in _labels(text.tokens)]
    ends = np.cumsum([0, *(len(text.tokens) for text in texts)]).tolist()
    starts = ends[1:-1]
    begins = [int(text.bos_included) for text in texts]
    bos = [start for start, begin in zip(ends, begins, strict=False) if begin]
    if texts[0].dense is not None:
        chosen = np.concatenate([text.dense[:, :limit] for text in texts if text.dense is not None]).T
        return _Parts(list(texts[0].columns[:limit]), tokens, chosen, starts, bos)
    found: list[tuple[float, str, Floats]] = []
    for source in texts[0].sparse:
        blocks = [text.sparse[source] for text in texts]
        largest = np.zeros(blocks[0].shape[1], np.float32)
        for block, begin in zip(blocks, begins, strict=True):
            first = block.indptr[min(begin, len(block))]
            np.maximum.at(largest, block.indices[first:], block.data[first:])
        for index in np.argsort(-largest, kind="stable")[:limit]:
            if largest[index] > 0:
                column = np.concatenate([block.column(int(index)) for block in blocks])
                found.append((float(largest[index]), f"{source.upper()}:{index}", column))
    for source in texts[0].neurons:
        whole = np.concatenate([text.neurons[source] for text in texts])
        peaks = np.delete(whole, bos, axis=0).max(axis=0, initial=0)
        for index in np.argsort(-peaks, kind="stable")[:limit]:
            found.append((float(peaks[index]), f"{source.upper()}:{index}", whole[:, index]))
    found = sorted(found, key=lambda one: -one[0])[:limit]
    values = np.array([values for *_, values in found], np.float32)
    return _Parts([name for _, name, _ in found], tokens, values, starts, bos)


@_parts.register
def _(comparison: Comparison, limit: int) -> _Parts:
    """A row for each feature and text, tokens aligned; where texts differ the tokens of all of them are named."""
    tokens = []
    for places in comparison.rows:
        there = [comparison.texts[text].tokens[place] for text, place in enumerate(places) if place is not None]
        tokens.append("/".join(dict.fromkeys(_labels(there))))
    features = comparison.features[:limit]
    names = [f"{feature} {letter(text)}" for feature in features for text in range(len(comparison.texts))]
    values = [comparison.activations(feature).T for feature in features]
    return _Parts(names, tokens, np.concatenate(values) if values else np.zeros((0, 0), np.float32))


def _labels(tokens: Sequence[Token]) -> list[str]:
    texts = [shown(token) for token in tokens]
    return [text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…" for text in texts]
