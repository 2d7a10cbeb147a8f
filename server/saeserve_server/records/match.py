"""Whether a token is one that a feature usually fires on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from enum import Enum

from saeserve_server.records.store import USUAL_TOKENS


class Match(Enum):
    """How a token compares with the usual tokens of a feature."""

    EXACT = "exact"
    """It is one of them."""
    FOLDED = "folded"
    """It is one after stripping white space and folding case."""
    NONE = "none"
    """It is none of them."""
    UNKNOWN = "unknown"
    """There are none: no index, or the feature never fired over it."""


class UsualPieces:
    """The pieces of a feature's first five usual tokens (more are not looked at), ready to be compared with many."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        usual = pieces[:USUAL_TOKENS]
        self._exact = frozenset(usual)
        self._folded = frozenset(fold(piece) for piece in usual) - {""}

    def match(self, piece: bytes) -> Match:
        """Compares a token's piece."""
        if not self._exact:
            return Match.UNKNOWN
        if piece in self._exact:
            return Match.EXACT
        return Match.FOLDED if fold(piece) in self._folded else Match.NONE


@functools.lru_cache(maxsize=2**16)
def fold(piece: bytes) -> str:
    """A token's text without case and the space around it.

    Empty for white space and for a piece that is not whole characters: neither equals anything but itself.
    """
    try:
        return piece.decode().strip().casefold()
    except UnicodeDecodeError:
        return ""
