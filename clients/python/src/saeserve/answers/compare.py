"""Variants of a text side by side: how strongly features fire on each token, tokens aligned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from saeserve.answers.activations import Floats
from saeserve.answers.names import FeatureLike, FeatureName
from saeserve.answers.results import EncodedText, EncodeResult
from saeserve.answers.seen import Brief, HeatMap, Tabular
from saeserve.answers.types import CallInfo, Token
from saeserve.arguments.printable import printable

Row: TypeAlias = tuple[int | None, ...]
"""For each text which of its tokens stands here; None where it has none."""


@dataclass(frozen=True, slots=True, repr=False)
class Peak(Brief):
    """Where a feature fires most on one text."""

    activation: float
    """0 where it does not fire."""
    position: int | None
    """Which token; None where it does not fire."""
    token: Token | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Comparison(Tabular, HeatMap):
    """Features on several texts, token by token. Iterating gives the features; `print` gives a table for each."""

    call_info: CallInfo
    features: tuple[FeatureName, ...]
    texts: tuple[EncodedText, ...]
    """The texts in the order given; `dense` of each is [tokens, features]."""
    rows: tuple[Row, ...]
    """The texts' tokens aligned with those of the first text: every token of every text in one row, in order."""

    def __iter__(self) -> Iterator[FeatureName]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def activations(self, feature: FeatureLike) -> Floats:
        """[rows, texts] a feature's activations, aligned; NaN where a text has no token. Raises KeyError."""
        column = self._column(feature)
        table = np.full((len(self.rows), len(self.texts)), np.nan, np.float32)
        for text, values in enumerate(column):
            rows = [row for row, places in enumerate(self.rows) if places[text] is not None]
            table[rows, text] = values
        return table

    def peaks(self, feature: FeatureLike) -> tuple[Peak, ...]:
        """For each text where the feature fires most. Raises KeyError for a feature that was not asked for."""
        found = []
        for values, text in zip(self._column(feature), self.texts, strict=True):
            place = int(np.argmax(values)) if len(values) else 0
            fires = len(values) > 0 and values[place] > 0
            found.append(Peak(float(values[place]), place, text.tokens[place]) if fires else Peak(0.0, None, None))
        return tuple(found)

    def differs(self, row: int) -> bool:
        """Whether the texts differ in a row: in the token, or in whether there is one."""
        return len({self.token(row, text) for text in range(len(self.texts))}) > 1

    def token(self, row: int, text: int) -> bytes | None:
        """The piece of the token of a text that stands in a row; None where there is none."""
        place = self.rows[row][text]
        return None if place is None else self.texts[text].tokens[place].piece

    def as_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes: tokens by row, and for each feature activations by row and the peaks."""
        return {
            "texts": ["".join(token.display for token in text.tokens) for text in self.texts],
            "truncated": [text.truncated for text in self.texts],
            "rows": [
                {
                    "tokens": [None if p is None else self.texts[t].tokens[p].display for t, p in enumerate(places)],
                    "positions": list(places),
                    "differs": self.differs(row),
                }
                for row, places in enumerate(self.rows)
            ],
            "features": [self._feature_dict(feature) for feature in self.features],
        }

    def _feature_dict(self, feature: FeatureName) -> dict[str, Any]:
        table = self.activations(feature)
        return {
            "feature": str(feature),
            "activations": [[None if np.isnan(value) else _short(value) for value in row] for row in table],
            "peaks": [
                {
                    "activation": _short(np.float32(peak.activation)),
                    "position": peak.position,
                    "token": None if peak.token is None else peak.token.display,
                }
                for peak in self.peaks(feature)
            ],
        }

    def _column(self, feature: FeatureLike) -> list[Floats]:
        name = FeatureName.of(feature)
        if name not in self.features:
            raise KeyError(str(name))
        place = self.features.index(name)
        return [text.dense[:, place] for text in self.texts if text.dense is not None]

    def __str__(self) -> str:
        """A table for each feature: its peak on each text, then the rows; `*` marks those in which the texts differ."""
        return "\n\n".join("\n".join(self._table(feature)) for feature in self.features)

    def _table(self, feature: FeatureName) -> list[str]:
        lines = [str(feature)]
        for text, peak in enumerate(self.peaks(feature)):
            on = "does not fire" if peak.token is None else f"max {peak.activation:.3f} on {shown(peak.token)}"
            lines.append(f"  {letter(text)}  {on}")
        table = self.activations(feature)
        cells = [
            [
                "" if place is None else f"{shown(self.texts[text].tokens[place])} {table[row, text]:.3f}"
                for text, place in enumerate(places)
            ]
            for row, places in enumerate(self.rows)
        ]
        widths = [max(1, *(len(line[text]) for line in cells)) for text in range(len(self.texts))]
        head = "  ".join(f"{letter(text):<{width}}" for text, width in enumerate(widths))
        lines.append(f"     {head}".rstrip())
        for row, line in enumerate(cells):
            mark = "*" if self.differs(row) else " "
            padded = "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
            lines.append(f"   {mark} {padded}".rstrip())
        return lines


def compare(answer: EncodeResult) -> Comparison:
    """The texts of an answer with chosen features, aligned."""
    if answer.dense is None:
        raise ValueError("an answer without dense activations")
    pieces = [[token.piece for token in text.tokens] for text in answer.texts]
    return Comparison(
        call_info=answer.call_info, features=answer.features, texts=answer.texts, rows=tuple(align(pieces))
    )


def align(texts: Sequence[Sequence[bytes]]) -> list[Row]:
    """Rows that hold every token of every text once, in order. Each text is aligned with the first, by difflib; what
    has nothing opposite there stands in rows of its own, which the texts share."""
    first = texts[0]
    opposite = [list[int | None](range(len(first)))]
    between: list[list[list[int]]] = [[[] for _ in range(len(first) + 1)]]
    for text in texts[1:]:
        own: list[int | None] = [None] * len(first)
        more: list[list[int]] = [[] for _ in range(len(first) + 1)]
        for _, begin, end, start, stop in SequenceMatcher(None, first, text, autojunk=False).get_opcodes():
            both = min(end - begin, stop - start)
            own[begin : begin + both] = range(start, start + both)
            more[begin + both].extend(range(start + both, stop))
        opposite.append(own)
        between.append(more)
    rows: list[Row] = []
    for place in range(len(first) + 1):
        for number in range(max(len(more[place]) for more in between)):
            rows.append(tuple(more[place][number] if number < len(more[place]) else None for more in between))
        if place < len(first):
            rows.append(tuple(own[place] for own in opposite))
    return rows


def letter(text: int) -> str:
    """What a text is called in a table: A to Z, then A1 and so on."""
    return chr(ord("A") + text % 26) + (str(text // 26) if text >= 26 else "")


def shown(token: Token) -> str:
    """A token in a cell: a leading space is written as ·."""
    text = printable(token.display)
    word = text.lstrip(" ")
    return "·" * (len(text) - len(word)) + word


def _short(value: npt.NDArray[np.float32] | np.float32) -> float:
    """A float32 by its shortest form."""
    return float(str(value))
