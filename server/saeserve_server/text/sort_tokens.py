"""Which tokens of a text a sort token names."""

from __future__ import annotations

import bisect
import functools
import itertools
import unicodedata
from collections.abc import Sequence

from saeserve_server.text.tokenizer import Token


class SortTokens:
    """The tokens of one text, ready to be asked for many sort tokens.

    Each question takes time in proportion to the tokens: matches are looked for at the tokens' boundaries in the joined
    text, never token by token.
    """

    def __init__(self, tokens: Sequence[Token], data: bytes | None = None) -> None:
        """`data` is what the tokens' offsets count in (`TokenizedText.data`); without it they are the joined pieces."""
        pieces = [token.piece if data is None else data[token.start : token.end] for token in tokens]
        # What stands for the last part of a character, and found no byte of it left, goes with the token before it.
        owned = [place == 0 or bool(piece) or not tokens[place].piece.strip() for place, piece in enumerate(pieces)]
        self._bounds = [place for place, begins in enumerate(owned) if begins] + [len(tokens)]
        self._given = [pieces[first] for first in self._bounds[:-1]]
        self._shown = [token.display.encode() for token in tokens]

    def match(self, wanted: str) -> list[int]:
        """Positions of every run of tokens whose text equals `wanted`, else whose stripped text equals it stripped.

        `red` finds the token ` red`; a word of several tokens is found as the run of them. Runs of white space alone
        are found only exactly. What is not found so is looked for again whichever way Unicode composes it, and last
        in the tokens as they are displayed. Ascending, each position once; empty without a match.
        """
        if not wanted:
            return []
        found = self._as_given.match(wanted)
        decomposed = unicodedata.normalize("NFD", wanted)
        if not found and not (decomposed == wanted and self._decomposed.text == self._as_given.text):
            found = self._decomposed.match(decomposed)
        if not found and self._displayed.text != self._as_given.text:
            found = self._displayed.match(wanted)
        return found

    @functools.cached_property
    def _as_given(self) -> _Runs:
        return _Runs(self._given, self._bounds)

    @functools.cached_property
    def _decomposed(self) -> _Runs:
        """Whole characters decomposed: a composed one may be one token, and decomposed several."""
        pieces: list[bytes] = []
        bounds: list[int] = []
        part = b""
        for piece, first in zip(self._given, self._bounds, strict=False):
            if not part:
                bounds.append(first)
            part += piece
            try:
                text = part.decode()
            except UnicodeDecodeError as error:
                if error.end == len(part) and len(part) - error.start < _LONGEST_CHARACTER:
                    continue  # its last character goes on in the next token
                pieces.append(part)
            else:
                pieces.append(unicodedata.normalize("NFD", text).encode())
            part = b""
        if part:
            pieces.append(part)
        return _Runs(pieces, [*bounds, self._bounds[-1]])

    @functools.cached_property
    def _displayed(self) -> _Runs:
        return _Runs(self._shown, range(len(self._shown) + 1))


_LONGEST_CHARACTER = 4


class _Runs:
    """Pieces of a text, of which runs are looked for. The piece at `place` is of tokens `bounds[place]` up to the next
    bound."""

    def __init__(self, pieces: Sequence[bytes], bounds: Sequence[int]) -> None:
        self.text = b"".join(pieces)
        self._bounds = bounds
        self._ends = list(itertools.accumulate(map(len, pieces)))
        self._spans = list(zip([0, *self._ends[:-1]], self._ends, strict=True)) if pieces else []
        self._last_at: dict[int, int] = {}  # where a piece ends → that piece
        self._content: list[int] = []  # where a piece's text begins after white space; its end if it has none
        for place, (piece, (start, end)) in enumerate(zip(pieces, self._spans, strict=True)):
            if end > start:
                self._last_at[end] = place
            self._content.append(start + len(piece) - len(_lstrip(piece)))

    def match(self, wanted: str) -> list[int]:
        """Positions of tokens: of exact runs, else of those that are equal when stripped."""
        return self._exact(wanted.encode()) or self._stripped(wanted.strip().encode())

    def _exact(self, wanted: bytes) -> list[int]:
        found: set[int] = set()
        for first, (start, end) in enumerate(self._spans):
            last = self._last_at.get(start + len(wanted))
            if last is not None and end > start and wanted and self.text.startswith(wanted, start):
                found.update(range(self._bounds[first], self._bounds[last + 1]))
        return sorted(found)

    def _stripped(self, wanted: bytes) -> list[int]:
        found: set[int] = set()
        for first, ((_, end), content) in enumerate(zip(self._spans, self._content, strict=True)):
            if not wanted or content >= end or not self.text.startswith(wanted, content):
                continue  # a run begins with a token that holds something
            stop = content + len(wanted)
            last = bisect.bisect_left(self._ends, stop)
            if not _lstrip(self.text[stop : self._spans[last][1]]):  # only white space follows in its last token
                found.update(range(self._bounds[first], self._bounds[last + 1]))
        return sorted(found)


def _lstrip(piece: bytes) -> bytes:
    return piece.decode("utf-8", "surrogateescape").lstrip().encode("utf-8", "surrogateescape")
