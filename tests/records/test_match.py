"""A token matches the usual tokens exactly, folded, or not at all."""

from __future__ import annotations

import pytest

from saeserve_server.records.match import Match, UsualPieces


@pytest.mark.parametrize(
    ("piece", "usual", "expected"),
    [
        (b" red", [b" blue", b" red"], Match.EXACT),
        (b" red", [b"Red", b" red"], Match.EXACT),
        (b" red", [b" blue", b"Red"], Match.FOLDED),
        (b"RED", [b" red\n"], Match.FOLDED),
        (b"STRASSE", ["straße".encode()], Match.FOLDED),
        ("É".encode(), [" é".encode()], Match.FOLDED),
        (b" red", [b" reddish", b"redo"], Match.NONE),
        (b" red", [], Match.UNKNOWN),
        (b" ", [b"\n"], Match.NONE),
        (b" ", [b" "], Match.EXACT),
        (b"", [b""], Match.EXACT),
        (b"\xf0\x9f", [b"\xf0\x9f"], Match.EXACT),
        (b"\xf0\x9f", [b"\xf0\x9e", b" "], Match.NONE),
        (b"x", [b"a", b"b", b"c", b"d", b"e", b"x"], Match.NONE),
        (b"x", [b"a", b"b", b"c", b"d", b"x"], Match.EXACT),
    ],
)
def test_match(piece, usual, expected):
    assert UsualPieces(usual).match(piece) is expected
