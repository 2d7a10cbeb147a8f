"""What `saeserve compare` draws."""

from __future__ import annotations

from saeserve.answers.compare import Comparison, letter, shown
from saeserve.answers.names import FeatureName
from saeserve.cli.screen import Screen, number
from saeserve.cli.shading import fit

_ON = 12
_TOKEN = 16
_AROUND = 2
"""Rows told either side of one in which the texts differ or the feature fires, without --full."""


def compare(result: Comparison, screen: Screen, *, full: bool) -> None:
    """For each feature its peak on each text, then the aligned tokens; * marks rows in which the texts differ."""
    for place, feature in enumerate(result):
        if place:
            screen.line()
        _feature(result, feature, screen, full)
    for number_, one in enumerate(result.texts):
        if one.truncated:
            screen.wrapped(f"text {letter(number_)} was cut to the token limit", "dim")


def _feature(result: Comparison, feature: FeatureName, screen: Screen, full: bool) -> None:
    screen.line(str(feature), "bold")
    screen.line(f"      {'max':>8}  {'on':<{_ON}}  text", "bold")
    peaks = result.peaks(feature)
    scale = max(peak.activation for peak in peaks)
    for text_, (peak, one) in enumerate(zip(peaks, result.texts, strict=True)):
        on = "-" if peak.token is None else fit(shown(peak.token), _ON)
        prefix = f"   {letter(text_):>2} {number(peak.activation):>8}  {on:<{_ON}}  "
        place = result.features.index(feature)
        if one.dense is not None:
            screen.tokens(one.tokens, one.dense[:, place], scale, peak.position, prefix=prefix)
    table = result.activations(feature)
    told = [
        row for row in range(len(result.rows)) if full or result.differs(row) or any(value > 0 for value in table[row])
    ]
    near = sorted({near for row in told for near in range(row - _AROUND, row + _AROUND + 1)} & set(range(len(table))))
    header = ["", *(label for text_ in range(len(result.texts)) for label in (letter(text_), ""))]
    lines = []
    before = -1
    for row in near:
        if row > before + 1:
            lines.append(["…", *[""] * (len(header) - 1)])
        before = row
        cells = ["*" if result.differs(row) else ""]
        for text_, position in enumerate(result.rows[row]):
            token = None if position is None else result.texts[text_].tokens[position]
            cells += ["", ""] if token is None else [fit(shown(token), _TOKEN), _value(float(table[row, text_]))]
        lines.append(cells)
    if near and before + 1 < len(table):
        lines.append(["…", *[""] * (len(header) - 1)])
    screen.table(header, lines, right=tuple(range(2, len(header), 2)))


def _value(activation: float) -> str:
    return number(activation) if activation else "."
