"""Computes a batch: one forward pass for all texts, one encoding for each source, an exact top K for each search.

Identical texts are run once, whoever asks. No array of all tokens by all latents of all sources ever exists: sources
are encoded one after another, and of each only the candidates' columns are kept.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from saeserve_server.catalog import Catalog, FloatArray, Kind
from saeserve_server.engine.masks import Masks
from saeserve_server.engine.ranking import Candidates, aggregate_max, aggregate_sum, candidates, merge
from saeserve_server.engine.work import (
    Aggregate,
    BatchDone,
    Csr,
    Done,
    EncodeDone,
    EncodeWork,
    Failed,
    SearchDone,
    SearchWork,
    SourceFilter,
    Work,
    row_count,
)
from saeserve_server.models.load import LoadedModel
from saeserve_server.records.store import RecordStore
from saeserve_server.sources.source import Source

log = logging.getLogger(__name__)

CHUNK_ELEMENTS = 2**25
"""Most activations of one source held at a time (128 MiB in float32); a single text may take more."""


@dataclass(slots=True)
class _Text:
    """A distinct sequence of ids of the batch, and what was read of it."""

    ids: tuple[int, ...]
    hooks: set[str] = field(default_factory=set)
    read: dict[str, Tensor] = field(default_factory=dict)  # hook name → [ids, d_in]


@dataclass(slots=True)
class _Search:
    """A search in progress: its candidates so far, one list for each ranking, and their activations."""

    work: SearchWork
    parts: list[list[Candidates]]
    columns: list[Tensor] = field(default_factory=list)  # [rows, candidates] of each source, in the order of parts
    considered: int = 0


@dataclass(slots=True)
class _Encode:
    """An encoding in progress."""

    work: EncodeWork
    blocks: dict[int, Csr | FloatArray] = field(default_factory=dict)
    dense: FloatArray | None = None


class BatchRunner:
    """Model, sources and index of the worker, and the computation over them. One caller at a time."""

    def __init__(self, model: LoadedModel, sources: Sequence[Source], index: RecordStore | None) -> None:
        self._model = model
        self._sources = sources
        self._masks = Masks(sources, index, model.device)
        self.catalog = Catalog(model.info, tuple(source.info for source in sources))

    @torch.inference_mode()
    def run(self, batch: Sequence[Work]) -> BatchDone:
        """The answers to a batch, in its order. Raises what torch raises: the caller decides about the batch."""
        started = time.perf_counter()
        texts = self._forward(batch)
        self._synchronize()
        forwarded = time.perf_counter()
        jobs = [self._begin(work) for work in batch]
        for rank in range(len(self._sources)):
            self._encode_source(rank, jobs, texts)
        done = tuple(self._finish(job) for job in jobs)
        return BatchDone(done, forwarded - started, time.perf_counter() - forwarded)

    @torch.inference_mode()
    def encode_blocks(self, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, Tensor]]:
        """For each source its rank and activations [tokens of all blocks, n_features], block after block.

        `blocks` are ids without BOS; each is run with its own, whose row is left out.
        """
        bos = [] if self.catalog.model.bos_id is None else [self.catalog.model.bos_id]
        places = {source.info.hook_name: self._model.place(source.info.hook_name) for source in self._sources}
        read = self._model.forward.run([[*bos, *block] for block in blocks], places)
        for rank, source in enumerate(self._sources):
            yield rank, source.encode(torch.cat([text[source.info.hook_name][len(bos) :] for text in read]))

    def _forward(self, batch: Sequence[Work]) -> dict[tuple[int, ...], _Text]:
        texts: dict[tuple[int, ...], _Text] = {}
        for work in batch:
            text = texts.setdefault(work.ids, _Text(work.ids))
            text.hooks.update(self._sources[rank].info.hook_name for rank in _ranks(work))
        by_hooks: dict[frozenset[str], list[_Text]] = defaultdict(list)
        for text in texts.values():
            by_hooks[frozenset(text.hooks)].append(text)
        for hooks, alike in by_hooks.items():
            places = {hook: self._model.place(hook) for hook in hooks}
            for text, read in zip(alike, self._model.forward.run([text.ids for text in alike], places), strict=True):
                text.read = read
        return texts

    def _begin(self, work: Work) -> _Search | _Encode:
        if isinstance(work, SearchWork):
            rankings = len(work.rows) if work.aggregate is Aggregate.EACH else 1
            return _Search(work, [[] for _ in range(rankings)])
        dense = np.empty((row_count(work), len(work.features)), dtype=np.float32) if work.features else None
        return _Encode(work, dense=dense)

    def _encode_source(self, rank: int, jobs: list[_Search | _Encode], texts: dict[tuple[int, ...], _Text]) -> None:
        """Encodes one source for the texts of every job that asks for it, and lets each job take its part."""
        source = self._sources[rank]
        wanting: dict[tuple[int, ...], list[_Search | _Encode]] = defaultdict(list)
        for job in jobs:
            if isinstance(job, _Search):
                chosen = next((one for one in job.work.filters if one.source == rank), None)
                if chosen is None:
                    continue
                taking_part = self._masks.count(chosen)
                job.considered += taking_part
                if taking_part == 0 or not job.work.rows:
                    continue
            elif rank not in _ranks(job.work):
                continue
            wanting[job.work.ids].append(job)
        hook = source.info.hook_name
        for group in _chunks(list(wanting), CHUNK_ELEMENTS // source.info.n_features):
            lengths = [max(row_count(job.work) for job in wanting[ids]) for ids in group]  # the BOS only if asked for
            read = [texts[ids].read[hook][len(ids) - length :] for ids, length in zip(group, lengths, strict=True)]
            activations = source.encode(torch.cat(read))
            for ids, own in zip(group, activations.split(lengths), strict=True):  # own: [rows, n_features]
                for job in wanting[ids]:
                    rows = own[len(own) - row_count(job.work) :]
                    if isinstance(job, _Search):
                        self._rank(job, rank, rows)
                    else:
                        _take(job, rank, source, rows)

    def _rank(self, job: _Search, rank: int, rows: Tensor) -> None:
        work = job.work
        chosen = next(one for one in work.filters if one.source == rank)
        values = self._values(work, chosen, rows)
        for parts, found in zip(job.parts, candidates(values, work.limit, rank), strict=True):
            parts.append(found)
        if work.aggregate is not Aggregate.EACH:
            index = torch.from_numpy(job.parts[0][-1].index).to(rows.device)
            job.columns.append(rows.index_select(1, index))

    def _values(self, work: SearchWork, chosen: SourceFilter, rows: Tensor) -> Tensor:
        """[rankings, n_features]: what the features rank by; 0 for those that take no part."""
        picked = None
        if len(work.rows) < len(rows):
            picked = torch.tensor(work.rows, device=rows.device)
        if work.aggregate is Aggregate.MAX:
            values = aggregate_max(rows, picked)
        elif work.aggregate is Aggregate.SUM:
            values = aggregate_sum(rows, torch.tensor(work.rows, device=rows.device))
        else:
            values = rows if picked is None else rows.index_select(0, picked)
        if work.relative:
            values = values / self._masks.maximum(chosen.source)
        mask = self._masks.mask(chosen)
        return values if mask is None else values.masked_fill(~mask, 0.0)

    def _finish(self, job: _Search | _Encode) -> Done:
        work = job.work
        if isinstance(job, _Encode):
            blocks = tuple(job.blocks[rank] for rank in job.work.sources)
            return EncodeDone(row_count(work), blocks, job.dense)
        merged = [merge(parts, job.work.limit) for parts in job.parts if parts]
        ranked = tuple(one for one, _ in merged)
        if job.work.aggregate is Aggregate.EACH:
            return SearchDone(ranked, None, job.considered)
        if not merged:
            return SearchDone((), np.empty((0, row_count(work)), np.float32), job.considered)
        order = torch.from_numpy(merged[0][1]).to(job.columns[0].device)
        columns = torch.cat(job.columns, dim=1).index_select(1, order)
        return SearchDone(ranked, columns.t().contiguous().cpu().numpy(), job.considered)

    def _synchronize(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


def run_guarded(runner: BatchRunner, batch: Sequence[Work]) -> BatchDone:
    """`runner.run`, with a batch that fails answered as failed. One bad item fails its batch for now: isolation goes
    here."""
    try:
        return runner.run(batch)
    except Exception as error:  # whatever torch raises must not end the worker
        log.exception("a batch of %d failed", len(batch))
        return BatchDone(tuple(Failed(f"{type(error).__name__}: {error}") for _ in batch), 0.0, 0.0)


def _ranks(work: Work) -> set[int]:
    """Ranks of the sources that an item needs."""
    if isinstance(work, SearchWork):
        return {chosen.source for chosen in work.filters}
    return {*work.sources, *(rank for rank, _ in work.features)}


def _chunks(texts: list[tuple[int, ...]], tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """The texts in groups of at most `tokens` ids, at least one text each."""
    group: list[tuple[int, ...]] = []
    held = 0
    for ids in texts:
        if group and held + len(ids) > tokens:
            yield group
            group, held = [], 0
        group.append(ids)
        held += len(ids)
    if group:
        yield group


def _take(job: _Encode, rank: int, source: Source, rows: Tensor) -> None:
    """Takes what an encoding wants of one source's activations [rows, n_features]."""
    if rank in job.work.sources:
        job.blocks[rank] = rows.cpu().numpy() if source.info.kind is Kind.NEURON else _to_csr(rows)
    wanted = [(column, index) for column, (own, index) in enumerate(job.work.features) if own == rank]
    if wanted and job.dense is not None:
        columns = [column for column, _ in wanted]
        indices = torch.tensor([index for _, index in wanted], device=rows.device)
        job.dense[:, columns] = rows.index_select(1, indices).cpu().numpy()


def _to_csr(rows: Tensor) -> Csr:
    row, column = (rows > 0).nonzero(as_tuple=True)
    indptr = np.zeros(rows.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(row.cpu().numpy(), minlength=rows.shape[0]), out=indptr[1:])
    return Csr(
        indptr=indptr,
        indices=column.cpu().numpy().astype(np.uint32),
        data=rows[row, column].cpu().numpy(),
        columns=rows.shape[1],
    )
