"""Which bytes of a text each token stands for.

What holds for every tokenizer:

- Every byte of the text lies in exactly one token's span, and the spans lie in the order of the tokens.
- A space that the tokenizer adds (`prefix.py`) is an empty piece with an empty span, or the token goes without it.
- What normalisation swallows lies in the span of the token before it; in the first token's if none is before.
- A token's piece follows from the ids, not from the text. Joined, the pieces equal the text, unless the tokenizer
  changes characters; its spans tell what was there. Only where ids cannot tell a space of the text from an added one
  (Metaspace reads ` red` and `red` alike) does the piece go by the text.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Offsets = Sequence[tuple[int, int]]
"""Of each token, half-open, in characters of the text; tokens that share a character overlap."""


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Tokens that share characters, and the bytes of those."""

    first: int
    last: int  # exclusive
    begin: int
    end: int


def running(pieces: Sequence[bytes]) -> list[int]:
    """Where each piece begins when they lie end to end."""
    return list(itertools.accumulate(map(len, pieces), initial=0))[: len(pieces)]


def align(
    text: str, offsets: Offsets, pieces: Sequence[bytes], within: Sequence[bytes]
) -> tuple[list[bytes], list[int]]:
    """Each token's piece and the byte at which its span begins; it ends where the next begins, the last with the text.

    For texts that the joined pieces do not equal: it goes by the tokenizer's offsets. `pieces` are without added
    spaces, `within` with them. Takes time in proportion to text and tokens.
    """
    if not pieces:
        return [], []
    data = text.encode()
    at = list(itertools.accumulate((len(char.encode()) for char in text), initial=0))
    found, starts = list(pieces), [0] * len(pieces)
    clusters = list(_clusters(data, offsets, at, within))
    ends = [cluster.begin for cluster in clusters[1:]] + [len(data)]
    for cluster, end in zip(clusters, ends, strict=True):
        part = slice(cluster.first, cluster.last)
        core = cluster.end - cluster.begin
        fitting = _fitting(data[cluster.begin : end], core, pieces[part], within[part])
        if fitting is not None:
            found[part] = fitting[0]
            starts[part] = [cluster.begin + start for start in fitting[1]]
        else:
            starts[part] = _shared(offsets[part], at, pieces[part], cluster.begin, end)
    starts[0] = 0
    return found, list(itertools.accumulate(starts, max))


def _clusters(data: bytes, offsets: Offsets, at: Sequence[int], within: Sequence[bytes]) -> Iterator[_Cluster]:
    first, end = 0, 0
    while first < len(offsets):
        begin, reach = offsets[first]
        last = first + 1
        while last < len(offsets) and offsets[last][0] < reach:
            reach = max(reach, offsets[last][1])
            last += 1
        start = at[begin]
        cut_off = start > end and data[start - 1 : start] == b" " and data[start : start + 1] != b" "
        if cut_off and within[first].startswith(b" "):
            start -= 1  # the space was cut off, and written anew before the word
        end = max(end, at[reach])
        yield _Cluster(first, last, start, end)
        first = last


def _fitting(
    text: bytes, core: int, pieces: Sequence[bytes], within: Sequence[bytes]
) -> tuple[Sequence[bytes], list[int]] | None:
    """The pieces that stand in the text, at least as its first `core` bytes (what was swallowed follows), and where."""
    for reading in (pieces, within):
        joined = b"".join(reading)
        if len(joined) >= core and text.startswith(joined):
            return reading, running(reading)
    if within[0].startswith(b" "):
        bare = [within[0][1:], *within[1:]]
        if b"".join(bare) == text[:core]:  # a space was added where ids do not tell it
            return pieces, running(bare)
    return None


def _shared(offsets: Offsets, at: Sequence[int], pieces: Sequence[bytes], begin: int, end: int) -> list[int]:
    """Where tokens begin whose characters were changed. Those that begin in the same character have a byte of it each,
    the last of them what is left; where there are fewer bytes than tokens, the last have none."""
    starts: list[int] = []
    firsts = list(itertools.accumulate((max(begin, at[first]) for first, _ in offsets), max))
    for place, start in enumerate(firsts):
        if place == 0 or start > firsts[place - 1]:
            later = bisect.bisect_right(firsts, start)
            stop, taken = firsts[later] if later < len(firsts) else end, 0
        starts.append(start + min(taken, stop - start))
        taken += bool(pieces[place])  # an added space takes none
    return starts
