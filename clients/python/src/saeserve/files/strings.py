"""Many texts as one buffer of bytes: what arrays, files and memory maps can hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt

from saeserve.answers.activations import Integers

Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Strings(Sequence[str]):
    """Texts one behind the other, in UTF-8. A sequence of `str`, each decoded when it is asked for."""

    buffer: Bytes
    offsets: Integers
    """[texts + 1]; text i has the bytes from offsets[i] to offsets[i + 1]."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Strings:
        """Raises UnicodeEncodeError for half of a surrogate pair."""
        encoded = [text.encode() for text in texts]
        buffer = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(buffer, np.cumsum([0, *map(len, encoded)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Strings: ...
    def __getitem__(self, place: int | slice) -> str | Strings:
        """A text by its place, or a slice of step 1."""
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step != 1:
                raise ValueError("texts can be cut only with step 1")
            offsets = self.offsets[start : max(start, stop) + 1]
            return Strings(self.buffer[offsets[0] : offsets[-1]], offsets - offsets[0])
        start, stop = self.offsets[range(len(self))[place]], self.offsets[range(len(self))[place] + 1]
        return self.buffer[start:stop].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        whole = self.buffer.tobytes()
        ends = self.offsets.tolist()
        for start, stop in pairwise(ends):
            yield whole[start:stop].decode()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and not isinstance(other, str) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        shown = ", ".join(repr(text) for text in self[:3])
        return f"[{shown}{', …' if len(self) > 3 else ''}] ({len(self):,} texts)"
