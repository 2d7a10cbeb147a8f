"""What a GPU is found to take before it takes calls: batches that fit, and a rate that the limits follow from."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from prometheus_client import generate_latest

from saeserve_server.config import Config, load_config
from saeserve_server.engine import build, memory, warmup, worker
from saeserve_server.engine.build import build_runner
from saeserve_server.engine.capacity import USUAL_TOKENS, Capacity, search_of_everything
from saeserve_server.engine.recovery import GuardedRunner
from saeserve_server.engine.warmup import BATCH_TOKENS, warm_up
from saeserve_server.engine.work import Batch, BatchDone, Ready, Spent
from saeserve_server.errors import ConfigError
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.work import Work, needed
from saeserve_server.scheduler.cost import CostModel
from saeserve_server.serving.limits import make_limits
from tests.conftest import DEVICE
from tests.scheduler.stage import CATALOG, sample

LEAD = 1
"""The BOS of the stage's model."""


def settings(**flags: object) -> Config:
    return load_config(None, {name: str(value) for name, value in flags.items()}, {})


class FakeRunner:
    """Takes a second for so many tokens, and runs out of memory with more than it holds. Notes the batches' lengths."""

    catalog = CATALOG
    imported = ""

    def __init__(self, rate: float = 1e9, holds: int = 2**30, error: Callable[[], Exception] = MemoryError) -> None:
        self.ran: list[list[int]] = []
        self.now = 0.0
        self._rate, self._holds, self._error = rate, holds, error

    def run(self, batch: Sequence[Work], keep: Sequence[bool] = ()) -> BatchDone:
        assert list(keep) == [True] * len(batch)
        assert all(needed(work) == set(range(len(CATALOG.sources))) for work in batch)
        assert len({work.ids for work in batch}) == len(batch)
        lengths = [len(work.ids) + LEAD for work in batch]
        self.ran.append(lengths)
        if sum(lengths) > self._holds:
            raise self._error()
        self.now += sum(lengths) / self._rate
        return BatchDone((), Spent())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeRunner], FakeRunner]:
    """Lets a runner's own time be the time."""

    def follow(runner: FakeRunner) -> FakeRunner:
        monkeypatch.setattr(warmup.time, "perf_counter", lambda: runner.now)
        return runner

    return follow


Clock = Callable[[FakeRunner], FakeRunner]


def test_full_batches_of_the_longest_and_of_short_texts_are_run_and_the_second_short_one_is_timed(clock: Clock) -> None:
    runner = clock(FakeRunner(rate=17e6))
    capacity = warm_up(runner, settings())
    assert capacity.batch_tokens == BATCH_TOKENS
    assert capacity.tokens_per_second == pytest.approx(16e6)  # the 17th is the BOS
    longest, *short = runner.ran
    assert longest == [1024] * 8  # the context of the stage's model
    assert short == [[17] * (BATCH_TOKENS // 17)] * 2


@pytest.mark.parametrize("error", [MemoryError, lambda: RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED")])
def test_batches_are_halved_until_they_fit(clock: Clock, caplog: Any, error: Callable[[], Exception]) -> None:
    runner = clock(FakeRunner(holds=3000, error=error))
    assert warm_up(runner, settings()).batch_tokens == 2048
    assert [sum(lengths) for lengths in runner.ran[:2]] == [8192, 4096]
    assert "a batch of 8192 tokens does not fit" in caplog.text
    assert "a batch of 2048 tokens" not in caplog.text


def test_what_is_set_is_made_less_by_memory_only(clock: Clock) -> None:
    assert warm_up(clock(FakeRunner(rate=1000.0)), settings(batch_tokens=4000)).batch_tokens == 4000
    assert warm_up(clock(FakeRunner(holds=3000)), settings(batch_tokens=4000)).batch_tokens == 2000


def test_batches_that_take_too_long_are_halved_but_not_below_what_a_gpu_wants(clock: Clock) -> None:
    assert warm_up(clock(FakeRunner(rate=6000.0)), settings()).batch_tokens == 2048
    assert warm_up(clock(FakeRunner(rate=10.0)), settings()).batch_tokens == 512


def test_no_batch_holds_more_texts_than_the_limit(clock: Clock) -> None:
    runner = clock(FakeRunner())
    warm_up(runner, settings(max_batch=3, max_tokens=100))
    assert runner.ran == [[101] * 3, [17] * 3, [17] * 3]


def test_where_not_one_short_text_fits_the_start_ends_with_what_helps(clock: Clock) -> None:
    with pytest.raises(ConfigError, match="does not fit into what the weights leave of cpu; what would help"):
        warm_up(clock(FakeRunner(holds=3)), settings())


def test_any_other_error_is_raised(clock: Clock) -> None:
    with pytest.raises(RuntimeError, match="device-side"):
        warm_up(clock(FakeRunner(holds=3, error=lambda: RuntimeError("CUDA error: device-side assert"))), settings())


@pytest.mark.device
def test_the_demo_is_warmed_up_as_it_would_be_on_a_gpu() -> None:
    config = settings(device=DEVICE, batch_tokens=64)
    runner, _ = build_runner(config, with_index=False)
    capacity = warm_up(runner, config)
    assert capacity.batch_tokens == 64
    assert capacity.tokens_per_second > 0


# What follows from it


def test_the_limits_of_a_gpu_are_ten_seconds_of_what_it_was_measured_to_do() -> None:
    limits = make_limits(settings(), CATALOG, Capacity(2048, 8000.0))
    usual = CostModel(CATALOG).of(search_of_everything(CATALOG, (5,) * USUAL_TOKENS))
    assert limits.batch_tokens == 2048
    assert limits.queue_items == 5000
    assert limits.queue_gflop == pytest.approx(5000 * usual.work / 1e9)
    assert (
        limits.budget.items * usual.work <= limits.budget.work * 1.001
    )  # short texts never meet the other bound first
    assert make_limits(settings(), CATALOG, Capacity(2048, 1.0)).queue_items == 1024
    assert make_limits(settings(), CATALOG, Capacity(2048, 1e9)).queue_items == 16384


def test_what_is_set_holds_and_a_cpu_is_not_measured() -> None:
    chosen = settings(queue_items=7, queue_gflop=3.5, batch_tokens=100)
    limits = make_limits(chosen, CATALOG, Capacity(50, 8000.0))
    assert (limits.batch_tokens, limits.queue_items, limits.queue_gflop) == (50, 7, 3.5)
    limits = make_limits(chosen, CATALOG)
    assert (limits.batch_tokens, limits.queue_items, limits.queue_gflop) == (100, 7, 3.5)
    limits = make_limits(settings(), CATALOG)
    assert (limits.batch_tokens, limits.queue_items, limits.queue_gflop) == (512, 1024, 1000.0)


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_a_worker_is_ready_once_it_has_been_warmed_up(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Capacity(1024, 5.0)
    monkeypatch.setattr(build, "pick_device", lambda config: torch.device(device))
    monkeypatch.setattr(build, "build_runner", lambda config: (FakeRunner(), None))
    steps: list[str] = []
    monkeypatch.setattr(warmup, "warm_up", lambda runner, config: steps.append("warmed up") or found)
    chooser = SimpleNamespace(begin=lambda: steps.append("begun"), finish=lambda: steps.append("chosen"), names={})
    monkeypatch.setattr(build, "make_chooser", lambda config, runner: chooser)
    monkeypatch.setattr(worker.os, "nice", lambda by: 0)

    def gone() -> None:
        raise EOFError

    monkeypatch.setattr(worker.Mailbox, "next_batch", lambda mailbox, **_: gone())
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        with pytest.raises(EOFError):
            worker._serve(theirs, settings())
        ready = ours.recv()
    assert isinstance(ready, Ready)
    assert ready.capacity == (found if device == "cuda:0" else None)
    assert steps == (["begun", "chosen", "warmed up"] if device == "cuda:0" else ["begun"])


def test_what_a_batch_took_of_a_gpu_s_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks: list[int] = []
    for name, value in {
        "is_initialized": lambda: True,
        "reset_peak_memory_stats": lambda: peaks.append(0),
        "max_memory_allocated": lambda: 300,
        "memory_reserved": lambda: 400,
    }.items():
        monkeypatch.setattr(memory.torch.cuda, name, value)
    guarded = GuardedRunner(Answering())  # type: ignore[arg-type]
    spent = guarded.run(Batch(0, (), ()), set).spent
    assert (spent.device_bytes, spent.device_reserved_bytes, len(peaks)) == (300, 400, 1)
    metrics = Metrics()
    metrics.device_memory(spent.device_bytes, spent.device_reserved_bytes)
    assert sample(metrics, "worker_device_memory_bytes", kind="peak") == 300
    assert sample(metrics, "worker_device_memory_bytes", kind="reserved") == 400


class Answering:
    catalog = CATALOG

    def run(self, works: object, keep: object, gone: object) -> BatchDone:
        return BatchDone((), Spent())


def test_a_cpu_tells_no_memory_of_a_gpu() -> None:
    spent = GuardedRunner(Answering()).run(Batch(0, (), ()), set).spent  # type: ignore[arg-type]
    assert (spent.device_bytes, spent.device_reserved_bytes) == (0, 0)
    metrics = Metrics()
    metrics.device_memory(0, 0)
    assert b"worker_device_memory_bytes{" not in generate_latest(metrics.registry)
