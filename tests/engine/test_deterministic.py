"""The same question among others: the same up to rounding by default, the same to the bit where that is asked for."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
import torch

from saeserve_server.catalog import Kind
from saeserve_server.config import load_config
from saeserve_server.engine.build import build_runner, make_chooser
from saeserve_server.engine.runner import BatchRunner
from saeserve_server.errors import ConfigError
from saeserve_server.ranking.work import (
    Aggregate,
    EncodeDone,
    EncodeWork,
    Ranking,
    SearchDone,
    SearchWork,
    SourceFilter,
    Work,
)
from saeserve_server.rows import Csr, columns
from saeserve_server.sources.source import SaeSource
from tests.answers import Ranked, SourceReference, Tally, compare_activations, compare_ranking, reference_of
from tests.conftest import DEVICE

pytestmark = pytest.mark.device

MIXES = int(os.environ.get("MIXES", "3"))
"""Batches of random questions; 10,000 take some minutes."""


def runner_of(**settings: Any) -> BatchRunner:
    config = load_config(None, {"device": DEVICE, **settings}, {})
    runner, _ = build_runner(config, with_index=False)
    make_chooser(config, runner).begin()
    return runner


def texts(random: np.random.Generator) -> list[tuple[int, ...]]:
    count = random.integers(1, 12)
    return [tuple(random.integers(1, 6000, random.integers(1, 60)).tolist()) for _ in range(count)]


def questions(random: np.random.Generator, ids: tuple[int, ...], sources: int) -> Work:
    ranks = sorted(random.choice(sources, random.integers(1, sources + 1), replace=False).tolist())
    if random.random() < 0.3:
        return EncodeWork(ids, False, tuple(ranks))
    rows = sorted(random.choice(len(ids), random.integers(1, len(ids) + 1), replace=False).tolist())
    aggregate = Aggregate(random.choice([one.value for one in Aggregate]))
    return SearchWork(ids, False, tuple(map(SourceFilter, ranks)), aggregate, tuple(rows), 25, Ranking.RAW)


def bits(done: Any) -> list[bytes]:
    """All numbers of an answer."""
    if isinstance(done, EncodeDone):
        parts = [[one.indptr, one.indices, one.data] if isinstance(one, Csr) else [one] for one in done.blocks]
        return [array.tobytes() for array in itertools.chain(*parts)]
    assert isinstance(done, SearchDone)
    arrays = [array for one in done.ranked for array in (one.source, one.index, one.value)]
    return [array.tobytes() for array in (*arrays, *(() if done.activations is None else (done.activations,)))]


def test_where_it_is_asked_for_answers_are_the_same_to_the_bit_whatever_is_beside_them() -> None:
    runner = runner_of(deterministic="true")
    random = np.random.default_rng(0)
    for _ in range(MIXES):
        batch = [questions(random, ids, len(runner.sources)) for ids in texts(random)]
        together = runner.run(batch).done
        for work, among in zip(batch, together, strict=True):
            (alone,) = runner.run([work]).done
            assert bits(among) == bits(alone)


def test_by_default_they_are_the_same_up_to_rounding() -> None:
    runner = runner_of(kernel="fbgemm-int8")
    random = np.random.default_rng(1)
    tally = Tally()
    for mix in range(MIXES):
        batch = [questions(random, ids, len(runner.sources)) for ids in texts(random)]
        for work, done in zip(batch, runner.run(batch).done, strict=True):
            references = references_of(runner, work.ids)
            order = list(references)
            if isinstance(done, EncodeDone):
                assert isinstance(work, EncodeWork)
                for rank, block in zip(work.sources, done.blocks, strict=True):
                    dense = columns(block, np.arange(runner.sources[rank].info.n_features))
                    compare_activations(dense, references[order[rank]], f"mix {mix}", tally)
                continue
            assert isinstance(work, SearchWork)
            assert isinstance(done, SearchDone)
            each = work.aggregate is Aggregate.EACH
            rankings = [[row] for row in work.rows] if each else [list(work.rows)]
            asked = {order[one.source]: references[order[one.source]] for one in work.filters}
            how = "sum" if work.aggregate is Aggregate.SUM else "max"
            for rows, ranked in zip(rankings, done.ranked, strict=True):
                answer = [
                    Ranked(order[rank], index, value)
                    for rank, index, value in zip(
                        ranked.source.tolist(), ranked.index.tolist(), ranked.value.tolist(), strict=True
                    )
                ]
                compare_ranking(answer, asked, rows, how, work.limit, order, f"mix {mix}", tally)
    tally.check()


@torch.inference_mode()
def references_of(runner: BatchRunner, ids: tuple[int, ...]) -> dict[str, SourceReference]:
    """The plain computation on a text by itself, by source."""
    read = runner.read([ids])
    found = {}
    for source in runner.sources:
        x = read[source.info.hook_name]
        if isinstance(source, SaeSource):
            relu, margin = source.sae.pre_activations(x).relu(), source.sae.margins(x).abs()
            found[source.info.id] = reference_of(*(one.cpu().numpy() for one in (source.sae.encode(x), relu, margin)))
        else:
            assert source.info.kind is Kind.NEURON
            found[source.info.id] = reference_of(x.cpu().numpy(), x.cpu().numpy(), None)
    return found


def test_kernels_whose_rows_know_of_each_other_are_refused_for_it() -> None:
    with pytest.raises(ConfigError, match="kernel"):
        load_config(None, {"deterministic": "true", "kernel": "onednn"}, {})
