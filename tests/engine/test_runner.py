"""What a batch computes, and what it does not: shared texts, skipped sources, kept memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saeserve_server.config import load_config
from saeserve_server.engine.build import build_runner
from saeserve_server.engine.ranking import candidates
from saeserve_server.engine.runner import BatchRunner, run_guarded
from saeserve_server.engine.work import Aggregate, EncodeWork, Failed, SearchWork, SourceFilter
from tests.conftest import DEVICE

pytestmark = pytest.mark.device

TEXT = (0, 1524, 4708, 547, 5635, 372, 1305, 14)


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
        monkeypatch.setattr(runner, "_sources", [CountingSource(source, self) for source in runner._sources])


class CountingSource:
    def __init__(self, source: Any, counting: Counting) -> None:
        self.info = source.info
        self._source, self._counting = source, counting

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self._counting.rows.setdefault(self.info.id, []).append(len(x))
        return self._source.encode(x)


def search(ids: tuple[int, ...] = TEXT, sources: tuple[int, ...] = (0, 2), **changes: Any) -> SearchWork:
    values: dict[str, Any] = {
        "ids": ids,
        "led_by_bos": True,
        "include_bos": False,
        "filters": tuple(SourceFilter(rank) for rank in sources),
        "aggregate": Aggregate.MAX,
        "rows": tuple(range(len(ids) - 1)),
        "limit": 25,
        "relative": False,
    }
    return SearchWork(**(values | changes))


def test_identical_texts_run_once(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(runner, monkeypatch)
    batch = [search(), search(limit=3), search(rows=(5,), aggregate=Aggregate.SUM), EncodeWork(TEXT, True, False, (0,))]
    done = runner.run(batch).done
    assert counting.sequences == [1]
    assert counting.rows == {"0-demo": [7], "1-demo": [7]}
    assert (done[0].ranked[0].index[:3] == done[1].ranked[0].index).all()


def test_a_bos_row_is_encoded_only_if_somebody_asks(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(runner, monkeypatch)
    with_bos = search(include_bos=True, rows=tuple(range(1, 8)), sources=(0,))
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
    texts = [TEXT, (0, *range(100, 320)), (0, 7), TEXT[:4], (0, *range(500, 540))]
    works = [search(text, sources=(0, 1, 6), limit=50) for text in texts]
    for work, among in zip(works, runner.run(works).done, strict=True):
        (alone,) = runner.run([work]).done
        np.testing.assert_allclose(among.ranked[0].value, alone.ranked[0].value, atol=1e-4, rtol=1e-5)


def test_a_source_larger_than_a_chunk_is_encoded_in_parts(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    works = [search((0, *range(place, place + 30)), sources=(0,)) for place in range(100, 400, 40)]
    whole = runner.run(works).done
    monkeypatch.setattr("saeserve_server.engine.runner.CHUNK_ELEMENTS", 2048 * 70)
    counting = Counting(runner, monkeypatch)
    parts = runner.run(works).done
    assert counting.rows["0-demo"] == [60, 60, 60, 60]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.ranked[0].value, other.ranked[0].value, atol=1e-5)


def test_a_batch_that_fails_is_answered_as_failed_and_the_next_is_not(runner: BatchRunner) -> None:
    bad = EncodeWork((0, 10**6), True, False, (0,))  # the front end refuses such ids: this is its fault, not a caller's
    failed = run_guarded(runner, [bad]).done[0]
    assert isinstance(failed, Failed)
    assert not isinstance(run_guarded(runner, [search()]).done[0], Failed)


def test_nothing_to_rank_on_still_says_what_was_considered(runner: BatchRunner) -> None:
    (done,) = runner.run([search((0, 0, 0), rows=())]).done
    assert done.considered == 4096
    assert done.activations.shape == (0, 2)


def test_activations_that_are_not_numbers_fail_and_are_not_dropped(runner: BatchRunner) -> None:
    with pytest.raises(FloatingPointError, match="NaN"):
        candidates(torch.tensor([[1.0, float("nan")]]), 1, 0)


def test_masks_are_kept_and_bounded(runner: BatchRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saeserve_server.engine.masks.KEPT_BYTES", 5000)
    for index in range(20):
        assert runner._masks.count(SourceFilter(0, without=(index,))) == 2047
    assert len(runner._masks._kept) <= 2


def test_the_front_end_imports_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, saeserve_server.api.server, saeserve_server.cli, saeserve_server.serving\n"
        "heavy = {'torch', 'transformer_lens', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
