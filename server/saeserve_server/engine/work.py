"""What crosses the pipe: batches of questions (`ranking/work.py`) to the worker, their answers and what they took back.

Every source reads a BOS of its own before a text (`SourceInfo.bos_id`), which so takes one forward pass for each BOS
among the sources asked: a single one while they all follow the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from saeserve_server.catalog import Catalog
from saeserve_server.engine.capacity import Capacity
from saeserve_server.ranking.similar import AnyWork, Preparing, SimilarDone, SimilarWork, VectorsDone, VectorsWork
from saeserve_server.ranking.work import EncodeDone, EncodeWork, SearchDone, needed
from saeserve_server.rows import KeptRows

Run = tuple[int | None, tuple[int, ...]]
"""A forward pass: the BOS, None for none, and the ids of the text after it."""


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


Answered = SearchDone | EncodeDone | SimilarDone | VectorsDone | Preparing
Done = Answered | Failed | Abandoned


@dataclass(frozen=True, slots=True)
class Batch:
    """What the worker is asked to compute at a time."""

    number: int
    works: tuple[AnyWork, ...]
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
    kept_bytes: int = 0
    """Of the rows that are given back to be kept."""
    memory_bytes: int = 0
    """Memory that the worker has for itself; 0 where the system does not tell."""
    mapped_bytes: int = 0
    """Pages of files that it has mapped, and that are in memory."""
    idle_seconds: float = 0.0
    """Since the batch before had been computed, until this one was there; 0 for a worker's first."""
    device_bytes: int = 0
    """CUDA memory that tensors took at the batch's peak, weights included; 0 on a CPU."""
    device_reserved_bytes: int = 0
    """CUDA memory that torch held after it."""

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
    kernels: Mapping[str, str] = field(default_factory=dict)
    """How the latents of each SAE are computed, by source id."""
    passing: bool = False
    """Whether the index is kept nowhere: once it is open here too, its folder goes."""
    capacity: Capacity | None = None
    """What it can take, as measured on a GPU; None on a CPU."""
    imported: str = ""
    """Revision of the store of imported records that it reads; empty without one."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """What a worker says when sources have come to be computed by other kernels."""

    names: Mapping[str, str]
    """By source id."""
    fallbacks: int
    """Sources for which screening was given up."""


T = TypeVar("T", SearchDone, EncodeDone, VectorsDone)


def expect(kind: type[T], done: Answered | Failed | Abandoned) -> T:
    """`done` as the kind of answer that its work has. Raises TypeError where the engine broke that promise."""
    if not isinstance(done, kind):
        raise TypeError(f"the engine answered with {type(done).__name__}, expected {kind.__name__}")
    return done


def runs(work: AnyWork, catalog: Catalog) -> frozenset[Run]:
    """The forward passes that an item takes: none where only directions are compared."""
    if isinstance(work, SimilarWork | VectorsWork):
        return frozenset()
    read = {catalog.sources[rank].bos_id for rank in needed(work)}
    if isinstance(work, EncodeWork) and work.projections:
        read.add(catalog.model.bos_id)
    return frozenset((bos, work.ids) for bos in read)


def run_tokens(run: Run) -> int:
    """Tokens of a forward pass, BOS included."""
    return len(run[1]) + (run[0] is not None)


def leading_bos(catalog: Catalog, sources: Iterable[int]) -> int | None:
    """The id that the BOS row of an answer over these sources shows, if such a row is asked for: that of the first of
    them, by rank, that reads one, else the model's. None where there is neither: then no row leads."""
    own = (catalog.sources[rank].bos_id for rank in sorted(sources))
    return next((bos for bos in own if bos is not None), catalog.model.bos_id)
