"""Names of features as people write them: `0-MLP-OAI:22631`, `2:553`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard

from saeserve.arguments.numbers import MAX_UINT32, Number, is_number, number
from saeserve.arguments.printable import printable
from saeserve.arguments.shown import shown
from saeserve.arguments.texts import text

# An index is a uint32 on the wire.
MAX_INDEX = MAX_UINT32


@dataclass(frozen=True, slots=True, order=True)
class FeatureName:
    """The name of one feature: a source and an index in it.

    `source` is kept as it goes over the wire, in lower case; `str()` gives the name as people write it, with the set in
    upper case. Names that differ only in case are equal.

    Raises ValueError if the source is empty or holds white space or a comma, or if the index does not fit 32 bits, and
    TypeError for what is no text and no whole number.
    """

    source: str
    index: int

    def __post_init__(self) -> None:
        source = text(self.source, "the source of a feature").lower()
        if not source or any(character.isspace() or character == "," for character in source):
            raise ValueError(f"{self.source!r} is no source id: expected one like '0-mlp-oai' or '2'")
        if is_number(self.index) and not 0 <= self.index <= MAX_INDEX:
            raise ValueError(f"feature index {self.index} of source {source!r} is not between 0 and {MAX_INDEX}")
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "index", number(self.index, f"the feature index of source {source!r}"))

    @classmethod
    def parse(cls, name: str) -> FeatureName:
        """Read `source:index` in any case; white space round it is ignored. Raises ValueError for anything else."""
        source, colon, index = name.strip().rpartition(":")
        if not colon or not (index.isascii() and index.isdigit()):
            raise ValueError(f"{name!r} is no feature name: expected 'source:index' like '0-MLP-OAI:22631' or '2:553'")
        # Beyond ten digits no index fits, and Python refuses to read very long integers at all.
        if len(index.lstrip("0")) > 10:
            raise ValueError(f"the index in {name[:60]!r} is not between 0 and {MAX_INDEX}")
        return cls(source, int(index))

    @classmethod
    def of(cls, feature: FeatureLike) -> FeatureName:
        """The name of whatever stands for one feature: what a feature is, wherever one is taken.

        A written name, a FeatureName, a pair (source, index), or what has a name: a Feature, a Hit of a search.
        Raises ValueError for a text that is no name, and TypeError for anything else.
        """
        named = getattr(feature, "name", feature)
        if isinstance(named, FeatureName):
            return named
        if isinstance(feature, str):
            return cls.parse(text(feature, "a feature"))
        if is_pair(feature):
            source, index = feature
            return cls(str(source) if is_number(source) else source, index)
        raise TypeError(f"{shown(feature)} is no feature: expected a name like '0-MLP-OAI:22631', or a pair of both")

    def __str__(self) -> str:
        return f"{self.source.upper()}:{self.index}"

    def __repr__(self) -> str:
        return printable(str(self))


class Named(Protocol):
    """What has a feature's name."""

    @property
    def name(self) -> FeatureName: ...


FeatureLike: TypeAlias = str | FeatureName | tuple[str | int, Number] | Named
"""Whatever stands for one feature."""


def is_pair(value: Any) -> TypeGuard[tuple[Any, Any]]:
    """Whether this is a source (its id, or the layer of neurons) and an index: one feature, and not two of them."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != 2:
        return False
    source, index = value
    return is_number(index) and (is_number(source) or (isinstance(source, str) and ":" not in source))
