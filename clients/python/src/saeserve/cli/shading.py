"""A text's tokens, shaded by how strongly a feature fires on them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from saeserve.answers.stretches import Stretch
from saeserve.answers.stretches import stretches as stretches
from saeserve.answers.types import Token
from saeserve.cli.printing import printable

# Black on these, from weak to strong: legible on dark and on light terminals.
_PALE, _STRONG = (255, 243, 205), (240, 100, 20)
_LEVELS = 8


def shaded(shown: Sequence[Stretch], scale: float, *, color: bool) -> Text:
    """The text with backgrounds from 0 to `scale`; without colour the peak in «...» instead."""
    text = Text()
    for stretch in shown:
        if color:
            text.append(stretch.text, _style(stretch.activation, scale, stretch.is_peak))
        elif stretch.is_peak:
            # A leading space stays outside, where it parts the words.
            word = stretch.text.lstrip(" ")
            lead = stretch.text[: len(stretch.text) - len(word)]
            text.append(f"{lead}«{word}»" if word else f"«{stretch.text}»")
        else:
            text.append(stretch.text)
    return text


def _style(activation: float, scale: float, peak: bool) -> str:
    if activation <= 0 or scale <= 0:
        return ""
    level = max(1, min(_LEVELS, round(_LEVELS * activation / scale))) / _LEVELS
    red, green, blue = (round(pale + (strong - pale) * level) for pale, strong in zip(_PALE, _STRONG, strict=True))
    return f"{'bold ' if peak else ''}rgb(0,0,0) on rgb({red},{green},{blue})"


def label(token: Token, width: int | None = None) -> str:
    """A token in a column: a leading space is written as ·, so that ` red` and `red` can be told apart."""
    shown = printable(token.display)
    word = shown.lstrip(" ")
    return fit("·" * (len(shown) - len(word)) + word, width)


def fit(text: str, width: int | None) -> str:
    """The text in at most `width` cells, with … where it was cut."""
    if width is None or cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1).rstrip() + "…"


def column(text: str, width: int, *, right: bool = False) -> str:
    """The text in exactly `width` cells."""
    text = fit(text, width)
    padding = " " * (width - cell_len(text))
    return padding + text if right else text + padding


def around(shown: Sequence[Stretch], cells: int) -> tuple[int, int]:
    """The part round the peak, or from the beginning without one, that fits into so many cells, as start and end."""
    widths = [cell_len(stretch.text) for stretch in shown]
    if sum(widths) <= cells:
        return 0, len(shown)
    peak = next((place for place, stretch in enumerate(shown) if stretch.is_peak), 0)
    start, end, used = peak, peak + 1, widths[peak] + 4  # the ellipses, and the marks round the peak
    while True:
        grew = False
        if start > 0 and used + widths[start - 1] <= cells:
            start, used, grew = start - 1, used + widths[start - 1], True
        if end < len(shown) and used + widths[end] <= cells:
            used, end, grew = used + widths[end], end + 1, True
        if not grew:
            return start, end
