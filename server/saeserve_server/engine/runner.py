"""Computes a batch: one forward pass for all texts, one encoding for each source, an exact top K for each search.

Identical texts are run once, whoever asks, or once for each BOS where sources differ in it. No array of all tokens by
all latents of all sources ever exists: sources are encoded one after another, and of each only the candidates' columns
are kept.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from saeserve_server.catalog import Catalog, FloatArray, Kind
from saeserve_server.engine.masks import Masks
from saeserve_server.engine.ranking import Candidates, aggregate_max, aggregate_sum, candidates, merge
from saeserve_server.engine.work import (
    Abandoned,
    Aggregate,
    BatchDone,
    Csr,
    Done,
    EncodeDone,
    EncodeWork,
    KeptRows,
    Run,
    SearchDone,
    SearchWork,
    SourceFilter,
    SourceRows,
    Spent,
    Work,
    needed,
    row_count,
    run_tokens,
)
from saeserve_server.models.loaded import LoadedModel
from saeserve_server.records.store import RecordStore
from saeserve_server.sources.source import Source

T = TypeVar("T")

CHUNK_ELEMENTS = 2**25
"""Most activations of one source held at a time (128 MiB in float32); a single text may take more."""
MOST_KEPT_BYTES = 2**24
"""Largest rows of one item that are given back to be kept: they cross the pipe."""
PATIENCE_WITH_DENSE = 8
"""After so many times in a row that a source fired on too much to be kept, it is not tried any more."""
KEPT_SHARE = 4
"""Latents are worth keeping while they take no more than so many times the activations that they were made from."""


@dataclass(slots=True)
class _Text:
    """A distinct text of the batch under one BOS, and what was read of it."""

    hooks: set[str] = field(default_factory=set)
    read: dict[str, Tensor] = field(default_factory=dict)  # hook name → [BOS and ids, d_in]


@dataclass(slots=True, kw_only=True)
class _Job:
    """A work item in progress."""

    place: int
    kept: dict[int, SourceRows] | None
    """The rows of its sources so far, if they are to be given back; None also once they are too large."""
    kept_bytes: int = 0

    def keep(self, rank: int, rows: SourceRows | None) -> None:
        """Takes the rows of a source; None for rows not worth keeping, and with them all others."""
        self.kept_bytes += 0 if rows is None else rows.nbytes
        if self.kept is not None and rows is not None and self.kept_bytes <= MOST_KEPT_BYTES:
            self.kept[rank] = rows
        else:
            self.kept = None


@dataclass(slots=True, kw_only=True)
class _Search(_Job):
    """A search in progress: its candidates so far, one list for each ranking, and their activations."""

    work: SearchWork
    parts: list[list[Candidates]]
    columns: list[Tensor] = field(default_factory=list)  # [rows, candidates] of each source, in the order of parts
    considered: int = 0


@dataclass(slots=True, kw_only=True)
class _Encode(_Job):
    """An encoding in progress."""

    work: EncodeWork
    blocks: dict[int, Csr | FloatArray] = field(default_factory=dict)
    dense: FloatArray | None = None


def _nobody() -> Set[int]:
    return frozenset()


class BatchRunner:
    """Model, sources and index of the worker, and the computation over them. One caller at a time."""

    def __init__(self, model: LoadedModel, sources: Sequence[Source], index: RecordStore | None) -> None:
        self._model = model
        self._sources = sources
        self._masks = Masks(sources, index, model.device)
        self._too_dense = [0] * len(sources)  # how many times in a row a source's latents were too many to keep
        self.catalog = Catalog(model.info, tuple(source.info for source in sources))

    @torch.inference_mode()
    def run(
        self, batch: Sequence[Work], keep: Sequence[bool] = (), gone: Callable[[], Set[int]] = _nobody
    ) -> BatchDone:
        """The answers to a batch, in its order. Raises what torch raises: the caller decides about the batch.

        `keep` says for each item whether to give its rows back too. `gone` gives the places of the items that nobody
        waits for any more; it is asked before the forward pass, after it, and before each source.
        """
        started = time.perf_counter()
        spent = Spent()
        done: dict[int, Done] = {place: Abandoned("forward") for place in gone()}
        jobs = [self._begin(place, work, keep) for place, work in enumerate(batch) if place not in done]
        texts = self._forward([job.work for job in jobs], spent)
        self._synchronize()
        forwarded = time.perf_counter()
        for rank in range(len(self._sources)):
            if left := gone():
                done.update({job.place: Abandoned("encode") for job in jobs if job.place in left})
                jobs = [job for job in jobs if job.place not in left]
            self._encode_source(rank, jobs, texts, spent)
        done.update({job.place: self._finish(job) for job in jobs})
        spent.forward_seconds, spent.encode_seconds = forwarded - started, time.perf_counter() - forwarded
        kept: dict[int, KeptRows | None] = {job.place: job.kept for job in jobs}
        places = range(len(batch))
        return BatchDone(tuple(done[place] for place in places), spent, tuple(kept.get(place) for place in places))

    @torch.inference_mode()
    def encode_blocks(self, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, Tensor]]:
        """For each source its rank and activations [tokens of all blocks, n_features], block after block.

        `blocks` are ids without BOS; each is run with that of the source, whose row is left out.
        """
        for bos, hooks in self._hooks(range(len(self._sources))).items():
            places = {hook: self._model.place(hook) for hook in hooks}
            read = self._model.forward.run([_sequence((bos, tuple(block))) for block in blocks], places)
            lead = 0 if bos is None else 1
            for rank, source in enumerate(self._sources):
                if source.info.bos_id == bos:
                    yield rank, source.encode(torch.cat([text[source.info.hook_name][lead:] for text in read]))

    def _hooks(self, ranks: Iterable[int]) -> dict[int | None, set[str]]:
        """The hook points of some sources, by the BOS with which these read a text."""
        hooks: dict[int | None, set[str]] = defaultdict(set)
        for rank in ranks:
            info = self._sources[rank].info
            hooks[info.bos_id].add(info.hook_name)
        return hooks

    def _forward(self, batch: Sequence[Work], spent: Spent) -> dict[Run, _Text]:
        texts: dict[Run, _Text] = defaultdict(_Text)
        for work in batch:
            for bos, hooks in self._hooks(needed(work)).items():
                texts[bos, work.ids].hooks |= hooks
        by_hooks: dict[frozenset[str], list[Run]] = defaultdict(list)
        for run, text in texts.items():
            by_hooks[frozenset(text.hooks)].append(run)
        for names, alike in by_hooks.items():
            places = {hook: self._model.place(hook) for hook in names}
            for run, read in zip(alike, self._model.forward.run(list(map(_sequence, alike)), places), strict=True):
                texts[run].read = read
        spent.forward_passes += len(texts)
        spent.forward_tokens += sum(map(run_tokens, texts))
        return texts

    def _begin(self, place: int, work: Work, keep: Sequence[bool]) -> _Search | _Encode:
        kept: dict[int, SourceRows] | None = {} if keep and keep[place] else None
        if isinstance(work, SearchWork):
            rankings = len(work.rows) if work.aggregate is Aggregate.EACH else 1
            return _Search(place=place, kept=kept, work=work, parts=[[] for _ in range(rankings)])
        dense = np.empty((row_count(work), len(work.features)), dtype=np.float32) if work.features else None
        return _Encode(place=place, kept=kept, work=work, dense=dense)

    def _encode_source(self, rank: int, jobs: list[_Search | _Encode], texts: dict[Run, _Text], spent: Spent) -> None:
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
            elif rank not in needed(job.work):
                continue
            wanting[job.work.ids].append(job)
        bos, hook = source.info.bos_id, source.info.hook_name
        for group in in_groups(wanting, lambda ids: run_tokens((bos, ids)), CHUNK_ELEMENTS // source.info.n_features):
            lengths = [max(row_count(job.work) for job in wanting[ids]) for ids in group]  # the BOS only if asked for
            read = [
                texts[bos, ids].read[hook][max(0, run_tokens((bos, ids)) - length) :]
                for ids, length in zip(group, lengths, strict=True)
            ]
            activations = source.encode(torch.cat(read))
            spent.encodes += len(group)
            spent.encode_tokens += len(activations)
            if bos is None:
                activations = _with_blank_rows(activations, list(map(len, read)), lengths)
            asking = [job for ids in group for job in wanting[ids]]
            if self._too_dense[rank] >= PATIENCE_WITH_DENSE:
                for job in asking:
                    job.kept = None
            wants_rows = any(
                job.kept is not None or (isinstance(job, _Encode) and rank in job.work.sources) for job in asking
            )
            found = _Rows(activations, source) if wants_rows else None
            if found is not None and any(job.kept is not None for job in asking):
                too_dense = found.worth_keeping(0, len(activations)) is None
                self._too_dense[rank] = self._too_dense[rank] + 1 if too_dense else 0
            end = 0
            for ids, own in zip(group, activations.split(lengths), strict=True):  # own: [rows, n_features]
                end += len(own)
                for job in wanting[ids]:
                    first = end - row_count(job.work)
                    rows = activations[first:end]
                    if isinstance(job, _Search):
                        self._rank(job, rank, rows)
                    else:
                        _take(job, rank, rows, found, first, end)
                    if found is not None and job.kept is not None:
                        job.keep(rank, found.worth_keeping(first, end))

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


class _Rows:
    """What a source gave on the rows of several texts, in the form in which it leaves the engine."""

    def __init__(self, activations: Tensor, source: Source) -> None:
        self._d_in = source.info.d_in
        self._rows: SourceRows = activations.cpu().numpy() if source.info.kind is Kind.NEURON else _to_csr(activations)

    def cut(self, first: int, end: int) -> SourceRows:
        """The rows from `first` to `end`."""
        return self._rows.cut(first, end) if isinstance(self._rows, Csr) else self._rows[first:end]

    def worth_keeping(self, first: int, end: int) -> SourceRows | None:
        """The same, or None where so many latents fire that they are not worth their memory."""
        rows = self.cut(first, end)
        return rows if rows.nbytes <= KEPT_SHARE * 4 * self._d_in * (end - first) else None


def in_groups(items: Iterable[T], tokens: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The items in groups of at most `most` tokens, at least one item each."""
    group: list[T] = []
    held = 0
    for item in items:
        if group and held + tokens(item) > most:
            yield group
            group, held = [], 0
        group.append(item)
        held += tokens(item)
    if group:
        yield group


def _sequence(run: Run) -> tuple[int, ...]:
    """The ids that the model runs on."""
    bos, ids = run
    return ids if bos is None else (bos, *ids)


def _with_blank_rows(activations: Tensor, read: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Of texts that were read without BOS: where a row for it is asked for all the same, zeros."""
    if read == lengths:
        return activations
    blank = activations.new_zeros(1, activations.shape[1])
    texts = zip(activations.split(list(read)), lengths, strict=True)
    return torch.cat([part for rows, length in texts for part in ((rows,) if len(rows) == length else (blank, rows))])


def _take(job: _Encode, rank: int, rows: Tensor, found: _Rows | None, first: int, end: int) -> None:
    """Takes what an encoding wants of one source's activations [rows, n_features], which are those from `first` on."""
    if found is not None and rank in job.work.sources:
        job.blocks[rank] = found.cut(first, end)
    wanted = [(column, index) for column, (own, index) in enumerate(job.work.features) if own == rank]
    if wanted and job.dense is not None:
        columns = [column for column, _ in wanted]
        indices = torch.tensor([index for _, index in wanted], device=rows.device)
        job.dense[:, columns] = rows.index_select(1, indices).cpu().numpy()


def _to_csr(rows: Tensor) -> Csr:
    """The latents [rows, n_features] that fire. Raises FloatingPointError for NaN."""
    row, column = rows.nonzero(as_tuple=True)  # latents are never negative, and NaN counts as nonzero
    data = rows[row, column].cpu().numpy()
    if np.isnan(data).any():
        raise FloatingPointError("the activations hold NaN")
    indptr = np.zeros(rows.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(row.cpu().numpy(), minlength=rows.shape[0]), out=indptr[1:])
    return Csr(indptr, column.cpu().numpy().astype(np.uint32), data, rows.shape[1])
