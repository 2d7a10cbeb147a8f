"""Sources that do not follow the model's BOS: a forward pass for each BOS, and one answer in the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saeserve_server.cache.inner import InnerTier
from saeserve_server.catalog import Catalog, SourceInfo
from saeserve_server.config import load_config
from saeserve_server.engine.build import build_runner
from saeserve_server.engine.runner import BatchRunner
from saeserve_server.engine.work import leading_bos
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.answer import answer_from
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.work import (
    Aggregate,
    EncodeWork,
    Projection,
    Ranking,
    SearchDone,
    SearchWork,
    SourceFilter,
)
from saeserve_server.records.builder import build_index
from saeserve_server.rows import Csr
from saeserve_server.serving.limits import make_limits
from saeserve_server.sources.source import Source
from tests.conftest import DEVICE

pytestmark = pytest.mark.device

TEXT = (1524, 4708, 547, 14, 5635, 372, 1305, 14)
OWN = {2: None, 4: 14}
"""The rules of two latent sources, by rank; 14 is a token of the text, too. All others follow the model: 0."""
MIXED = (0, 2, 3, 4)
"""Ranks of sources of every rule: latents, latents without BOS, neurons, latents with a BOS of their own."""


class Ruled:
    """A source under another rule."""

    def __init__(self, source: Source, bos_id: int | None) -> None:
        self.info: SourceInfo = replace(source.info, bos_id=bos_id)
        self.rows = source.rows


@pytest.fixture(scope="module")
def runner() -> BatchRunner:
    built, _ = build_runner(load_config(None, {"device": DEVICE}, {}), with_index=False)
    sources = [Ruled(source, OWN[rank]) if rank in OWN else source for rank, source in enumerate(built.sources)]
    return BatchRunner(built._model, sources, None)


@torch.inference_mode()
def plain(runner: BatchRunner, rank: int, ids: tuple[int, ...]) -> np.ndarray:
    """[1 + ids, n_features]: what one source gives on the text behind its BOS; without one, zeros for it."""
    source, model = runner.sources[rank], runner._model
    bos, hook = source.info.bos_id, source.info.hook_name
    (read,) = model.forward.run([ids if bos is None else (bos, *ids)], {hook: model.place(hook)})
    rows = dense(source.rows(read[hook]))
    return np.pad(rows, ((1, 0), (0, 0))) if bos is None else rows


def dense(block: Csr | np.ndarray) -> np.ndarray:
    if not isinstance(block, Csr):
        return block
    full = np.zeros((len(block.indptr) - 1, block.columns), dtype=np.float32)
    full[np.repeat(np.arange(len(full)), np.diff(block.indptr)), block.indices] = block.data
    return full


def search(
    aggregate: Aggregate = Aggregate.MAX, bos_row: bool = False, rows: tuple[int, ...] | None = None
) -> SearchWork:
    places = range(len(TEXT)) if rows is None else rows
    filters = tuple(SourceFilter(rank) for rank in MIXED)
    return SearchWork(TEXT, bos_row, filters, aggregate, tuple(place + bos_row for place in places), 40, Ranking.RAW)


@pytest.mark.parametrize("bos_row", [False, True])
def test_each_source_is_encoded_behind_its_own_bos(runner: BatchRunner, bos_row: bool) -> None:
    (done,) = runner.run([EncodeWork(TEXT, bos_row, MIXED)]).done
    assert done.rows == len(TEXT) + bos_row
    for rank, block in zip(MIXED, done.blocks, strict=True):
        np.testing.assert_allclose(dense(block), plain(runner, rank, TEXT)[not bos_row :], atol=1e-4, rtol=1e-5)
        assert dense(block)[0].any() == (not bos_row or rank != 2)  # what reads no BOS is zero there


def test_a_bos_that_ranks_is_each_sources_own(runner: BatchRunner) -> None:
    """And ranks nothing of a source that reads none, whose row is 0."""
    for aggregate in Aggregate:
        work = replace(search(aggregate, True, (-1, 3, 6)), bos_ranks=True)
        assert work.rows == (0, 4, 7)
        (done,) = runner.run([work]).done
        picked = {rank: plain(runner, rank, TEXT)[[0, 4, 7]] for rank in MIXED}
        assert not picked[2][0].any()
        for place, ranked in enumerate(done.ranked):
            values = {
                rank: {Aggregate.EACH: rows[place], Aggregate.MAX: rows.max(0), Aggregate.SUM: rows.sum(0)}[aggregate]
                for rank, rows in picked.items()
            }
            best = np.sort(np.concatenate(list(values.values())))[::-1][: work.limit]
            np.testing.assert_allclose(ranked.value, best[best > 0], atol=1e-4)
            if aggregate is Aggregate.EACH and place == 0:
                assert 2 not in ranked.source


def test_a_projection_is_of_the_models_bos_whatever_sources_read(runner: BatchRunner) -> None:
    hook = runner.sources[4].info.hook_name
    vector = np.random.default_rng(0).standard_normal(runner.sources[4].info.d_in).astype(np.float32)
    on = Projection(hook, vector.tobytes(), b"")
    for bos_row in (False, True):
        (done,) = runner.run([EncodeWork(TEXT, bos_row, features=((2, 3), (4, 5)), projections=(on, on))]).done
        model = runner._model
        (read,) = model.forward.run([(0, *TEXT)], {hook: model.place(hook)})
        expected = read[hook].double().numpy() @ vector
        for column in (2, 3):
            np.testing.assert_allclose(done.dense[:, column], expected[not bos_row :], atol=1e-4)
        np.testing.assert_allclose(done.dense[:, 1], plain(runner, 4, TEXT)[not bos_row :, 5], atol=1e-4)


def test_without_a_bos_the_row_of_one_is_0_in_a_projection(runner: BatchRunner) -> None:
    bare = BatchRunner(runner._model, runner.sources, None)
    bare.catalog = with_rules(runner.catalog, None, *(source.info.bos_id for source in runner.sources))
    hook = runner.sources[3].info.hook_name
    on = Projection(hook, np.ones(runner.sources[3].info.d_in, np.float32).tobytes(), b"")
    (done,) = bare.run([EncodeWork(TEXT, True, features=((3, 5),), projections=(on,))]).done
    (read,) = runner._model.forward.run([TEXT], {hook: runner._model.place(hook)})
    assert done.dense[0, 1] == 0
    np.testing.assert_allclose(done.dense[1:, 1], read[hook].sum(1).numpy(), atol=1e-3)


def test_the_rules_give_different_answers(runner: BatchRunner) -> None:
    """Else the other tests would show nothing."""
    model = runner.catalog.model
    for rank in OWN:
        followed = BatchRunner(runner._model, [Ruled(runner.sources[rank], model.bos_id)], None)
        assert np.abs(plain(followed, 0, TEXT) - plain(runner, rank, TEXT))[1:].max() > 0.1


@pytest.mark.parametrize("bos_row", [False, True])
@pytest.mark.parametrize("aggregate", Aggregate)
def test_a_search_ranks_what_each_source_gives_behind_its_own_bos(
    runner: BatchRunner, aggregate: Aggregate, bos_row: bool
) -> None:
    work = search(aggregate, bos_row, (1, 3, 6))
    (done,) = runner.run([work]).done
    by_source = {rank: plain(runner, rank, TEXT) for rank in MIXED}
    picked = {rank: rows[[2, 4, 7]] for rank, rows in by_source.items()}
    each = aggregate is Aggregate.EACH
    for place, ranked in enumerate(done.ranked):
        values = {
            rank: rows[place] if each else rows.max(0) if aggregate is Aggregate.MAX else rows.sum(0)
            for rank, rows in picked.items()
        }
        best = np.sort(np.concatenate(list(values.values())))[::-1][: work.limit]
        np.testing.assert_allclose(ranked.value, best[best > 0], atol=1e-4)
        own = [values[rank][index] for rank, index in zip(ranked.source, ranked.index, strict=True)]
        np.testing.assert_allclose(ranked.value, own, atol=1e-4)
    if not each:
        columns = [by_source[r][not bos_row :, i] for r, i in zip(ranked.source, ranked.index, strict=True)]
        np.testing.assert_allclose(done.activations, columns, atol=1e-4)
        assert {2, 4} < set(ranked.source.tolist())
    assert len(done.ranked) == (3 if each else 1)


def test_a_text_is_run_once_for_each_bos_that_somebody_reads(runner: BatchRunner) -> None:
    def spent(*works: SearchWork | EncodeWork) -> tuple[int, int, int]:
        answer = runner.run(works).spent
        return answer.forward_passes, answer.forward_tokens, answer.encode_tokens

    assert spent(EncodeWork(TEXT, False, (0, 1, 3, 6))) == (1, 9, 32)
    assert spent(EncodeWork(TEXT, False, (2,))) == (1, 8, 8)
    assert spent(search(), EncodeWork(TEXT, False, MIXED), search(Aggregate.EACH)) == (3, 9 + 8 + 9, 32)
    assert spent(search(bos_row=True)) == (3, 9 + 8 + 9, 9 + 8 + 9 + 9)  # there is no BOS to encode without one


@pytest.mark.parametrize("bos_row", [False, True])
def test_kept_rows_answer_as_the_runner_does(runner: BatchRunner, bos_row: bool) -> None:
    whole = EncodeWork(TEXT, True, MIXED)
    tier = InnerTier(10**8, Metrics())
    (kept,) = runner.run([whole], keep=[True]).kept
    assert kept is not None
    tier.put(whole, kept)
    for aggregate in (Aggregate.MAX, Aggregate.EACH):
        work = search(aggregate, bos_row)
        rows = tier.get(work)
        assert rows is not None
        answered, (computed,) = (
            answer_from(work, rows, Filters(runner.catalog.sources, None)),
            runner.run([work]).done,
        )
        assert isinstance(answered, SearchDone)
        for one, other in zip(answered.ranked, computed.ranked, strict=True):
            np.testing.assert_allclose(one.value, other.value, atol=1e-4)
        if aggregate is Aggregate.MAX:
            np.testing.assert_allclose(answered.activations, computed.activations, atol=1e-4)


def test_an_index_holds_what_each_source_gives_behind_its_own_bos(runner: BatchRunner, tmp_path: Path) -> None:
    """The model's BOS within a text is no text token for any source; another's own is one for all."""
    texts = {"a": [*TEXT, 0, *range(200, 220)], "b": [14, 300, 301, 0], "c": [*range(500, 510)]}
    index = build_index(
        runner,
        lambda given: [texts[one] for one in given],
        texts,
        tmp_path / "index",
        context=10,
        records_per_feature=3,
    )
    blocks = [tuple(ids[start : start + 10]) for ids in texts.values() for start in range(0, len(ids), 10)]
    counted = np.array([one != 0 for block in blocks for one in block])
    assert index.tokens == counted.sum() == 41
    for rank in MIXED:
        rows = np.concatenate([plain(runner, rank, block)[1:] for block in blocks])[counted]
        source = runner.catalog.sources[rank].id
        np.testing.assert_allclose(index.maximum(source), np.maximum(rows, 0).max(0), atol=1e-4)
        assert (index.fires(source) != (rows > 0).sum(0)).mean() < 0.001  # a value may lie at a threshold


def with_rules(catalog: Catalog, model: int | None, *sources: int | None) -> Catalog:
    infos = [replace(info, bos_id=bos) for info, bos in zip(catalog.sources, sources, strict=False)]
    return Catalog(replace(catalog.model, bos_id=model), tuple(infos))


def test_the_bos_row_shows_what_the_sources_read_else_the_models(runner: BatchRunner) -> None:
    catalog = with_rules(runner.catalog, 0, None, 14, 7)
    assert [leading_bos(catalog, ranks) for ranks in ((0, 1, 2), (2, 1), (2,), (0,), ())] == [14, 14, 7, 0, 0]
    bare = with_rules(runner.catalog, None, None, 14)
    assert [leading_bos(bare, ranks) for ranks in ((0, 1), (1,), (0,), ())] == [14, 14, None, None]


def test_a_text_leaves_room_for_the_bos_of_every_source(runner: BatchRunner) -> None:
    context, config = runner.catalog.model.context_tokens, load_config(None, {}, {})
    rules = [(0, None, None), (None, None, 14), (None, None, None)]
    limits = [make_limits(config, with_rules(runner.catalog, *rule)).max_tokens for rule in rules]
    assert limits == [context - 1, context - 1, context]
