"""What is asked about directions, and what is answered: which features point most nearly where one points.

Plain data that crosses the pipe, as `work.py` is. Directions lie in the residual stream; the worker alone holds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.ranking.work import SourceFilter, Work


class Side(Enum):
    """Which of a feature's directions."""

    DECODER = "decoder"
    """What it writes: a latent's decoder row, a neuron's row of W_out."""
    ENCODER = "encoder"
    """What it reads: a latent's encoder column, a neuron's column of W_in."""


@dataclass(frozen=True, slots=True)
class SimilarWork:
    """Rank the features of some sources by the cosine of their directions with one feature's, or with a vector."""

    side: Side
    source: int
    """Rank of the feature's source in the catalog; -1 where a vector is compared."""
    index: int
    filters: tuple[SourceFilter, ...]
    """What it is compared with, by rank; itself is left out."""
    limit: int
    vector: bytes = b""
    """float32 [d_model] in this machine's order, not all 0; empty where a feature is compared."""


@dataclass(frozen=True, slots=True)
class VectorsWork:
    """Give directions of one feature as its weights have them, wherever they lie."""

    source: int
    """Rank of its source in the catalog."""
    index: int
    sides: tuple[Side, ...]


AnyWork = Work | SimilarWork | VectorsWork
"""Whatever is asked of the worker."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Sources that have no direction to be compared, and why."""

    reason: str
    sources: tuple[int, ...]
    """Ranks in the catalog."""


@dataclass(frozen=True, slots=True, eq=False)
class SimilarDone:
    """The answer to a SimilarWork: features by falling cosine; ties by source rank, then index."""

    source: npt.NDArray[np.int64]  # [k] rank in the catalog
    index: npt.NDArray[np.int64]  # [k]
    value: FloatArray  # [k] cosines
    compared: int
    """Features that it was compared with."""
    left_out: tuple[LeftOut, ...]
    missing: str = ""
    """Why the feature asked about has no direction; empty where it has one."""


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """A direction of a feature, and the hook point that it lies at."""

    hook_name: str
    values: FloatArray  # [width of the hook point]


@dataclass(frozen=True, slots=True, eq=False)
class VectorsDone:
    """The answer to a VectorsWork."""

    found: tuple[Direction | str, ...]
    """For each of `sides`; in words why there is none."""


@dataclass(frozen=True, slots=True)
class Preparing:
    """No answer yet: copies of the directions are being made, a part each time that somebody asks."""

    made: int
    total: int
    """Features."""
