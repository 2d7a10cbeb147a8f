"""Which tokens of a text a sort token names."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve_server.text.tokenizer import Token


def match_positions(tokens: Sequence[Token], wanted: str) -> list[int]:
    """Positions of every run of tokens whose text equals `wanted`, else whose stripped text equals it stripped.

    `red` finds the token ` red`; a word of several tokens is found as the run of them. Runs of white space alone are
    found only exactly. Ascending, each position once; empty without a match.
    """
    return _exact(tokens, wanted.encode()) or _stripped(tokens, wanted.strip())


def _exact(tokens: Sequence[Token], wanted: bytes) -> list[int]:
    found: set[int] = set()
    for first in range(len(tokens)):
        run = b""
        for place in range(first, len(tokens)):
            run += tokens[place].piece
            if run == wanted:
                found.update(range(first, place + 1))
                break
            if not wanted.startswith(run):
                break
    return sorted(found)


def _stripped(tokens: Sequence[Token], wanted: str) -> list[int]:
    if not wanted:
        return []
    target = wanted.encode()
    found: set[int] = set()
    for first, token in enumerate(tokens):
        if not _strip(token.piece):
            continue  # a run begins and ends with a token that holds something
        run = b""
        for place in range(first, len(tokens)):
            run += tokens[place].piece
            stripped = _strip(run)
            if stripped == target:
                found.update(range(first, place + 1))
                break
            if not target.startswith(stripped):
                break
    return sorted(found)


def _strip(piece: bytes) -> bytes:
    return piece.decode("utf-8", "surrogateescape").strip().encode("utf-8", "surrogateescape")
