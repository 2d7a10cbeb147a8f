"""Names of features as people write them: `0-MLP-OAI:22631`, `2:553`."""

from __future__ import annotations

from dataclasses import dataclass

# An index is a uint32 on the wire.
MAX_INDEX = 2**32 - 1


@dataclass(frozen=True, slots=True, order=True)
class FeatureName:
    """The name of one feature: a source and an index in it.

    `source` is kept as it goes over the wire, in lower case; `str()` gives the name as people write it, with the set in
    upper case. Names that differ only in case are equal.

    Raises ValueError if the source is empty or holds white space or a comma, or if the index does not fit 32 bits.
    """

    source: str
    index: int

    def __post_init__(self) -> None:
        source = self.source.lower()
        if not source or any(character.isspace() or character == "," for character in source):
            raise ValueError(f"{self.source!r} is no source id: expected one like '0-mlp-oai' or '2'")
        if not 0 <= self.index <= MAX_INDEX:
            raise ValueError(f"feature index {self.index} of source {source!r} is not between 0 and {MAX_INDEX}")
        object.__setattr__(self, "source", source)

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
    def of(cls, feature: str | FeatureName) -> FeatureName:
        """A FeatureName from a written name or a FeatureName."""
        return cls.parse(feature) if isinstance(feature, str) else feature

    def __str__(self) -> str:
        return f"{self.source.upper()}:{self.index}"
