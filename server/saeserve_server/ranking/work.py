"""What is asked about the rows of one text, and what is answered: plain data that crosses a pipe.

*Ids* are the text's, without a BOS. *Rows* are the tokens that are answered: the text's, led by one for the BOS where
`bos_row` is set. Positions count rows from 0. A source is named by its *rank*, its place in the catalog.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.rows import Csr


class Aggregate(Enum):
    """How a feature's activations over the rows become the values that rank it."""

    MAX = "max"
    """The largest over the rows."""
    SUM = "sum"
    """The sum over the chosen rows."""
    EACH = "each"
    """Each chosen row ranks by itself."""


class Ranking(Enum):
    """What a feature's activations count as, so that features can be compared."""

    RAW = "raw"
    """As they are."""
    RELATIVE = "relative"
    """Divided by the largest activation that is known of the feature."""
    SURPRISAL = "surprisal"
    """The surprisal of each in bits, over the index. Equal values fall by activation over the feature's maximum."""


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
    """Least number of firings over the index; set with every ranking but RAW. Where no index covers the source, those
    features take part whose maximum is known."""


@dataclass(frozen=True, slots=True)
class SearchWork:
    """Rank the features of some sources on one text."""

    ids: tuple[int, ...]
    bos_row: bool
    """Whether a row for the BOS leads. A source that reads no BOS is zero there."""
    filters: tuple[SourceFilter, ...]
    """At least one, by rank."""
    aggregate: Aggregate
    rows: tuple[int, ...]
    """The rows that rank, ascending: those whose id is not the model's BOS, or the sort tokens. Which they are is a
    fact of the text, the same for every source: a source's own BOS within a text is a token like others."""
    limit: int
    ranking: Ranking
    bos_ranks: bool = False
    """Whether the leading row and the model's BOS inside the text are rows like others: among `rows` if no sort tokens
    are given, and where a feature may be most active."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A vector on which a hook point's activations are projected."""

    hook_name: str
    vector: bytes
    """float32 in this machine's order."""
    digest: bytes
    """Of the vector."""

    @property
    def width(self) -> int:
        """Numbers of the vector."""
        return len(self.vector) // 4


@dataclass(frozen=True, slots=True)
class EncodeWork:
    """Activations of whole sources, or of chosen features, on one text."""

    ids: tuple[int, ...]
    bos_row: bool
    sources: tuple[int, ...] = ()
    """Ranks of sources answered whole: SAEs sparse, neurons dense."""
    features: tuple[tuple[int, int], ...] = ()
    """(source rank, index) of features answered dense, in this order."""
    projections: tuple[Projection, ...] = ()
    """Answered dense after the features, on the text behind the model's BOS."""

    @property
    def columns(self) -> int:
        """Of what is answered dense."""
        return len(self.features) + len(self.projections)


Work = SearchWork | EncodeWork


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Features by falling value; ties by source rank, then index; of surprisals first by activation over the feature's
    maximum. Only values > 0."""

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
class EncodeDone:
    """The answer to an EncodeWork."""

    rows: int
    blocks: tuple[Csr | FloatArray, ...]
    """One for each of `sources`: Csr, or [rows, n_features] for neurons."""
    dense: FloatArray | None
    """[rows, columns] for chosen features and projections; None without any."""

    @property
    def nbytes(self) -> int:
        """Bytes of its activations."""
        return sum(block.nbytes for block in self.blocks) + (0 if self.dense is None else self.dense.nbytes)


def needed(work: Work) -> set[int]:
    """Ranks of the sources whose rows answer an item."""
    if isinstance(work, SearchWork):
        return {chosen.source for chosen in work.filters}
    return {*work.sources, *(rank for rank, _ in work.features)}


def row_count(work: Work) -> int:
    """Number of rows that an item answers."""
    return len(work.ids) + work.bos_row
