"""What a batch computes, and what it does not: shared texts, skipped sources, kept memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saeserve_server.config import load_config
from saeserve_server.engine.build import build_runner
from saeserve_server.engine.recovery import GuardedRunner
from saeserve_server.engine.runner import BatchRunner
from saeserve_server.engine.work import Abandoned, Batch, Failed
from saeserve_server.ranking.work import (
    Aggregate,
    EncodeDone,
    EncodeWork,
    Ranking,
    SearchDone,
    SearchWork,
    SourceFilter,
)
from saeserve_server.rows import Csr, SourceRows, columns
from tests.conftest import DEVICE

pytestmark = pytest.mark.device

TEXT = (1524, 4708, 547, 5635, 372, 1305, 14)


@pytest.fixture(scope="module")
def runner() -> BatchRunner:
    built, _ = build_runner(load_config(None, {"device": DEVICE}, {}), with_index=False)
    return built


class Counting:
    """Counts what runs through the model and the sources of a runner."""

    def __init__(self, runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sequences: list[int] = []
        self.rows: dict[str, list[int]] = {}
        forward = runner._model.forward
        run = forward.run

        def counted_run(sequences: Any, places: Any) -> Any:
            self.sequences.append(len(sequences))
            return run(sequences, places)

        monkeypatch.setattr(forward, "run", counted_run)
        monkeypatch.setattr(runner, "sources", [CountingSource(source, self) for source in runner.sources])


class CountingSource:
    def __init__(self, source: Any, counting: Counting) -> None:
        self.info = source.info
        self._source, self._counting = source, counting

    def rows(self, x: torch.Tensor) -> SourceRows:
        self._counting.rows.setdefault(self.info.id, []).append(len(x))
        return self._source.rows(x)


def search(ids: tuple[int, ...] = TEXT, sources: tuple[int, ...] = (0, 2), **changes: Any) -> SearchWork:
    values: dict[str, Any] = {
        "ids": ids,
        "bos_row": False,
        "filters": tuple(SourceFilter(rank) for rank in sources),
        "aggregate": Aggregate.MAX,
        "rows": tuple(range(len(ids))),
        "limit": 25,
        "ranking": Ranking.RAW,
    }
    return SearchWork(**(values | changes))


def test_identical_texts_run_once(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(runner, monkeypatch)
    batch = [search(), search(limit=3), search(rows=(5,), aggregate=Aggregate.SUM), EncodeWork(TEXT, False, (0,))]
    done = runner.run(batch).done
    assert counting.sequences == [1]
    assert counting.rows == {"0-demo": [7], "1-demo": [7]}
    assert (done[0].ranked[0].index[:3] == done[1].ranked[0].index).all()


def test_a_bos_row_is_encoded_only_if_somebody_asks(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(runner, monkeypatch)
    with_bos = search(bos_row=True, rows=tuple(range(1, 8)), sources=(0,))
    plain, led = runner.run([search(sources=(0,)), with_bos]).done
    assert counting.rows == {"0-demo": [8]}
    assert plain.activations.shape == (25, 7)
    assert led.activations.shape == (25, 8)
    assert (led.activations[:, 1:] == plain.activations).all()
    assert (led.ranked[0].index == plain.ranked[0].index).all()


def test_sources_of_which_nothing_takes_part_are_not_encoded(
    runner: BatchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(runner, monkeypatch)
    filters = (SourceFilter(0, only=()), SourceFilter(2, only=(5, 9), without=(5,)))
    (done,) = runner.run([search(filters=filters)]).done
    assert list(counting.rows) == ["1-demo"]
    assert done.considered == 1
    assert set(done.ranked[0].index.tolist()) <= {9}


def test_nothing_taking_part_gives_an_empty_answer(runner: BatchRunner) -> None:
    (done,) = runner.run([search(filters=(SourceFilter(0, only=()),))]).done
    assert done.considered == 0
    assert done.activations.shape == (0, 7)


def test_long_and_short_texts_in_one_batch_give_what_they_give_alone(runner: BatchRunner) -> None:
    texts = [TEXT, tuple(range(100, 320)), (7,), TEXT[:3], tuple(range(500, 540))]
    works = [search(text, sources=(0, 1, 6), limit=50) for text in texts]
    for work, among in zip(works, runner.run(works).done, strict=True):
        (alone,) = runner.run([work]).done
        np.testing.assert_allclose(among.ranked[0].value, alone.ranked[0].value, atol=1e-4, rtol=1e-5)


def test_a_request_that_fails_is_answered_as_failed_and_the_others_of_its_batch_are_not(runner: BatchRunner) -> None:
    bad = EncodeWork((10**6,), False, (0,))  # the front end refuses such ids: this is its fault, not a caller's
    works = (search(), bad, EncodeWork(TEXT, False, (0,)), search(TEXT[:3]))
    guarded = GuardedRunner(runner)
    answer = guarded.run(Batch(0, works, (False,) * 4), frozenset)
    assert [type(one) for one in answer.done] == [SearchDone, Failed, EncodeDone, SearchDone]
    assert answer.done[1].reason == "INTERNAL"
    assert answer.spent.splits == 2
    (alone,) = runner.run([works[3]]).done
    np.testing.assert_allclose(answer.done[3].ranked[0].value, alone.ranked[0].value, atol=1e-4)
    again = guarded.run(Batch(1, (search(),), (False,)), frozenset)
    assert isinstance(again.done[0], SearchDone)
    assert (again.spent.splits, again.spent.out_of_memory) == (0, 0)


def test_nothing_to_rank_on_still_says_what_was_considered(runner: BatchRunner) -> None:
    (done,) = runner.run([search((0, 0), rows=())]).done
    assert done.considered == 4096
    assert done.activations.shape == (0, 2)


def test_the_front_end_imports_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, saeserve_server.api.server, saeserve_server.commands.main, saeserve_server.serving.serving\n"
        "heavy = {'torch', 'transformer_lens', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Rows to be kept


def same_rows(one: SourceRows, other: SourceRows) -> None:
    """Equal to the bit."""
    assert type(one) is type(other)
    if isinstance(one, Csr):
        assert one.columns == other.columns
        for name in ("indptr", "indices", "data"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    else:
        assert np.array_equal(one, other)


@pytest.mark.parametrize("bos_row", [False, True])
def test_kept_rows_are_those_of_encoding_the_whole_sources(runner: BatchRunner, bos_row: bool) -> None:
    rows = tuple(range(bos_row, 7 + bos_row))
    works = [
        search(sources=(0, 1, 2), rows=rows, bos_row=bos_row),
        search(sources=(0, 1), rows=rows[2:3], bos_row=bos_row, aggregate=Aggregate.SUM, limit=1),
        search(sources=(0, 1), rows=rows, bos_row=bos_row, aggregate=Aggregate.EACH),
        search(sources=(0, 1), rows=rows, bos_row=bos_row),
        EncodeWork(TEXT, bos_row, (), ((1, 5), (0, 7))),
        EncodeWork(TEXT, bos_row, (2, 0)),
    ]
    whole = EncodeWork(TEXT, bos_row, (0, 1, 2))
    answer = runner.run([*works, whole], keep=[True, True, True, False, True, True, False])
    expected = dict(zip(whole.sources, answer.done[-1].blocks, strict=True))
    sources = [set(kept) if kept is not None else None for kept in answer.kept]
    assert sources == [{0, 1, 2}, {0, 1}, {0, 1}, None, {0, 1}, {0, 2}, None]
    for kept in answer.kept:
        for rank, one in (kept or {}).items():
            same_rows(one, expected[rank])
    plain = runner.run(works).done  # to keep changes no answer
    for one, other in zip(plain, answer.done, strict=False):
        assert type(one) is type(other)
        if isinstance(one, SearchDone):
            assert [ranked.value.tolist() for ranked in one.ranked] == [
                ranked.value.tolist() for ranked in other.ranked
            ]


def test_each_text_of_a_batch_is_kept_with_its_own_rows(runner: BatchRunner) -> None:
    texts = [TEXT, (7,), tuple(range(100, 160)), TEXT[:4]]
    answer = runner.run([search(text) for text in texts], keep=[True] * 4)
    for text, kept in zip(texts, answer.kept, strict=True):
        (alone,) = runner.run([EncodeWork(text, False, (0, 2))]).done
        assert kept is not None
        for rank, block in zip((0, 2), alone.blocks, strict=True):
            assert len(kept[rank].indptr) == len(text) + 1
            every = np.arange(block.columns)
            np.testing.assert_allclose(columns(kept[rank], every), columns(block, every), atol=1e-4)


class Loud(CountingSource):
    """A source of which every latent fires."""

    def rows(self, x: torch.Tensor) -> SourceRows:
        return columns(super().rows(x), np.arange(self.info.n_features)) + np.float32(1)


def test_a_source_that_fires_on_nearly_everything_is_not_kept_and_neither_is_its_text(
    runner: BatchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(runner, monkeypatch)
    sources = list(runner.sources)
    sources[2] = Loud(sources[2], counting)
    loud = BatchRunner(runner._model, sources, None)
    works = [search(), search(sources=(0,)), search(sources=(2,)), EncodeWork(TEXT, False, (2,))]
    for _ in range(2):
        answer = loud.run(works, keep=[True] * 4)
        assert [kept is not None for kept in answer.kept] == [False, True, False, False]
        assert answer.done[3].blocks[0].data.size == 7 * 2048  # it is answered all the same
        assert len(answer.done[2].ranked[0].index) == 25


# What nobody waits for any more


class Leaving:
    """Callers of some places leave as the runner has asked about them so many times before."""

    def __init__(self, leaves: dict[int, int]) -> None:
        self.asked = 0
        self._leaves = leaves

    def __call__(self) -> set[int]:
        self.asked += 1
        return {place for place, when in self._leaves.items() if self.asked > when}


OTHER = (100, 200, 300)


def test_who_leaves_before_the_forward_pass_costs_nothing(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(runner, monkeypatch)
    answer = runner.run([search(OTHER), search(), search(OTHER)], [True] * 3, Leaving({0: 0, 2: 0}))
    assert [type(one) for one in answer.done] == [Abandoned, SearchDone, Abandoned]
    assert {one.stage for one in answer.done if isinstance(one, Abandoned)} == {"forward"}
    assert [kept is not None for kept in answer.kept] == [False, True, False]
    assert counting.sequences == [1]
    spent = answer.spent
    assert (spent.forward_passes, spent.forward_tokens, spent.encodes, spent.encode_tokens) == (1, 8, 2, 14)


def test_who_leaves_after_the_forward_pass_is_not_encoded(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(runner, monkeypatch)
    answer = runner.run([search(OTHER), search()], (), Leaving({0: 1}))
    assert [type(one) for one in answer.done] == [Abandoned, SearchDone]
    assert answer.done[0].stage == "encode"
    assert counting.rows == {"0-demo": [7], "1-demo": [7]}
    spent = answer.spent
    assert (spent.forward_passes, spent.forward_tokens, spent.encodes, spent.encode_tokens) == (2, 12, 2, 14)


def test_who_leaves_between_two_sources_is_encoded_for_no_more_of_them(
    runner: BatchRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(runner, monkeypatch)
    # Asked before the forward pass, and before the sources 0, 1 and 2 (which is the SAE of the layer after 0's).
    answer = runner.run([search(OTHER), search()], [True, True], Leaving({0: 3}))
    assert [type(one) for one in answer.done] == [Abandoned, SearchDone]
    assert answer.done[0].stage == "encode"
    assert answer.kept[0] is None
    assert counting.rows == {"0-demo": [10], "1-demo": [7]}
    assert (answer.spent.encodes, answer.spent.encode_tokens) == (3, 17)


@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_shared_text_is_computed_for_those_who_stay(
    runner: BatchRunner, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    expected = runner.run([search(limit=5)]).done[0]
    counting = Counting(runner, monkeypatch)
    answer = runner.run([search(), search(limit=5), search()], (), Leaving({0: when, 2: when}))
    assert [type(one) for one in answer.done] == [Abandoned, SearchDone, Abandoned]
    assert answer.done[1].ranked[0].value.tolist() == expected.ranked[0].value.tolist()
    assert counting.sequences == [1]
    assert counting.rows == {"0-demo": [7], "1-demo": [7]}


@pytest.mark.parametrize("when", [0, 1, 2])
def test_nothing_is_computed_once_all_have_left(
    runner: BatchRunner, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    counting = Counting(runner, monkeypatch)
    answer = runner.run([search(), EncodeWork(OTHER, False, (0,))], (), Leaving({0: when, 1: when}))
    assert {one.stage for one in answer.done} == {"encode" if when else "forward"}
    assert sum(map(len, counting.rows.values())) == max(0, when - 1)
    assert answer.spent.forward_passes == (2 if when else 0)
