"""Who leaves is taken out of the queue or out of the batch, and the budget is given back whatever happens."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from saeserve_server.errors import Internal, InvalidArgument, Overloaded, Unavailable
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.cost import Cost
from saeserve_server.scheduler.queue import Outcome, Priority, WorkQueue
from saeserve_server.scheduler.scheduler import Scheduler
from tests.scheduler.stage import (
    COSTS,
    SlowEngine,
    budget,
    lost,
    occupied,
    run,
    sample,
    settle,
    submit,
    taken,
    work,
)


def test_an_item_that_runs_is_taken_out_of_its_batch_by_its_place() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        tasks = submit(scheduler, *(work(number) for number in range(2, 7)))
        await settle()
        engine.end()
        await settle()
        assert engine.batches[-1] == [2, 3, 4, 5, 6]
        tasks[1].cancel()
        tasks[4].cancel()
        await settle()
        assert engine.abandoned == [(1, 3), (1, 6)]
        late = submit(scheduler, work(7))  # its place in the next batch would be that of 2
        await settle()
        late[0].cancel()
        await settle()
        assert len(engine.abandoned) == 2
        engine.let_go()
        outcomes = await asyncio.gather(*busy, *tasks, return_exceptions=True)
        assert [one.done.rows for one in outcomes if isinstance(one, Outcome)] == [1, 2, 4, 5]
        assert taken(scheduler) == Cost()

    metrics = run(story)
    assert sample(metrics, "abandoned_total", stage="encode") == 2
    assert sample(metrics, "abandoned_total", stage="queue") == 1


def test_an_item_that_was_answered_is_not_given_up_any_more() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        first = await occupied(scheduler)
        engine.end()
        await settle()
        first[0].cancel()
        await settle()
        assert (await first[0]).done.rows == 1
        assert engine.abandoned == []

    assert sample(run(story), "abandoned_total", stage="queue") == 0


def test_what_runs_holds_its_part_of_the_budget_until_its_batch_ends_though_nobody_waits() -> None:
    """It is still being computed: to take more in would be to take in too much."""

    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        (running,) = await occupied(scheduler)
        running.cancel()
        await settle()
        one = COSTS.of(work(1))
        assert taken(scheduler) == Cost(0, one.work, one.bytes)
        engine.end()
        await settle()
        assert taken(scheduler) == Cost()

    run(story)


# Whatever becomes of them, the budget is given back


async def answered(engine: SlowEngine, tasks: list[asyncio.Task]) -> None:
    engine.let_go()


async def failed(engine: SlowEngine, tasks: list[asyncio.Task]) -> None:
    engine.error = RuntimeError("a fault")
    engine.let_go()


async def refused_by_the_engine(engine: SlowEngine, tasks: list[asyncio.Task]) -> None:
    engine.error = Unavailable("restarting", retry_after=1.0)
    engine.let_go()


async def died(engine: SlowEngine, tasks: list[asyncio.Task]) -> None:
    engine.error = lost()
    engine.let_go()


async def cancelled(engine: SlowEngine, tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await settle()
    engine.let_go()


async def cancelled_as_the_batch_ended(engine: SlowEngine, tasks: list[asyncio.Task]) -> None:
    engine.let_go()
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(
    "ends",
    [answered, failed, refused_by_the_engine, died, cancelled, cancelled_as_the_batch_ended],
    ids=lambda ends: ends.__name__,
)
def test_the_budget_is_given_back(ends: Callable[[SlowEngine, list[asyncio.Task]], Awaitable[None]]) -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = await occupied(scheduler, work(1), work(2), client="a")
        tasks += submit(scheduler, *(work(number) for number in range(3, 8)), client="a")
        tasks += submit(scheduler, *(work(number) for number in range(8, 16)), priority=Priority.STREAM, client="b")
        await settle()
        tasks += submit(scheduler, work(20), work(21), client="c")  # displace two of a
        await settle()
        assert taken(scheduler) != Cost()
        await ends(engine, tasks)
        await asyncio.wait(tasks)
        await settle()
        assert taken(scheduler) == Cost()
        assert scheduler._admission._by_client == {}
        engine.error = None
        assert (await scheduler.submit(work(30))).done.rows == 30

    metrics = run(story, room=budget(items=7), batch_tokens=40)
    assert sample(metrics, "queue_size") == sample(metrics, "queue_load_ratio") == 0


ENDS = {
    "answered": lambda: None,
    "lost": lost,
    "not up": lambda: Unavailable("restarting", retry_after=1.0),
    "fault": lambda: RuntimeError("a fault"),
}
ROOM = budget(items=6, flop=9, size=9)


class Life(RuleBasedStateMachine):
    """Callers come, leave and are answered in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.complaints: list[dict] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.engine = SlowEngine()
        self.metrics = Metrics()
        self.tasks: list[asyncio.Task[Outcome]] = []
        self.pause(0)
        self.scheduler = Scheduler(self.engine, COSTS, self.made(), ROOM, self.metrics)
        self.loop.call_soon(self.scheduler.start)
        self.pause(1)

    def made(self) -> WorkQueue:
        async def make() -> WorkQueue:
            return WorkQueue(30, 3)

        return self.loop.run_until_complete(make())

    def pause(self, turns: int) -> None:
        """So many turns of the event loop: what happens next may come between any two steps."""

        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    @rule(
        texts=st.lists(st.tuples(st.integers(1, 12), st.sampled_from([1, 5, 10, 25, 95])), min_size=1, max_size=4),
        priority=st.sampled_from(Priority),
        client=st.sampled_from("abc"),
        turns=st.integers(0, 3),
    )
    def come(self, texts: list[tuple[int, int]], priority: Priority, client: str, turns: int) -> None:
        async def ask() -> None:
            self.tasks += submit(self.scheduler, *(work(*text) for text in texts), priority=priority, client=client)

        self.loop.run_until_complete(ask())
        self.pause(turns)

    @precondition(lambda self: any(not task.done() for task in self.tasks))
    @rule(which=st.integers(0, 10**6), count=st.integers(1, 3), turns=st.integers(0, 3))
    def leave(self, which: int, count: int, turns: int) -> None:
        alive = [task for task in self.tasks if not task.done()]
        for place in range(count):
            self.loop.call_soon(alive[(which + place) % len(alive)].cancel)
        self.pause(turns)

    @precondition(lambda self: self.engine.busy)
    @rule(how=st.sampled_from(sorted(ENDS)), turns=st.integers(0, 3))
    def end(self, how: str, turns: int) -> None:
        self.loop.call_soon(self.engine.end, ENDS[how]())
        self.pause(1 + turns)

    @invariant()
    def the_budget_holds(self) -> None:
        admission = self.scheduler._admission
        for part in ("items", "work", "bytes"):
            streamed = getattr(self.scheduler._streamed, part)
            assert 0 <= streamed <= getattr(ROOM, part)
            assert 0 <= getattr(admission.taken, part) - streamed <= getattr(ROOM, part)
            assert getattr(admission.taken, part) == sum(getattr(one, part) for one in admission._by_client.values())
        assert all(one != Cost() for one in admission._by_client.values())

    @invariant()
    def nobody_is_told_anything_else(self) -> None:
        for task in self.tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, Overloaded | InvalidArgument | Unavailable | Internal), error

    def teardown(self) -> None:
        self.loop.call_soon(self.engine.let_go)
        self.pause(1)
        if waiting := [task for task in self.tasks if not task.done()]:
            _, hanging = self.loop.run_until_complete(asyncio.wait(waiting, timeout=5))
            assert not hanging, f"{len(hanging)} of {len(self.tasks)} are never answered"
        self.pause(3)
        assert taken(self.scheduler) == Cost()
        assert self.scheduler._admission._by_client == {}
        assert self.scheduler._queue.oldest() is None
        self.nobody_is_told_anything_else()
        self.loop.run_until_complete(self.scheduler.stop())
        self.tasks.clear()
        gc.collect(0)
        self.loop.close()
        assert not self.complaints, self.complaints


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_what_was_given_up_behind_a_worker_that_hangs_is_forgotten() -> None:
    """Callers come, wait for as long as they may and leave, over and over, while the batch in progress never ends."""

    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        (patient,) = submit(scheduler, work(2))
        await settle()
        for _ in range(30):
            for task in submit(scheduler, *(work(number) for number in range(10, 510))):
                await asyncio.sleep(0)
                task.cancel()
            await settle()
        assert sum(len(lanes) for lanes in scheduler._queue._waiting.values()) < 15_000 / 2
        engine.let_go()
        await asyncio.gather(*busy)
        assert (await patient).done.rows == 2

    run(story)
