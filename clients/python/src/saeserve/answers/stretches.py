"""A text's tokens as they are shown: those that share a character together, each stretch with its activation."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from saeserve.answers.activations import Floats
from saeserve.answers.types import Token
from saeserve.arguments.printable import printable

_BYTES = 4
"""Of a character, at most."""
_LATER = {bytes([byte]) for byte in range(0x80, 0xC0)}
"""Its bytes in UTF-8 that are not the first."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is shown as one: a token, or tokens that share a character."""

    text: str
    """Printable: control characters come escaped (`\\n`), so that nothing is hidden and lines stay lines."""
    activation: float
    """The largest of the tokens'."""
    is_peak: bool
    """Whether the peak is among the tokens."""


def stretches(tokens: Sequence[Token], activations: Floats, peak: int | None) -> list[Stretch]:
    """The tokens as they are shown, those that share a character joined. What is no character stays as displayed."""
    shown = []
    first = 0
    for count, text in characters(tokens):
        part = range(first, first + count)
        shown.append(Stretch(text, max(float(activations[place]) for place in part), peak is not None and peak in part))
        first += count
    return shown


def whole_characters(tokens: Sequence[Token], start: int, end: int) -> tuple[int, int]:
    """The range of tokens, made larger where it begins or ends within a character that tokens share."""
    first = next((at for at in range(start, max(-1, start - _BYTES), -1) if not _goes_on(tokens, at)), start)
    last = next((at for at in range(end, min(len(tokens) + 1, end + _BYTES)) if not _goes_on(tokens, at)), end)
    return first, last


def _goes_on(tokens: Sequence[Token], place: int) -> bool:
    """Whether a token begins within a character."""
    return 0 < place < len(tokens) and tokens[place].piece[:1] in _LATER


def characters(tokens: Sequence[Token]) -> Iterator[tuple[int, str]]:
    """How many tokens are shown together, and as what."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    waiting: list[Token] = []  # they end within a character
    text = ""
    for token in tokens:
        try:
            text += decoder.decode(token.piece)
        except UnicodeDecodeError:  # not the rest of that character: perhaps the beginning of another
            yield from ((1, printable(one.display)) for one in waiting)
            waiting, text = [], ""
            decoder.reset()
            try:
                text = decoder.decode(token.piece)
            except UnicodeDecodeError:
                decoder.reset()
                yield 1, printable(token.display)
                continue
        waiting.append(token)
        if not decoder.getstate()[0]:
            yield len(waiting), printable(text if len(waiting) > 1 else token.display)
            waiting, text = [], ""
    yield from ((1, printable(one.display)) for one in waiting)
