"""Who has just been answered is waited for: if he always came back, and never for longer than it is worth."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from saeserve_server.engine.work import Batch, BatchDone, Spent
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.work import EncodeDone
from saeserve_server.scheduler.queue import WorkQueue
from saeserve_server.scheduler.returning import SPENT_OF_SAVED, FixedPart
from saeserve_server.scheduler.scheduler import Scheduler
from tests.scheduler.stage import AMPLE, COSTS, sample, work

BASE, EACH = 0.1, 0.05
"""Seconds of a batch, and of each text in it."""
BACK = 0.02
"""Seconds until the last of those is back who come back at once: less than half of what is fixed."""


class Clock:
    """A clock that jumps to the next event: a story of minutes takes no time, and always goes the same way."""

    def __init__(self) -> None:
        self.now = 1000.0

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        """Tells a story in a loop that goes by this clock."""
        clock = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
                clock.now += max(0.0, timeout or 0.0)
                return super().select(0)

        loop = asyncio.SelectorEventLoop(Selector())
        try:
            loop.run_until_complete(story)
        finally:
            loop.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


class Timed:
    """An engine whose batches take time, and note what they were and when they began."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began: list[float] = []
        self.ended: list[float] = []

    async def run(self, batch: Batch) -> BatchDone:
        self.batches.append([one.ids[0] for one in batch.works])
        self.began.append(time.monotonic())
        await asyncio.sleep(BASE + EACH * len(batch.works))
        self.ended.append(time.monotonic())
        return BatchDone(tuple(EncodeDone(1, (), None) for _ in batch.works), Spent(idle_seconds=0.003))

    def abandon(self, place: int) -> None: ...

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    def gaps(self) -> list[float]:
        """Seconds from the end of each batch until the next began."""
        return [begins - ended for ended, begins in zip(self.ended, self.began[1:], strict=False)]


async def caller(scheduler: Scheduler, number: int, back: Callable[[], float]) -> None:
    """Asks, and again some time after each answer."""
    while True:
        await scheduler.submit(work(number))
        await asyncio.sleep(back())


def quick(count: int) -> list[Callable[[], float]]:
    """So many who come back at once, one after another."""
    return [lambda back=BACK * (number + 1) / count: back for number in range(count)]


def told(
    clock: Clock, backs: list[Callable[[], float]], seconds: float = 20.0, batch_tokens: int = 1000
) -> tuple[Timed, Metrics]:
    """What the engine ran in so many seconds for callers who are back after such times."""
    engine, metrics = Timed(), Metrics()

    async def story() -> None:
        scheduler = Scheduler(engine, COSTS, WorkQueue(batch_tokens), AMPLE, metrics)
        scheduler.start()
        callers = [asyncio.ensure_future(caller(scheduler, *one)) for one in enumerate(backs, 1)]
        await asyncio.sleep(seconds)
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await scheduler.stop()

    clock.run(story())
    return engine, metrics


@pytest.mark.parametrize("count", [2, 3, 8, 32])
def test_callers_in_a_closed_loop_share_every_batch(clock: Clock, count: int) -> None:
    engine, metrics = told(clock, quick(count))
    assert engine.sizes[:2] == [count, 1]  # nothing is known of them yet
    assert set(engine.sizes[2:]) == {count}
    assert sample(metrics, "gather_duration_seconds_count") >= len(engine.sizes) - 3
    assert engine.gaps()[-2] == pytest.approx(BACK, rel=0.1)


def test_a_caller_alone_waits_for_nobody(clock: Clock) -> None:
    engine, _ = told(clock, quick(1))
    assert engine.gaps() == pytest.approx([BACK] * (len(engine.began) - 1))


def test_who_takes_his_time_is_not_waited_for(clock: Clock) -> None:
    engine, metrics = told(clock, [lambda back=0.1 + 0.02 * number: back for number in range(8)])
    assert sample(metrics, "gather_duration_seconds_count") == 0
    assert engine.gaps()[2:] == [0.0] * (len(engine.sizes) - 3)


def test_who_stays_away_costs_the_others_few_waits_and_none_longer_than_it_may(clock: Clock) -> None:
    """Seven of eight leave for good in the midst of it."""
    leaves = 1000.0 + 10.0

    def back(usual: float) -> float:
        return 1e6 if clock.now > leaves else usual

    stays, *others = quick(8)
    engine, _ = told(clock, [stays, *(lambda usual=usual: back(usual()) for usual in others)])
    alone = next(number for number, began in enumerate(engine.began) if began > leaves and engine.sizes[number] == 1)
    gaps = engine.gaps()
    assert max(gaps) == pytest.approx(SPENT_OF_SAVED * BASE)
    assert sum(gap > BACK / 8 + 1e-9 for gap in gaps[alone - 1 :]) == 1
    assert engine.sizes[alone:] == [1] * (len(engine.sizes) - alone)


def test_strangers_who_come_one_by_one_are_not_taken_for_those_who_were_answered(clock: Clock) -> None:
    """An open loop, near what the engine can do: what waits goes at once."""
    engine, metrics = Timed(), Metrics()

    async def story() -> None:
        scheduler = Scheduler(engine, COSTS, WorkQueue(1000), AMPLE, metrics)
        scheduler.start()
        tasks, chance = [], random.Random(1)
        for number in range(1, 400):
            tasks.append(asyncio.ensure_future(scheduler.submit(work(number))))
            await asyncio.sleep(chance.expovariate(12))
        await asyncio.gather(*tasks)
        await scheduler.stop()

    clock.run(story())
    assert max(engine.sizes) > 4
    assert sample(metrics, "gather_duration_seconds_sum") < 0.005 * (engine.ended[-1] - engine.began[0])


def test_a_full_batch_waits_for_nobody(clock: Clock) -> None:
    """Those who wait and those who come back are more than one batch holds: who waits longest would wait longer."""
    engine, metrics = told(clock, quick(12), batch_tokens=100)
    assert set(engine.sizes[3:-1]) <= {*range(1, 11)}
    assert sample(metrics, "gather_duration_seconds_count") == 0
    waits = {number: [] for number in range(1, 13)}
    for index, batch in enumerate(engine.batches):
        for number in batch:
            waits[number].append(index)
    assert max(second - first for turns in waits.values() for first, second in itertools.pairwise(turns)) <= 2


def test_long_handing_back_is_not_waited_for(clock: Clock) -> None:
    """Where the front end needs longer for the answers than one batch less saves, the worker goes on."""

    def slow() -> float:
        clock.now += 0.02  # what describing an answer takes of the event loop
        return 0.0

    engine, metrics = told(clock, [slow] * 8)
    assert sample(metrics, "gather_duration_seconds_count") == 0
    assert 1 < min(heapq.nlargest(20, engine.sizes)) < 8


def test_work_that_waited_while_nobody_was_waited_for_tells_of_the_handover(clock: Clock) -> None:
    _, metrics = told(clock, [lambda: 0.12, lambda: 0.13])
    count = sample(metrics, "handover_duration_seconds_count")
    assert count > 0
    assert sample(metrics, "handover_duration_seconds_sum") == pytest.approx(0.003 * count)


def test_what_is_fixed_of_a_batch_is_told_by_batches_that_differ() -> None:
    fixed = FixedPart()
    assert fixed.seconds == 0
    fixed.measured(10, 0.15)
    assert fixed.seconds == pytest.approx(0.075)  # not known: what may be
    fixed.measured(12, 0.16, 4)
    assert fixed.seconds == pytest.approx(0.02)  # no more of a large one than of a small
    fixed.measured(40, 0.30)
    assert fixed.seconds == pytest.approx(0.10)
    fixed.measured(40, 5.0)  # alike: tells nothing
    assert fixed.seconds == pytest.approx(0.10)
    fixed.measured(10, 0.1)  # faster by the work than the large one: all of it may be fixed, no less than nothing is
    assert 0.0 <= fixed.seconds < 0.10
    fixed.measured(0, 0.1)
    assert 0.0 <= fixed.seconds < 0.10
