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
    """Rank the features of some sources by the cosine of their directions with one feature's."""

    side: Side
    source: int
    """Rank of the feature's source in the catalog."""
    index: int
    filters: tuple[SourceFilter, ...]
    """What it is compared with, by rank; itself is left out."""
    limit: int


AnyWork = Work | SimilarWork
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


@dataclass(frozen=True, slots=True)
class Preparing:
    """No answer yet: copies of the directions are being made, a part each time that somebody asks."""

    made: int
    total: int
    """Features."""
