"""Arrays by source, found by any name that the source has been called by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

V = TypeVar("V")


def aliases(asked: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    """What the sources of an answer were called by in the request, whose order they have: ids by lower-case name."""
    fits = len(asked) == len(ids) and all(name == own for name, own in zip(asked, ids, strict=True) if name in ids)
    return dict(zip(asked, ids, strict=True)) if fits else {}


class BySource(Mapping[str, V], Generic[V]):
    """Read-only, by source id, in the order asked for. Also found in any case, and by the alias it was asked for by.

    Raises KeyError that lists the ids for any other name.
    """

    def __init__(self, blocks: Mapping[str, V], aliases: Mapping[str, str]) -> None:
        self._blocks = dict(blocks)
        self._aliases = {name: own for name, own in aliases.items() if own in blocks}

    def __getitem__(self, source: str) -> V:
        name = str(source).lower()
        if name not in self._blocks:
            name = self._aliases.get(name, name)
        if name not in self._blocks:
            raise KeyError(f"{source!r} is none of {', '.join(self._blocks) or 'no sources'}")
        return self._blocks[name]

    def __contains__(self, source: object) -> bool:
        name = str(source).lower()
        return name in self._blocks or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def __repr__(self) -> str:
        return repr(self._blocks)
