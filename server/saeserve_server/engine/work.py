"""What the front end asks of the engine, and what it gets back: plain data that crosses a pipe. No torch, no protobuf.

*Ids* are those that the model runs on, its BOS included if it has one. *Rows* are the tokens that are answered: the
text's tokens, led by the BOS where `include_bos` is set. Positions count rows from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import Catalog, FloatArray


class Aggregate(Enum):
    """How a feature's activations over the rows become the values that rank it."""

    MAX = "max"
    """The largest over the rows."""
    SUM = "sum"
    """The sum over the chosen rows."""
    EACH = "each"
    """Each chosen row ranks by itself."""


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """One source's part in a search, and which of its features take part. Hashable: the worker keeps its mask."""

    source: int
    """Rank of the source in the catalog."""
    only: tuple[int, ...] | None = None
    """Indices that alone take part; None for all."""
    without: tuple[int, ...] = ()
    """Indices that take no part."""
    min_density: float | None = None
    max_density: float | None = None
    min_fires: int | None = None
    """Least number of firings over the index; set where values are divided by the index maximum."""


@dataclass(frozen=True, slots=True)
class SearchWork:
    """Rank the features of some sources on one text."""

    ids: tuple[int, ...]
    led_by_bos: bool
    """Whether `ids` begins with a BOS."""
    include_bos: bool
    filters: tuple[SourceFilter, ...]
    """At least one, by rank."""
    aggregate: Aggregate
    rows: tuple[int, ...]
    """The rows that rank, ascending: those whose id is no BOS, or the sort tokens."""
    limit: int
    relative: bool
    """Divide by the feature's maximum over the index."""


@dataclass(frozen=True, slots=True)
class EncodeWork:
    """Activations of whole sources, or of chosen features, on one text."""

    ids: tuple[int, ...]
    led_by_bos: bool
    include_bos: bool
    sources: tuple[int, ...] = ()
    """Ranks of sources answered whole: SAEs sparse, neurons dense."""
    features: tuple[tuple[int, int], ...] = ()
    """(source rank, index) of features answered dense, in this order."""


Work = SearchWork | EncodeWork


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Features by falling value; ties by source rank, then index. Only values > 0."""

    source: npt.NDArray[np.int64]  # [k] rank in the catalog
    index: npt.NDArray[np.int64]  # [k]
    value: FloatArray  # [k]


@dataclass(frozen=True, slots=True, eq=False)
class SearchDone:
    """The answer to a SearchWork."""

    ranked: tuple[Ranked, ...]
    """One; with Aggregate.EACH one for each of `rows`."""
    activations: FloatArray | None
    """[k, rows] of the ranked features; None with Aggregate.EACH."""
    considered: int
    """Features that took part, after every filter."""


@dataclass(frozen=True, slots=True, eq=False)
class Csr:
    """Activations > 0 of a whole source: compressed sparse rows."""

    indptr: npt.NDArray[np.int64]  # [rows + 1]
    indices: npt.NDArray[np.uint32]  # [entries] ascending within a row
    data: FloatArray  # [entries]
    columns: int

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return self.indptr.nbytes + self.indices.nbytes + self.data.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class EncodeDone:
    """The answer to an EncodeWork."""

    rows: int
    blocks: tuple[Csr | FloatArray, ...]
    """One for each of `sources`: Csr, or [rows, n_features] for neurons."""
    dense: FloatArray | None
    """[rows, features] for chosen features."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A work item that the engine could not compute. The message is for the log."""

    message: str


Done = SearchDone | EncodeDone | Failed


@dataclass(frozen=True, slots=True)
class BatchDone:
    """The answers to a batch, in its order, and how long its two parts took."""

    done: tuple[Done, ...]
    forward_seconds: float
    encode_seconds: float


@dataclass(frozen=True, slots=True)
class Ready:
    """What a worker says once it can answer."""

    catalog: Catalog
    index: Path | None
    """Folder of the index of top activations; None without one."""


T = TypeVar("T", SearchDone, EncodeDone)


def expect(kind: type[T], done: Done) -> T:
    """`done` as the kind of answer that its work has. Raises TypeError where the engine broke that promise."""
    if not isinstance(done, kind):
        raise TypeError(f"the engine answered with {type(done).__name__}, expected {kind.__name__}")
    return done


def row_count(work: Work) -> int:
    """Number of rows that an item answers."""
    return len(work.ids) - (work.led_by_bos and not work.include_bos)
