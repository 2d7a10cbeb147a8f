"""The front end's own work: costed, in turns by caller, bounded, and refused with a time to come again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from saeserve_server.errors import Overloaded
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.cost import Cost
from saeserve_server.scheduler.desk import INLINE_SECONDS, QUICK_SECONDS, Desk
from tests.scheduler.stage import settle

SLOW, QUICK = 1.0, QUICK_SECONDS / 2
BUDGET = 4 * SLOW


class Bench:
    """A desk for four slow jobs, whose threads stand still until they are let go, and what has been done at it."""

    def __init__(self, most_jobs: int) -> None:
        self.metrics = Metrics()
        self.desk = Desk(BUDGET, most_jobs, self.metrics)
        self.free = threading.Event()
        self.done: list[str] = []

    def ask(self, name: str, client: str = "", seconds: float = SLOW) -> asyncio.Task[str]:
        """A job that says its name, which is the caller's too unless another is named."""
        return asyncio.create_task(self.desk.do(self._say, name, seconds=seconds, client=client or name))

    def _say(self, name: str) -> str:
        if threading.current_thread().name.startswith("desk-slow"):
            assert self.free.wait(10)
        self.done.append(name)
        return name

    @property
    def taken(self) -> Cost:
        """What is taken of the budget."""
        return self.desk._admission.taken

    def value(self, name: str) -> float:
        """A sample of the metrics."""
        return self.metrics.registry.get_sample_value(f"saeserve_{name}") or 0.0


def run(story: Callable[[Bench], Awaitable[None]], most_jobs: int = 100) -> None:
    """Tells a story; at its end nothing is taken and nothing waits."""

    async def tell() -> None:
        bench = Bench(most_jobs)
        try:
            await asyncio.wait_for(story(bench), 10)
            bench.free.set()
            await settle()
            assert bench.taken == Cost()
            assert (bench.value("front_load_ratio"), bench.value("front_queue_size")) == (0, 0)
        finally:
            bench.free.set()
            bench.desk.close()

    asyncio.run(tell())


async def refused(job: asyncio.Task[str]) -> None:
    """Holds that it is, with a time to come again."""
    with pytest.raises(Overloaded, match="pieces of work in the front end") as caught:
        await job
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.retry_after


def test_callers_take_turns() -> None:
    async def story(bench: Bench) -> None:
        jobs = [bench.ask(f"a{place}", "a", seconds=0.02) for place in range(4)]
        jobs += [bench.ask(f"b{place}", "b", seconds=0.02) for place in range(2)]
        await settle()
        bench.free.set()
        assert await asyncio.gather(*jobs) == ["a0", "a1", "a2", "a3", "b0", "b1"]
        assert bench.done == ["a0", "a1", "b0", "a2", "b1", "a3"]  # a1 stood in front when b came

    run(story)


def test_short_work_is_done_at_once_and_quick_work_does_not_wait_for_slow() -> None:
    async def story(bench: Bench) -> None:
        slow = bench.ask("slow")
        await settle()
        assert await bench.ask("short", seconds=INLINE_SECONDS) == "short"
        assert await bench.ask("quick", seconds=QUICK) == "quick"
        assert not slow.done()
        bench.free.set()
        assert await slow == "slow"

    run(story)


def test_a_full_desk_refuses_the_caller_who_has_most_there() -> None:
    async def story(bench: Bench) -> None:
        flood = [bench.ask(f"flood {place}", "flood") for place in range(4)]
        await settle()
        assert bench.value("front_load_ratio") == 1
        await refused(bench.ask("one more", "flood"))
        other = bench.ask("other")
        await refused(flood[3])  # the newest makes way
        assert not any(job.done() for job in flood[:3])
        third = bench.ask("third")
        await refused(flood[2])
        bench.free.set()
        await asyncio.gather(*flood[:2], other, third)

    run(story)


def test_quick_work_finds_room_though_slow_work_of_another_fills_the_desk() -> None:
    """All is paid from one budget, so what makes way may be another thread's."""

    async def story(bench: Bench) -> None:
        flood = [bench.ask(f"flood {place}", "flood") for place in range(4)]
        await settle()
        assert await bench.ask("quick", seconds=QUICK) == "quick"
        await refused(flood[3])
        bench.free.set()
        await asyncio.gather(*flood[:3])

    run(story)


def test_jobs_are_counted_too() -> None:
    async def story(bench: Bench) -> None:
        jobs = [bench.ask(str(place), "one", seconds=0.02) for place in range(3)]
        await refused(bench.ask("one more", "one", seconds=0.02))
        bench.free.set()
        await asyncio.gather(*jobs)

    run(story, most_jobs=3)


def test_what_is_dearer_than_the_budget_goes_alone() -> None:
    async def story(bench: Bench) -> None:
        dear = bench.ask("dear", seconds=10 * BUDGET)
        await settle()
        await refused(bench.ask("another", seconds=10 * BUDGET))
        bench.free.set()
        assert await dear == "dear"

    run(story)


def test_a_job_that_nobody_waits_for_is_not_done_and_gives_back_its_cost() -> None:
    async def story(bench: Bench) -> None:
        running, waiting, last = bench.ask("running"), bench.ask("waiting"), bench.ask("last")
        await settle()
        for job in (running, waiting):
            job.cancel()
        await settle()
        assert bench.taken.items == 2  # what runs cannot be stopped, and is paid until it has ended
        bench.free.set()
        assert await last == "last"
        assert bench.done == ["running", "last"]

    run(story)


@pytest.mark.parametrize("seconds", [INLINE_SECONDS, QUICK, SLOW], ids=["at once", "quick", "slow"])
def test_errors_reach_who_waits(seconds: float) -> None:
    def fail() -> None:
        raise LookupError("this one")

    async def story(bench: Bench) -> None:
        with pytest.raises(LookupError, match="this one"):
            await bench.desk.do(fail, seconds=seconds, client="one")
        bench.free.set()
        assert await bench.ask("next", seconds=seconds) == "next"

    run(story)


def test_who_would_be_answered_too_late_is_refused_at_once() -> None:
    """As soon as it is known how fast the desk is."""

    async def story(bench: Bench) -> None:
        bench.free.set()
        await asyncio.gather(*(bench.ask(str(place), "one") for place in range(4)))
        bench.free.clear()
        bench.desk._admission._rate = 1e9  # a second of work takes a second
        jobs = [bench.ask(str(place), "one") for place in range(2)]
        await settle()
        for seconds in (2.5, 60.0):
            deadline = time.monotonic() + seconds
            job = asyncio.create_task(bench.desk.do(bench._say, "late", seconds=SLOW, client="one", deadline=deadline))
            await settle()
            assert job.done() == (seconds < 3)
            if job.done():
                await refused(job)
            else:
                jobs.append(job)
        bench.free.set()
        await asyncio.gather(*jobs)

    run(story)


def test_turns_in_the_event_loop_go_round() -> None:
    async def story(bench: Bench) -> None:
        given: list[str] = []

        async def take(client: str) -> None:
            await bench.desk.turn(client)
            given.append(client)

        flood = [asyncio.create_task(take("flood")) for _ in range(40)]
        await asyncio.sleep(0)
        other = asyncio.create_task(take("other"))
        gone = asyncio.create_task(take("gone"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(*flood, other)
        assert given.index("other") <= 4
        assert given.count("flood") == 40
        assert "gone" not in given

    run(story)


def test_a_desk_that_is_closed_ends_what_waits() -> None:
    async def tell() -> None:
        bench = Bench(100)
        running, waiting = bench.ask("running"), bench.ask("waiting")
        await settle()
        turn = asyncio.create_task(bench.desk.turn("one"))
        await asyncio.sleep(0)
        bench.desk.close()
        bench.free.set()
        ends = await asyncio.wait_for(asyncio.gather(running, waiting, turn, return_exceptions=True), 10)
        assert ends[0] == "running"
        assert [type(end) for end in ends[1:]] == [asyncio.CancelledError] * 2

    asyncio.run(tell())
