"""What is known of a feature, read out of an index or of a store of imports: what every format is written from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import NEURON_SET
from saeserve_server.errors import ConfigError
from saeserve_server.records.imported.schema import TOP
from saeserve_server.records.store import FeatureStatistics, PeakTokens

FloatArray = npt.NDArray[np.float32]
Pieces = Callable[[Sequence[int], int | None], Sequence[bytes]]
"""The bytes of tokens; the second is the id before them, None where they begin a text."""

SAMPLE: Final = -1
"""The group of the stratified sample of an index; those of imports are in `imported/schema.py`."""
NEAR_MISSES: Final = -2


@dataclass(frozen=True, slots=True, eq=False)
class OutRecord:
    """A record to write."""

    group: int
    tokens: Sequence[str | bytes]
    """Strings as they were imported, bytes as the model cuts."""
    values: FloatArray
    peak: int
    maximum: float
    token_ids: Sequence[int] = ()
    text_index: int | None = None
    text_position: int | None = None
    weight: float = 1.0
    """In a sample, how many blocks it stands for."""
    active: Sequence[int] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)
    """What else its file said of it."""


@dataclass(frozen=True, slots=True)
class OutExplanation:
    """An explanation to write."""

    text: str
    score: float | None
    type: str
    model: str
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class OutFeature:
    """All that is written of a feature."""

    source: str
    index: int
    density: float | None
    maximum: float | None
    records: Sequence[OutRecord]
    explanations: Sequence[OutExplanation] = ()
    statistics: FeatureStatistics | None = None
    usual_tokens: PeakTokens | None = None
    kept: Mapping[str, Any] | None = None
    """The fields of the file that it came from; None where it came from none."""
    hook_name: str = ""

    @property
    def top(self) -> list[OutRecord]:
        """Its strongest records, in their order."""
        return [record for record in self.records if record.group == TOP]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which features to export."""

    sources: Sequence[str] = ()
    """All for none."""
    indices: tuple[int, int] | None = None
    """The first and the last, of every source; None for all."""

    def takes(self, source: str) -> bool:
        """Whether a source is among them."""
        return not self.sources or source in self.sources

    def check(self, known: Sequence[str]) -> None:
        """Raises ConfigError for a source that is not there."""
        missing = [source for source in self.sources if source not in known]
        if missing:
            raise ConfigError(f"--source {missing[0]}: not there; there are {', '.join(known) or 'none'}")


def layer_of(source: str) -> tuple[int, str]:
    """Layer and set of a source's id: `0-demo` is layer 0 of demo, `2` the neurons of layer 2. Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,6})(?:-(.+))?", source)
    if found is None:
        raise ConfigError(f"source {source}: its id names no layer, as LAYER-SET does, which this format needs")
    return int(found[1]), found[2] or NEURON_SET


def text_of(token: str | bytes) -> str:
    """A token as a string; bytes that are no whole characters become U+FFFD, as in the files of others."""
    return token if isinstance(token, str) else token.decode(errors="replace")


def short(value: float | np.floating[Any]) -> float:
    """A float32 by its shortest form: 0.1 and not 0.10000000149011612."""
    return float(str(np.float32(value)))


def shorts(values: FloatArray) -> list[float]:
    """The same of many."""
    return [float(text) for text in values.astype("U32").tolist()]


Features = Iterator[OutFeature]
