"""Tokens shaded by activation: translucent colours under the page's own text, so that light and dark both read.

The colours stand in the elements themselves: where a page takes style sheets away, the shades stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.answers.activations import Floats
from saeserve.answers.compare import shown
from saeserve.answers.stretches import Stretch, stretches, whole_characters
from saeserve.answers.types import Token
from saeserve.answers.wording import counted, number
from saeserve.notebook.markup import Html, escaped, isolated, joined, tag

# One hexadecimal digit of opacity. Stronger than a, white text on a dark page is no longer 4.5 times as bright.
_POSITIVE, _NEGATIVE = "#e62", "#48f"
_WEAKEST, _STRONGEST = 2, 10
_LABEL = 24
"""Characters of a token in a column."""
WINDOW = 48
"""Of a longer text so many tokens are shown, round the peak."""


def shade(value: float, scale: float) -> str:
    """The style of what has a value, of which `scale` is the largest; empty for 0. Negative values are blue."""
    if not value or not scale > 0 or value != value:
        return ""
    level = min(1.0, abs(value) / scale)
    opacity = round(_WEAKEST + (_STRONGEST - _WEAKEST) * level)
    return f"background:{_POSITIVE if value > 0 else _NEGATIVE}{opacity:x}"


def tokens(
    tokens: Sequence[Token], activations: Floats, scale: float, peak: int | None, *, window: int = WINDOW
) -> Html:
    """The text, its values on hover, the peak bold; of a long one what stands round the peak, and how much does not."""
    middle = 0 if peak is None else peak
    start = max(0, min(middle - window // 2, len(tokens) - window))
    start, end = whole_characters(tokens, start, min(len(tokens), start + window))
    inside = None if peak is None else peak - start
    parts = stretches(tokens[start:end], activations[start:end], inside)
    return joined(
        [
            _left_out(start, "{} before … "),
            isolated(_shaded(parts, scale), class_="t"),
            _left_out(len(tokens) - end, " … {} more"),
        ]
    )


def _left_out(count: int, words: str) -> Html:
    return tag("span", words.format(counted(count, "token")), class_="d") if count else Html()


def _shaded(parts: Sequence[Stretch], scale: float) -> Html:
    shown = []
    for part in parts:
        style = shade(part.activation, scale)
        name = "b" if part.is_peak else "span"
        shown.append(tag(name, part.text, title=number(part.activation), style=style) if style else escaped(part.text))
    return joined(shown)


def label(token: Token, **attributes: str) -> Html:
    """A token in a column: a leading space is written as ·, and what is long is cut."""
    return isolated(cut(shown(token), _LABEL), **attributes)


def cut(text: str, most: int) -> str:
    """At most so many characters, the last … where there were more."""
    return text if len(text) <= most else text[: most - 1] + "…"
