"""Encoded texts in a notebook, and variants of a text side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from saeserve.answers.activations import Floats
from saeserve.answers.compare import Comparison, letter
from saeserve.answers.names import FeatureLike
from saeserve.answers.results import EncodedText, EncodeResult, StreamItem
from saeserve.answers.wording import counted, number
from saeserve.notebook import shading
from saeserve.notebook.markup import Html, isolated, joined, tag
from saeserve.notebook.page import first, note, page, table

_ROWS = 40
_STRONGEST = 5
"""Of a whole source so many features are drawn, for each text."""
_COLUMNS = 60
"""Aligned tokens of a comparison."""
_VARIANTS = 12
_FEATURES = 10
_AROUND = 2
"""Tokens drawn either side of one in which variants differ, or on which the feature fires."""


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    feature: str
    number: int
    text: EncodedText
    activations: Floats
    projected: bool = False
    """Whether it is a projection, whose values have either sign; what is not fires where it is above 0."""

    @property
    def begin(self) -> int:
        """The row behind the BOS, which is drawn, and otherwise left out: it would outdo the text."""
        return int(self.text.bos_included)

    @property
    def peak(self) -> int | None:
        """The row that has the largest value; None where the feature does not fire."""
        if len(self.activations) <= self.begin:
            return None
        place = self.begin + int(np.argmax(self.activations[self.begin :]))
        return place if self.projected or self.activations[place] > 0 else None


def result(encoded: EncodeResult) -> str:
    """Chosen features one below the other, for each the texts; of whole sources the strongest features of each text."""
    return page(*_texts(encoded.texts, list(range(len(encoded)))))


def text(encoded: EncodedText) -> str:
    return page(*_texts([encoded], [0]))


def item(one: StreamItem) -> str:
    """Its result, or why there is none."""
    if one.error is not None:
        return page(tag("p", f"text {one.sequence} was not encoded: ", isolated(str(one.error)[:1000])))
    return page(*(_texts([one.result], [one.sequence]) if one.result is not None else []))


def _texts(texts: Sequence[EncodedText], numbers: Sequence[int]) -> Iterator[Html]:
    columns = texts[0].columns if texts else ()
    left = 0
    if columns:
        lines = [
            _Line(name, number_, one, one.dense[:, place], projected=place >= len(one.features))
            for place, name in enumerate(columns)
            for number_, one in zip(numbers, texts, strict=True)
            if one.dense is not None
        ]
    else:
        lines, drawn = [], 0
        while drawn < len(texts) and len(lines) < _ROWS:
            lines += _strongest(numbers[drawn], texts[drawn])
            drawn += 1
        left = len(texts) - drawn
        values = sum(csr.nnz for one in texts for csr in one.sparse.values())
        rows = sum(len(next(iter(one.sparse.values()), one.tokens)) for one in texts)
        yield note(f"{counted(values, 'value')} above 0 on {counted(rows, 'token')}; the strongest of each text:")
    scales = {line.feature: 0.0 for line in lines}
    for line in lines:
        scales[line.feature] = max(scales[line.feature], _largest(line.activations[line.begin :]))
    yield first(lines, _ROWS, "line", lambda some: _lines(some, scales))
    if left:
        yield note(f"{counted(left, 'text')} more not shown here")
    if any(one.truncated for one in texts):
        yield note("texts were cut to the token limit: see `truncated` of each")


def _largest(values: Floats) -> float:
    """Whatever its sign; NaN counts for nothing."""
    return float(np.nanmax(np.abs(values), initial=0))


def _strongest(number_: int, one: EncodedText) -> Iterator[_Line]:
    for source, csr in one.sparse.items():
        largest = np.zeros(csr.shape[1], np.float32)
        skip = int(csr.indptr[int(one.bos_included)]) if len(csr) > one.bos_included else 0
        np.maximum.at(largest, csr.indices[skip:], csr.data[skip:])
        for index in np.argsort(-largest, kind="stable")[:_STRONGEST]:
            if largest[index] > 0:
                yield _Line(f"{source.upper()}:{index}", number_, one, csr.column(int(index)))
    for source, values in one.neurons.items():
        for index in np.argsort(-values[int(one.bos_included) :].max(axis=0, initial=0), kind="stable")[:_STRONGEST]:
            yield _Line(f"{source.upper()}:{index}", number_, one, values[:, index])


def _lines(lines: Sequence[_Line], scales: dict[str, float]) -> Html:
    rows = []
    for line in lines:
        peak = line.peak
        named = bool(line.text.tokens)
        on: object = "-" if peak is None else shading.label(line.text.tokens[peak]) if named else f"token {peak}"
        shaded = shading.tokens(line.text.tokens, line.activations, scales[line.feature], peak) if named else Html()
        largest = 0.0 if peak is None else float(line.activations[peak])
        rows.append([isolated(line.feature), line.number, number(largest), on, shaded])
    return table(["feature", "text", "max", "on", "tokens"], rows, right=["text", "max"], wide="tokens")


def comparison(compared: Comparison) -> str:
    """For each feature the texts below each other, token under token; a line marks tokens in which they differ."""
    drawn = first(
        compared.features, _FEATURES, "feature", lambda some: joined([_compared(compared, name) for name in some])
    )
    cut = [letter(place) for place, one in enumerate(compared.texts) if one.truncated]
    return page(drawn, note(f"cut to the token limit: {', '.join(cut)}" if cut else ""))


def _compared(compared: Comparison, name: FeatureLike) -> Html:
    values = compared.activations(name)
    scale = _largest(values)
    differs = [compared.differs(row) for row in range(len(compared.rows))]
    told = [row for row in range(len(differs)) if differs[row] or np.nanmax(values[row]) > 0]
    near = sorted(
        {place for row in told for place in range(row - _AROUND, row + _AROUND + 1)} & set(range(len(differs)))
    )
    left = len(near) - _COLUMNS
    near = near[:_COLUMNS]
    gaps = {row for before, row in zip([-1, *near], near, strict=False) if row > before + 1}
    lines = []
    variants = list(zip(compared.texts, compared.peaks(name), strict=True))
    for place, (one, peak) in enumerate(variants[:_VARIANTS]):
        cells = [tag("th", letter(place), scope="row"), tag("td", number(peak.activation), class_="n")]
        for row in near:
            position = compared.rows[row][place]
            cells += [tag("td", "…")] if row in gaps else []
            kind = "x" if differs[row] else ""
            if position is None:
                cells.append(tag("td", class_=kind))
                continue
            value = float(values[row, place])
            token = shading.label(one.tokens[position])
            cells.append(tag("td", token, class_=kind, title=number(value), style=shading.shade(value, scale)))
        lines.append(tag("tr", *cells))
    counts = [(left, "token"), (len(variants) - _VARIANTS, "text")]
    more = [note(f"{counted(count, what)} more not shown here") for count, what in counts if count > 0]
    return joined([tag("p", tag("b", isolated(name))), tag("table", tag("tbody", *lines)), *more])
