"""Answers from rows are those of a plain computation, and from kept rows those of the runner, to the bit."""

from __future__ import annotations

import itertools
import math
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saeserve_server.catalog import Catalog, Kind, SourceInfo
from saeserve_server.config import load_config
from saeserve_server.engine.build import build_runner
from saeserve_server.engine.runner import BatchRunner
from saeserve_server.ranking.answer import answer_from
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.work import (
    Aggregate,
    EncodeDone,
    EncodeWork,
    Ranking,
    SearchDone,
    SearchWork,
    SourceFilter,
    Work,
    needed,
    row_count,
)
from saeserve_server.records.store import RecordStore
from saeserve_server.records.surprisal import Surprisal
from saeserve_server.rows import Csr, KeptRows, last_rows
from tests.conftest import DEVICE

pytestmark = pytest.mark.device

TEXT = (1524, 4708, 547, 5635, 372, 1305, 14)
LONG = tuple(range(100, 190))
TIMES = settings(max_examples=60, suppress_health_check=list(HealthCheck))


class FakeIndex:
    """What rankings ask of an index, for synthetic sources: each feature's activations > 0 over its tokens."""

    tokens = 16

    def __init__(self, activations: dict[str, list[list[float]]]) -> None:
        self.activations = activations

    def covers(self, source: str) -> bool:
        return source in self.activations

    def fires(self, source: str) -> np.ndarray:
        return np.array([len(own) for own in self.activations[source]])

    def density(self, source: str) -> np.ndarray:
        return self.fires(source) / self.tokens

    def maximum(self, source: str) -> np.ndarray:
        return np.array([max(own, default=0) for own in self.activations[source]], np.float32)

    def surprisal(self, source: str) -> Surprisal:
        codes: list[int] = []
        counts: list[int] = []
        offsets = [0]
        for own in self.activations[source]:
            found = Counter(map(code_of, own))
            codes += sorted(found)
            counts += [found[code] for code in sorted(found)]
            offsets.append(len(codes))
        arrays = np.array(offsets), np.array(codes, np.uint16), np.array(counts, np.uint64)
        return Surprisal(self.tokens, self.maximum(source), *arrays)


def code_of(value: float) -> int:
    """The bin of an activation."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0]) >> 20


def bits_of(value: float, own: Sequence[float], tokens: int) -> float:
    """The surprisal of an activation of a feature with such activations: plainly."""
    if value <= 0:
        return 0.0
    counts = Counter(map(code_of, own))
    code, top, maximum = code_of(value), max(counts), max(own)
    n = float(sum(count for bin_, count in counts.items() if bin_ > code))
    if code in counts:
        (lower,) = struct.unpack("<f", struct.pack("<I", code << 20))
        (upper,) = struct.unpack("<f", struct.pack("<I", (code + 1) << 20)) if code < top else (maximum,)
        share = min(1.0, max(0.0, (upper - value) / (upper - lower))) if upper > lower else 0.0
        n += 1 + (counts[code] - 1) * share if code == top else counts[code] * share
    return float(np.float32(np.log2(max(1.0, tokens / max(1.0, n)))))


def csr_of(dense: np.ndarray) -> Csr:
    row, column = np.nonzero(dense > 0)
    indptr = np.concatenate([[0], np.cumsum((dense > 0).sum(axis=1))])
    return Csr(indptr, column.astype(np.uint32), dense[row, column], dense.shape[1])


def same(one: Any, other: Any) -> None:
    """Holds two answers to be the same: values, shapes, types."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.array_equal(one, other)
    elif isinstance(one, Csr):
        assert one.columns == other.columns
        for name in ("indptr", "indices", "data"):
            same(getattr(one, name), getattr(other, name))
    elif isinstance(one, SearchDone):
        assert one.considered == other.considered
        assert len(one.ranked) == len(other.ranked)
        for left, right in zip(one.ranked, other.ranked, strict=True):
            for name in ("source", "index", "value"):
                same(getattr(left, name), getattr(right, name))
        same(one.activations, other.activations)
    elif isinstance(one, EncodeDone):
        assert one.rows == other.rows
        assert len(one.blocks) == len(other.blocks)
        for left, right in zip(one.blocks, other.blocks, strict=True):
            same(left, right)
        same(one.dense, other.dense)
    else:
        assert one is other is None


def plainly(
    work: SearchWork, dense: Sequence[np.ndarray], index: FakeIndex, ids: Sequence[str]
) -> tuple[list[list[tuple[int, int, float]]], int]:
    """(source, index, value) of each ranking, and how many features were considered: loops, nothing else."""
    rankings: list[list[tuple[int, int, float, float]]] = [
        [] for _ in (work.rows if work.aggregate is Aggregate.EACH else [0])
    ]
    considered = 0
    for chosen in work.filters:
        known = ids[chosen.source]
        for feature in range(dense[chosen.source].shape[1]):
            density, fires = index.density(known)[feature], index.fires(known)[feature]
            if (
                (chosen.only is not None and feature not in chosen.only)
                or feature in chosen.without
                or (chosen.min_density is not None and density < chosen.min_density)
                or (chosen.max_density is not None and density > chosen.max_density)
                or (chosen.min_fires is not None and fires < max(1, chosen.min_fires))
            ):
                continue
            considered += 1
            own = [float(dense[chosen.source][row, feature]) for row in work.rows]
            if not own:
                continue
            known_of = index.activations[known][feature]
            if work.ranking is Ranking.SURPRISAL:
                measured = [bits_of(value, known_of, index.tokens) for value in own]
            else:
                measured = own
            values = {Aggregate.MAX: [max(measured)], Aggregate.SUM: [sum(measured)], Aggregate.EACH: measured}
            shown = own if work.aggregate is Aggregate.EACH else [max(own)]
            for ranking, value, most in zip(rankings, values[work.aggregate], shown, strict=True):
                value, tie = np.float32(value), 0.0
                if work.ranking is Ranking.RELATIVE:
                    value = value / np.float32(max(known_of))
                if work.ranking is Ranking.SURPRISAL:
                    tie = float(np.float32(most) / np.float32(max(known_of)))
                if value > 0:
                    ranking.append((chosen.source, feature, float(value), tie))
    ranked = [sorted(ranking, key=lambda one: (-one[2], -one[3], one[0], one[1]))[: work.limit] for ranking in rankings]
    return [[one[:3] for one in ranking] for ranking in ranked], considered


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[np.ndarray], list[Kind], FakeIndex, SearchWork]:
    """A few sources on a few rows, with many ties, and a search on them. Sums of these values are exact."""
    rows = draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dense, kinds, activations = [], [], {}
    for rank in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(Kind))
        width = draw(st.integers(1, 30))
        lowest = -4 if kind is Kind.NEURON else 0
        values = random.integers(lowest, draw(st.integers(1, 12)), (rows, width)).astype(np.float32) / 4
        values *= random.random((rows, width)) < draw(st.sampled_from([0, 0.1, 0.5, 1]))  # 0: a source without entries
        values[random.random(rows) < 0.2] = 0
        dense.append(values)
        kinds.append(kind)
        # Of few values, and smaller ones than those above: many lie beyond the index, and are worth the same.
        activations[f"s{rank}"] = [
            (random.integers(1, 8, random.integers(0, FakeIndex.tokens)) / 4).tolist() for _ in range(width)
        ]
    ranking = draw(st.sampled_from(Ranking))
    measured = ranking is not Ranking.RAW
    filters = []
    for rank, values in enumerate(dense):
        features = st.lists(st.integers(0, values.shape[1] - 1), unique=True).map(sorted).map(tuple)
        density = st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0])
        filters.append(
            SourceFilter(
                rank,
                only=draw(st.none() | features),
                without=draw(st.just(()) | features),
                min_density=draw(density),
                max_density=draw(density),
                min_fires=draw(st.integers(0, 8)) if measured else draw(st.none() | st.integers(0, 8)),
            )
            if draw(st.booleans()) or measured
            else SourceFilter(rank)
        )
    work = SearchWork(
        ids=tuple(range(100, 100 + rows - 1)),
        bos_row=True,
        filters=tuple(filters),
        aggregate=draw(st.sampled_from(Aggregate)),
        rows=tuple(draw(st.sets(st.integers(0, rows - 1)).map(sorted) | st.just(range(rows)))),
        limit=draw(st.sampled_from([1, 2, 5, 25, 1000])),
        ranking=ranking,
    )
    return dense, kinds, FakeIndex(activations), work


def info_of(rank: int, kind: Kind, width: int) -> SourceInfo:
    hook = "blocks.0.mlp.hook_post"
    return SourceInfo(f"s{rank}", "set", 0, kind, hook, "standard", 8, width, bos_id=0)


@TIMES
@given(case=cases())
def test_the_same_as_a_plain_computation_and_as_the_runner(
    runner: BatchRunner, case: tuple[list[np.ndarray], list[Kind], FakeIndex, SearchWork]
) -> None:
    dense, kinds, index, work = case
    infos = [info_of(rank, kind, one.shape[1]) for rank, (kind, one) in enumerate(zip(kinds, dense, strict=True))]
    kept = {
        rank: one if kind is Kind.NEURON else csr_of(one)
        for rank, (kind, one) in enumerate(zip(kinds, dense, strict=True))
    }
    done = answer_from(work, kept, Filters(infos, index))  # type: ignore[arg-type]

    ranked, considered = plainly(work, dense, index, [info.id for info in infos])
    assert done.considered == considered
    answered = [
        list(zip(one.source.tolist(), one.index.tolist(), one.value.tolist(), strict=True)) for one in done.ranked
    ]
    takes_part = bool(considered and work.rows)
    assert answered == (ranked if takes_part else [])
    if work.aggregate is not Aggregate.EACH:
        expected = [dense[source][:, feature] for source, feature, _ in ranked[0]] if takes_part else []
        assert done.activations.tolist() == [column.tolist() for column in expected]

    sources = [
        SimpleNamespace(info=info, rows=lambda x, own=own: last_rows(own, len(x)))
        for info, own in zip(infos, kept.values(), strict=True)
    ]
    same(done, BatchRunner(runner._model, sources, index).run([work]).done[0])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def served() -> tuple[BatchRunner, Filters]:
    built, folder = build_runner(load_config(None, {"device": DEVICE}, {}))
    assert folder is not None
    return built, Filters(built.catalog.sources, RecordStore.open(folder))


@pytest.fixture(scope="module")
def runner(served: tuple[BatchRunner, Filters]) -> BatchRunner:
    return served[0]


def kept_of(runner: BatchRunner, ids: tuple[int, ...], bos_row: bool) -> KeptRows:
    ranks = tuple(range(len(runner.catalog.sources)))
    (done,) = runner.run([EncodeWork(ids, bos_row, ranks)]).done
    assert isinstance(done, EncodeDone)
    return dict(zip(ranks, done.blocks, strict=True))


def filters_of(catalog: Catalog, measured: bool) -> list[tuple[SourceFilter, ...]]:
    """Mixed sources under each kind of filter."""
    ranks = range(len(catalog.sources))
    latents = [rank for rank in ranks if catalog.sources[rank].kind is Kind.LATENT]
    narrowed: list[dict[str, Any]] = [
        {},
        {"only": tuple(range(0, 200, 3))},
        {"without": tuple(range(100)), "max_density": 0.02},
        {"min_density": 0.001, "max_density": 0.05},
        {"only": ()},
    ]
    fires = [{"min_fires": 1}, {"min_fires": 10}] if measured else [{}]
    found = []
    for chosen, narrow, least in itertools.product([latents, ranks], narrowed, fires):
        found.append(tuple(SourceFilter(rank, **narrow, **least) for rank in chosen))
    return found


@pytest.mark.parametrize("bos_row", [False, True])
@pytest.mark.parametrize("ids", [TEXT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("aggregate", Aggregate)
def test_the_same_as_the_demo_runner(
    served: tuple[BatchRunner, Filters], ids: tuple[int, ...], bos_row: bool, aggregate: Aggregate
) -> None:
    runner, filters = served
    kept = kept_of(runner, ids, bos_row)
    rows = len(ids) + bos_row
    subsets = [tuple(range(bos_row, rows)), (rows - 1,), tuple(range(1, rows, 2)), ()]
    works = [
        SearchWork(ids, bos_row, chosen, aggregate, picked, limit, ranking)
        for ranking in Ranking
        for chosen, picked, limit in itertools.product(
            filters_of(runner.catalog, ranking is not Ranking.RAW), subsets, (1, 25, 1000) if ids is TEXT else (25,)
        )
    ]
    for work, computed in zip(works, runner.run(works).done, strict=True):  # in one batch: the text is run once
        answered = answer_from(work, kept, filters)
        same(answered, computed)


@pytest.mark.parametrize("bos_row", [False, True])
def test_encodings_are_the_demo_runners(served: tuple[BatchRunner, Filters], bos_row: bool) -> None:
    runner, filters = served
    kept = kept_of(runner, TEXT, bos_row)
    last = len(runner.catalog.sources) - 1
    csr = kept[0]
    assert isinstance(csr, Csr)
    fired = int(csr.indices[0])
    features = ((last, 5), (0, fired), (0, 3), (last, 0), (0, fired), (1, 7))
    for work in (
        EncodeWork(TEXT, bos_row, (last, 0)),
        EncodeWork(TEXT, bos_row, (), features),
        EncodeWork(TEXT, bos_row, (1,), features),
    ):
        same(answer_from(work, {rank: kept[rank] for rank in needed(work)}, filters), runner.run([work]).done[0])


@pytest.mark.parametrize("aggregate", Aggregate)
def test_rows_without_their_bos_answer_requests_without_it(
    served: tuple[BatchRunner, Filters], aggregate: Aggregate
) -> None:
    runner, filters = served
    led, plain = kept_of(runner, TEXT, True), kept_of(runner, TEXT, False)
    rows = tuple(range(len(TEXT)))
    chosen = tuple(SourceFilter(rank) for rank in led)
    work: Work = SearchWork(TEXT, False, chosen, aggregate, rows, 25, Ranking.RAW)
    cut = answer_from(work, {rank: last_rows(led[rank], row_count(work)) for rank in led}, filters)
    whole = answer_from(work, plain, filters)
    assert isinstance(cut, SearchDone)
    assert isinstance(whole, SearchDone)
    for one, other in zip(cut.ranked, whole.ranked, strict=True):
        np.testing.assert_allclose(one.value, other.value, rtol=1e-4)
    if whole.activations is not None and cut.activations is not None:
        assert cut.activations.shape == whole.activations.shape


@pytest.mark.parametrize("count", [1, 15, 16, 17, 60, 200, 256])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_sum_is_rounded_once(count: int, sparse: bool) -> None:
    random = np.random.default_rng(count)
    dense = random.random((count, 2048)).astype(np.float32)
    if sparse:
        dense[random.random(dense.shape) < 0.8] = 0
    kind = Kind.LATENT if sparse else Kind.NEURON
    work = SearchWork(
        tuple(range(count)), False, (SourceFilter(0),), Aggregate.SUM, tuple(range(count)), 5000, Ranking.RAW
    )
    done = answer_from(work, {0: csr_of(dense) if sparse else dense}, Filters([info_of(0, kind, 2048)], None))
    assert isinstance(done, SearchDone)
    summed = np.zeros(2048, dtype=np.float32)
    summed[done.ranked[0].index] = done.ranked[0].value
    assert (summed == dense.sum(0, dtype=np.float64).astype(np.float32)).all()


def test_neurons_that_are_not_numbers_fail_and_are_not_dropped() -> None:
    filters = Filters([info_of(0, Kind.NEURON, 2)], None)
    kept = {0: np.array([[1.0, math.nan]], dtype=np.float32)}
    for aggregate in Aggregate:
        with pytest.raises(FloatingPointError, match="NaN"):
            answer_from(SearchWork((5,), False, (SourceFilter(0),), aggregate, (0,), 1, Ranking.RAW), kept, filters)


def test_masks_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saeserve_server.ranking.filters.KEPT_BYTES", 5000)
    filters = Filters([info_of(0, Kind.LATENT, 2048)], None)
    first = filters.mask(SourceFilter(0, without=(0,)))
    assert filters.mask(SourceFilter(0, without=(0,))) is first
    for index in range(1, 20):
        assert filters.count(SourceFilter(0, without=(index,))) == 2047
    assert filters.mask(SourceFilter(0, without=(0,))) is not first
    assert filters.mask(SourceFilter(0)) is None
    assert len(filters._kept) <= 2


def test_it_needs_no_torch() -> None:
    code = "import sys, saeserve_server.ranking.answer, saeserve_server.cache.inner; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
