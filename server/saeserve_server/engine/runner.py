"""Computes a batch: one forward pass for all texts, then source after source its rows, from which all else follows.

Identical texts are run once, whoever asks, or once for each BOS where sources differ in it. A source gives its rows on
all texts that ask for it at once (`sources/source.py`); questions take their part of them (`ranking/`), and no source's
rows outlive it but what is asked for or kept.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from saeserve_server.catalog import Catalog, Kind
from saeserve_server.engine.similar import Neighbours
from saeserve_server.engine.vectors import vectors_of
from saeserve_server.engine.work import Abandoned, BatchDone, Done, Run, Spent, run_tokens
from saeserve_server.kernels.processor import processor
from saeserve_server.models.loaded import LoadedModel
from saeserve_server.ranking.answer import Encoding
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.search import Rankings
from saeserve_server.ranking.similar import AnyWork, SimilarWork, VectorsWork
from saeserve_server.ranking.work import EncodeWork, SearchWork, Work, needed, row_count
from saeserve_server.records.imported.store import ImportedStore
from saeserve_server.records.store import RecordStore
from saeserve_server.rows import KeptRows, SourceRows, as_csr, cut, height, with_blank_rows
from saeserve_server.sources.source import SaeSource, Source

T = TypeVar("T")

MOST_KEPT_BYTES = 2**24
"""Largest rows of one item that are given back to be kept: they cross the pipe."""
MOST_KEPT_IN_BATCH = 2**26
"""The same of a batch. Neurons of GPT-2 small take 147 kB a token."""
KEPT_SHARE = 4
"""Latents are worth keeping while they take no more than so many times the activations that they were made from."""


@dataclass(slots=True)
class _Text:
    """A distinct text of the batch under one BOS, and what was read of it."""

    hooks: set[str] = field(default_factory=set)
    read: dict[str, Tensor] = field(default_factory=dict)  # hook name → [BOS and ids, d_in]


@dataclass(slots=True, eq=False)
class _Job:
    """A work item in progress."""

    place: int
    work: Work
    taking: int | Encoding
    """A search by its number among the batch's, or an encoding."""
    kept: dict[int, SourceRows] | None
    """The rows of its sources so far, if they are to be given back; None also once some are not worth it."""
    kept_bytes: int = 0


def _nobody() -> Set[int]:
    return frozenset()


class BatchRunner:
    """Model, sources and index of the worker, and the computation over them. One caller at a time."""

    def __init__(
        self,
        model: LoadedModel,
        sources: Sequence[Source],
        index: RecordStore | None,
        imported: ImportedStore | None = None,
    ) -> None:
        self._model = model
        self.sources = sources
        self._filters = Filters([source.info for source in sources], index, imported)
        self.imported = imported.revision if imported else ""
        """Revision of the store of imported records; empty without one."""
        self.catalog = Catalog(model.info, tuple(source.info for source in sources))
        self._neighbours = Neighbours(model, sources, self._filters, self.catalog)

    @torch.inference_mode()
    def run(
        self, batch: Sequence[AnyWork], keep: Sequence[bool] = (), gone: Callable[[], Set[int]] = _nobody
    ) -> BatchDone:
        """The answers to a batch, in its order. Raises what torch raises: the caller decides about the batch.

        `keep` says for each item whether to give its rows back too. `gone` gives the places of the items that nobody
        waits for any more; it is asked before the forward pass, after it, and before each source.
        """
        started = time.perf_counter()
        spent = Spent()
        done: dict[int, Done] = {place: Abandoned("forward") for place in gone()}
        jobs: list[_Job] = []
        searches: list[SearchWork] = []
        similar: dict[int, SimilarWork] = {}
        for place, work in enumerate(batch):
            if place in done:
                continue
            if isinstance(work, SimilarWork):
                similar[place] = work
            elif isinstance(work, VectorsWork):
                done[place] = vectors_of(self._model, self.sources[work.source], work)
            else:
                taking = len(searches) if isinstance(work, SearchWork) else Encoding(work)
                searches += [work] if isinstance(work, SearchWork) else []
                jobs.append(_Job(place, work, taking, {} if keep and keep[place] else None))
        rankings = Rankings(searches, self._filters)
        texts = self._forward([job.work for job in jobs], spent)
        self._synchronize()
        forwarded = time.perf_counter()
        for rank in range(len(self.sources)):
            if left := gone():
                done.update({job.place: Abandoned("encode") for job in jobs if job.place in left})
                jobs = [job for job in jobs if job.place not in left]
            asking = [job for job in jobs if _asks(job, rank, rankings)]
            if asking:
                self._take(rank, asking, rankings, texts, spent)
        for job in jobs:
            if isinstance(job.taking, Encoding):
                self._project(job.taking, job.work, texts)
            done[job.place] = rankings.done(job.taking) if isinstance(job.taking, int) else job.taking.done()
        if similar:
            places_of = list(similar)
            answers = self._neighbours.answer(list(similar.values()), lambda one: places_of[one] in gone())
            done.update(zip(places_of, answers, strict=True))
        spent.forward_seconds, spent.encode_seconds = forwarded - started, time.perf_counter() - forwarded
        kept: dict[int, KeptRows | None] = {job.place: job.kept for job in jobs}
        places = range(len(batch))
        return BatchDone(tuple(done[place] for place in places), spent, tuple(kept.get(place) for place in places))

    @torch.inference_mode()
    def read(self, blocks: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """By hook point of the sources its activations [tokens of all blocks, d_in], read behind the model's BOS."""
        bos = self.catalog.model.bos_id
        hooks = {source.info.hook_name for source in self.sources}
        places = {hook: self._model.place(hook) for hook in hooks}
        read = self._model.forward.run([_sequence((bos, tuple(block))) for block in blocks], places)
        return {hook: torch.cat([text[hook][bos is not None :] for text in read]) for hook in hooks}

    @property
    def computed(self) -> dict[str, str]:
        """All that moves activations in their last bits."""
        device = self._model.device
        saes = [source for source in self.sources if isinstance(source, SaeSource)]
        kernels = {f"kernel of {source.info.id}": source.kernel.name for source in saes}
        return {
            "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "texts in a forward pass": "one" if self._model.forward.alone else "a batch",
            **kernels,
        }

    @torch.inference_mode()
    def encode_blocks(self, blocks: Sequence[Sequence[int]]) -> Iterator[tuple[int, SourceRows]]:
        """For each source its rank and its rows on the tokens of all blocks, block after block.

        `blocks` are ids without BOS; each is run with that of the source, whose row is left out.
        """
        for bos, hooks in self._hooks(range(len(self.sources))).items():
            places = {hook: self._model.place(hook) for hook in hooks}
            read = self._model.forward.run([_sequence((bos, tuple(block))) for block in blocks], places)
            lead = 0 if bos is None else 1
            for rank, source in enumerate(self.sources):
                if source.info.bos_id == bos:
                    yield rank, source.rows(torch.cat([text[source.info.hook_name][lead:] for text in read]))

    def _hooks(self, ranks: Iterable[int]) -> dict[int | None, set[str]]:
        """The hook points of some sources, by the BOS with which these read a text."""
        hooks: dict[int | None, set[str]] = defaultdict(set)
        for rank in ranks:
            info = self.sources[rank].info
            hooks[info.bos_id].add(info.hook_name)
        return hooks

    def _forward(self, batch: Sequence[Work], spent: Spent) -> dict[Run, _Text]:
        texts: dict[Run, _Text] = defaultdict(_Text)
        for work in batch:
            for bos, hooks in self._hooks(needed(work)).items():
                texts[bos, work.ids].hooks |= hooks
            if isinstance(work, EncodeWork) and work.projections:
                texts[self.catalog.model.bos_id, work.ids].hooks |= {one.hook_name for one in work.projections}
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

    def _take(
        self, rank: int, asking: Sequence[_Job], rankings: Rankings, texts: Mapping[Run, _Text], spent: Spent
    ) -> None:
        """Lets every job that asks for a source take its part of the source's rows."""
        heights: dict[tuple[int, ...], int] = defaultdict(int)  # of each text: a BOS row only if it is asked for
        for job in asking:
            heights[job.work.ids] = max(heights[job.work.ids], row_count(job.work))
        rows = self._rows(rank, heights, texts, spent)
        ends = dict(zip(heights, itertools.accumulate(heights.values()), strict=True))
        begins = {job.place: ends[job.work.ids] - row_count(job.work) for job in asking}
        searches = [(job.taking, begins[job.place]) for job in asking if isinstance(job.taking, int)]
        if searches:
            rankings.add(rank, rows, searches)
        for job in asking:
            own = cut(rows, begins[job.place], ends[job.work.ids])
            if self.sources[rank].info.kind is Kind.LATENT:
                own = as_csr(own)
            if isinstance(job.taking, Encoding):
                job.taking.add(rank, own)
            if job.kept is not None:
                self._keep(job, rank, own, spent)

    def _rows(
        self, rank: int, heights: Mapping[tuple[int, ...], int], texts: Mapping[Run, _Text], spent: Spent
    ) -> SourceRows:
        """A source's rows on texts, so many of the last of each; a row for a BOS that it does not read is blank."""
        source = self.sources[rank]
        bos, hook = source.info.bos_id, source.info.hook_name
        read = [texts[bos, ids].read[hook] for ids in heights]
        wanted = list(heights.values())
        x = torch.cat([text[max(0, len(text) - count) :] for text, count in zip(read, wanted, strict=True)])
        spent.encodes += len(read)
        spent.encode_tokens += len(x)
        rows = source.rows(x)
        if bos is not None:
            return rows
        lengths = np.array([len(text) for text in read])
        return with_blank_rows(rows, (np.cumsum(lengths) - lengths)[lengths < wanted])

    def _project(self, taking: Encoding, work: Work, texts: Mapping[Run, _Text]) -> None:
        """Lets an encoding take what it asks of the model's own activations."""
        if not isinstance(work, EncodeWork) or not work.projections:
            return
        read = texts[self.catalog.model.bos_id, work.ids].read
        products = []
        for one in work.projections:
            x = read[one.hook_name]
            products.append(x @ torch.frombuffer(bytearray(one.vector), dtype=torch.float32).to(x.device))
        taking.project(torch.stack(products, dim=1)[-row_count(work) :].cpu().numpy())

    def _keep(self, job: _Job, rank: int, rows: SourceRows, spent: Spent) -> None:
        """Notes rows to be given back, or none of the job's if these are not worth it."""
        info = self.sources[rank].info
        is_worth_it = (
            rows.nbytes <= KEPT_SHARE * 4 * info.d_in * height(rows)
            and job.kept_bytes + rows.nbytes <= MOST_KEPT_BYTES
            and spent.kept_bytes + rows.nbytes <= MOST_KEPT_IN_BATCH
        )
        if job.kept is not None and is_worth_it:
            job.kept[rank] = rows
            job.kept_bytes += rows.nbytes
            spent.kept_bytes += rows.nbytes
        else:
            spent.kept_bytes -= job.kept_bytes
            job.kept = None

    def _synchronize(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


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


def _asks(job: _Job, rank: int, rankings: Rankings) -> bool:
    return rankings.wants(job.taking, rank) if isinstance(job.taking, int) else rank in needed(job.work)


def _sequence(run: Run) -> tuple[int, ...]:
    """The ids that the model runs on."""
    bos, ids = run
    return ids if bos is None else (bos, *ids)
