"""Whether a token is one that a feature usually fires on."""

from __future__ import annotations

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


def match_token(piece: bytes, usual: Sequence[bytes]) -> Match:
    """Compare a token's piece with the pieces of the feature's first five usual tokens (more are not looked at)."""
    usual = usual[:USUAL_TOKENS]
    if not usual:
        return Match.UNKNOWN
    if piece in usual:
        return Match.EXACT
    folded = _fold(piece)
    if folded and any(_fold(other) == folded for other in usual):
        return Match.FOLDED
    return Match.NONE


def _fold(piece: bytes) -> str:
    """Empty for white space and for a piece that is not whole characters: neither equals anything but itself."""
    try:
        return piece.decode().strip().casefold()
    except UnicodeDecodeError:
        return ""
