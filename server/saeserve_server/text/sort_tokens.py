"""Which tokens of a text a sort token names."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

from saeserve_server.text.tokenizer import Token


class SortTokens:
    """The tokens of one text, ready to be asked for many sort tokens.

    Each question takes time in proportion to the tokens: matches are looked for at the tokens' boundaries in the joined
    text, never token by token.
    """

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._text = b"".join(token.piece for token in tokens)
        self._ends = list(itertools.accumulate(len(token.piece) for token in tokens))
        self._spans = list(zip([0, *self._ends[:-1]], self._ends, strict=True)) if tokens else []
        self._last_at: dict[int, int] = {}  # where a token ends → that token
        self._content: list[int] = []  # where a token's text begins after white space; its end if it has none
        for place, (token, (start, end)) in enumerate(zip(tokens, self._spans, strict=True)):
            if end > start:
                self._last_at[end] = place
            self._content.append(start + len(token.piece) - len(_lstrip(token.piece)))

    def match(self, wanted: str) -> list[int]:
        """Positions of every run of tokens whose text equals `wanted`, else whose stripped text equals it stripped.

        `red` finds the token ` red`; a word of several tokens is found as the run of them. Runs of white space alone
        are found only exactly. Ascending, each position once; empty without a match.
        """
        return self._exact(wanted.encode()) or self._stripped(wanted.strip().encode())

    def _exact(self, wanted: bytes) -> list[int]:
        found: set[int] = set()
        for first, (start, end) in enumerate(self._spans):
            last = self._last_at.get(start + len(wanted))
            if last is not None and end > start and wanted and self._text.startswith(wanted, start):
                found.update(range(first, last + 1))
        return sorted(found)

    def _stripped(self, wanted: bytes) -> list[int]:
        found: set[int] = set()
        for first, ((_, end), content) in enumerate(zip(self._spans, self._content, strict=True)):
            if not wanted or content >= end or not self._text.startswith(wanted, content):
                continue  # a run begins with a token that holds something
            stop = content + len(wanted)
            last = bisect.bisect_left(self._ends, stop)
            if not _lstrip(
                self._text[stop : self._spans[last][1]]
            ):  # nothing but white space follows in its last token
                found.update(range(first, last + 1))
        return sorted(found)


def _lstrip(piece: bytes) -> bytes:
    return piece.decode("utf-8", "surrogateescape").lstrip().encode("utf-8", "surrogateescape")
