"""What the front end asks of the engine, and what it gets back: plain data that crosses a pipe. No torch, no protobuf.

*Ids* are the text's, without a BOS. Every source reads its own before them (`SourceInfo.bos_id`), so a text takes one
forward pass for each BOS among the sources asked: a single one while they all follow the model. *Rows* are the tokens
that are answered: the text's, led by one for the BOS where `bos_row` is set. Positions count rows from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    bos_row: bool
    """Whether a row for the BOS leads. A source that reads no BOS is zero there."""
    filters: tuple[SourceFilter, ...]
    """At least one, by rank."""
    aggregate: Aggregate
    rows: tuple[int, ...]
    """The rows that rank, ascending: those whose id is not the model's BOS, or the sort tokens. Which they are is a
    fact of the text, the same for every source: a source's own BOS within a text is a token like others."""
    limit: int
    relative: bool
    """Divide by the feature's maximum over the index."""


@dataclass(frozen=True, slots=True)
class EncodeWork:
    """Activations of whole sources, or of chosen features, on one text."""

    ids: tuple[int, ...]
    bos_row: bool
    sources: tuple[int, ...] = ()
    """Ranks of sources answered whole: SAEs sparse, neurons dense."""
    features: tuple[tuple[int, int], ...] = ()
    """(source rank, index) of features answered dense, in this order."""


Work = SearchWork | EncodeWork

Run = tuple[int | None, tuple[int, ...]]
"""A forward pass: the BOS, None for none, and the ids of the text after it."""


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

    def cut(self, row: int, end: int) -> Csr:
        """The rows from `row` to `end`."""
        first, last = int(self.indptr[row]), int(self.indptr[end])
        return Csr(self.indptr[row : end + 1] - first, self.indices[first:last], self.data[first:last], self.columns)


@dataclass(frozen=True, slots=True, eq=False)
class EncodeDone:
    """The answer to an EncodeWork."""

    rows: int
    blocks: tuple[Csr | FloatArray, ...]
    """One for each of `sources`: Csr, or [rows, n_features] for neurons."""
    dense: FloatArray | None
    """[rows, features] for chosen features."""

    @property
    def nbytes(self) -> int:
        """Bytes of its activations."""
        return sum(block.nbytes for block in self.blocks) + (0 if self.dense is None else self.dense.nbytes)


@dataclass(frozen=True, slots=True)
class Failed:
    """A work item that the engine could not compute. The message is for the log."""

    message: str
    reason: str = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Abandoned:
    """A work item that nobody waited for any more; the rest of it was not computed."""

    stage: str
    """Where it was dropped: `forward` or `encode`, before which nothing of that stage was done for it."""


Done = SearchDone | EncodeDone | Failed | Abandoned

SourceRows = Csr | FloatArray
"""What a source gives on the rows of a text: the non-zero latents, or the neurons [rows, n_features]."""

KeptRows = Mapping[int, SourceRows]
"""By rank of the source. With them, other questions about the same rows need neither model nor sources."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What the worker is asked to compute at a time."""

    number: int
    works: tuple[Work, ...]
    keep: tuple[bool, ...]
    """For each item, whether to give its rows back too, to be kept."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Items of a batch, by place, that nobody waits for any more."""

    batch: int
    places: frozenset[int]


@dataclass(slots=True)
class Spent:
    """What a batch took."""

    forward_seconds: float = 0.0
    encode_seconds: float = 0.0
    forward_passes: int = 0
    """Distinct texts run through the model, counted once for each BOS."""
    forward_tokens: int = 0
    encodes: int = 0
    """Texts encoded, counted once for each source."""
    encode_tokens: int = 0
    splits: int = 0
    """Failed batches that were run again as halves."""
    out_of_memory: int = 0
    memory_bytes: int = 0
    """Resident memory of the worker."""

    def add(self, other: Spent) -> None:
        """Counts in what another part of the batch took."""
        self.forward_seconds += other.forward_seconds
        self.encode_seconds += other.encode_seconds
        self.forward_passes += other.forward_passes
        self.forward_tokens += other.forward_tokens
        self.encodes += other.encodes
        self.encode_tokens += other.encode_tokens


@dataclass(frozen=True, slots=True)
class BatchDone:
    """The answers to a batch, in its order, and what they took."""

    done: tuple[Done, ...]
    spent: Spent
    kept: tuple[KeptRows | None, ...] = ()
    """For each item the rows of its sources, where it asked for them and they are worth keeping; empty for none."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a worker says once it can answer."""

    catalog: Catalog
    index: Path | None
    """Folder of the index of top activations; None without one."""
    passing: bool = False
    """Whether the index is kept nowhere: once it is open here too, its folder goes."""


T = TypeVar("T", SearchDone, EncodeDone)


def expect(kind: type[T], done: Done) -> T:
    """`done` as the kind of answer that its work has. Raises TypeError where the engine broke that promise."""
    if not isinstance(done, kind):
        raise TypeError(f"the engine answered with {type(done).__name__}, expected {kind.__name__}")
    return done


def needed(work: Work) -> set[int]:
    """Ranks of the sources whose rows answer an item."""
    if isinstance(work, SearchWork):
        return {chosen.source for chosen in work.filters}
    return {*work.sources, *(rank for rank, _ in work.features)}


def runs(work: Work, catalog: Catalog) -> frozenset[Run]:
    """The forward passes that an item takes."""
    return frozenset((bos, work.ids) for bos in {catalog.sources[rank].bos_id for rank in needed(work)})


def run_tokens(run: Run) -> int:
    """Tokens of a forward pass, BOS included."""
    return len(run[1]) + (run[0] is not None)


def row_count(work: Work) -> int:
    """Number of rows that an item answers."""
    return len(work.ids) + work.bos_row


def leading_bos(catalog: Catalog, sources: Iterable[int]) -> int | None:
    """The id that the BOS row of an answer over these sources shows, if such a row is asked for: that of the first of
    them, by rank, that reads one, else the model's. None where there is neither: then no row leads."""
    own = (catalog.sources[rank].bos_id for rank in sorted(sources))
    return next((bos for bos in own if bos is not None), catalog.model.bos_id)
