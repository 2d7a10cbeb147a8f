"""The front end's own work, let in as the worker's is: costed, in turns by caller, bounded, refused with a time.

Three places where it is done, so that nothing short waits for something long:
- the event loop, a turn for each call (`turn`): parsing, names, look-ups in the cache; milliseconds at most;
- the quick thread (`do`), for what takes up to QUICK_SECONDS;
- the slow thread (`do`), for the rest: ranking and describing megabytes, cutting long texts.

Costs are seconds of one core, estimated before by who asks. They need be right within a factor of a few: they decide
which thread, whose turn, and when the desk is full; the time to come again follows from what work really took.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.admission import FRONT_LIMITS, Admission
from saeserve_server.scheduler.cost import Cost
from saeserve_server.scheduler.lanes import Lanes

T = TypeVar("T")

QUICK_SECONDS = 0.01
"""Longer work goes to the slow thread."""
INLINE_SECONDS = 0.001
"""Shorter work is done in the event loop, where it costs less than to hand it to a thread."""
TURNS_A_ROUND = 24
"""After so many turns in the event loop calls are let in that wait in front of it."""
QUIET_SECONDS = 0.0003
"""Without a new call, until nobody seems to wait there: gRPC takes about half of it to hand on the next."""
MOST_LET_IN = 256
NANO = 1_000_000_000


@dataclass(slots=True, eq=False)
class _Job:
    """Work and whoever waits for it."""

    run: Callable[[], Any]
    future: asyncio.Future[Any]
    cost: Cost
    client: str
    arrived: float = field(default_factory=time.monotonic)
    begun: bool = False

    @property
    def wanted(self) -> bool:
        return not self.future.done()


@dataclass(slots=True, eq=False)
class _Turn:
    """A call that waits for its turn in the event loop."""

    future: asyncio.Future[None]
    client: str

    @property
    def wanted(self) -> bool:
        return not self.future.done()


class Desk:
    """Where the front end works for its callers."""

    def __init__(self, budget_seconds: float, most_jobs: int, metrics: Metrics) -> None:
        """At most `most_jobs` jobs of together `budget_seconds` wait or run in the threads at a time."""
        budget = Cost(most_jobs, int(budget_seconds * NANO), 1)
        self._admission = Admission(budget, FRONT_LIMITS, "pieces of work in the front end")
        self._metrics = metrics
        self._turns = Lanes[_Turn]()
        self._arrived = 0
        self._given = 0
        self._giving: asyncio.Task[None] | None = None
        self._quick = _Line("quick", self)
        self._slow = _Line("slow", self)
        metrics.front_load.set_function(lambda: self._admission.load)
        metrics.front_waiting.set_function(lambda: len(self._quick) + len(self._slow) + len(self._turns))

    async def turn(self, client: str) -> None:
        """Waits until it is this caller's turn in the event loop, which then is its own until it next waits.

        Calls of a method come in one at a time, in front of everything that could tell callers apart, the next a moment
        after the one before. So after a few turns calls are let in until no more come: they wait here, in lanes.
        """
        item = _Turn(asyncio.get_running_loop().create_future(), client)
        self._turns.put(item)
        self._arrived += 1
        if self._giving is None or self._giving.done():
            self._giving = asyncio.create_task(self._give_turns(), name="turns")
        await item.future

    async def do(
        self, work: Callable[..., T], *arguments: object, seconds: float, client: str, deadline: float | None = None
    ) -> T:
        """The result of `work(*arguments)`, which takes about that many seconds of a core; short work is done at once.

        Raises Overloaded if the desk is full, or if what is there would keep it waiting beyond `deadline` (in the time
        of `time.monotonic`), and whatever the work raises.
        """
        if seconds <= INLINE_SECONDS:
            return self.at_once(work, *arguments)
        # What is dearer than the whole budget is let in by itself.
        cost = Cost(1, min(int(seconds * NANO), self._admission.budget.work))
        job = _Job(partial(work, *arguments), asyncio.get_running_loop().create_future(), cost, client)
        if deadline is not None and self._admission.is_too_late(cost, client, deadline - time.monotonic()):
            raise self._admission.refusal(cost)
        for other in self._admission.make_way(job, self._newest):
            other.future.set_exception(self._admission.refusal(other.cost))
            self._dropped(other)
        self._admission.take(cost, client)
        job.future.add_done_callback(lambda _: self._dropped(job))
        (self._quick if seconds <= QUICK_SECONDS else self._slow).put(job)
        result: T = await job.future
        return result

    def close(self) -> None:
        """Ends the threads once they have done what runs; what waits is cancelled."""
        if self._giving is not None:
            self._giving.cancel()
        for waiting in self._turns:
            waiting.future.cancel()
        self._quick.close()
        self._slow.close()

    def at_once(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of work that the event loop does itself. What it takes of a core is measured, not its waits."""
        began = time.thread_time()
        try:
            return work(*arguments)
        finally:
            self._metrics.front_work("loop", time.thread_time() - began)

    def _newest(self, client: str) -> Iterator[_Job]:
        """The jobs of a caller that have not begun, the last first, and the dear before the cheap: all are paid from
        one budget, whichever thread does them."""
        return itertools.chain(self._slow.newest(client), self._quick.newest(client))

    def _dropped(self, job: _Job) -> None:
        """Nobody waits for a job that may not have begun: gives back what it takes."""
        if not job.begun and job.cost != Cost():
            self._admission.give_back(job.cost, job.client)
            job.cost = Cost()

    async def _give_turns(self) -> None:
        while self._turns.first() is not None:
            self._turns.take().future.set_result(None)
            self._given += 1
            await asyncio.sleep(0)
            if self._given % TURNS_A_ROUND == 0:
                await self._let_in()

    async def _let_in(self) -> None:
        """Lets calls in until none has come for a while, or many have."""
        seen, most, since = self._arrived, self._arrived + MOST_LET_IN, time.perf_counter()
        while time.perf_counter() - since < QUIET_SECONDS and seen < most:
            await asyncio.sleep(0)
            if self._arrived != seen:
                seen, since = self._arrived, time.perf_counter()

    def _ended(self, job: _Job, line: str, seconds: float, *, more: bool) -> None:
        self._admission.give_back(job.cost, job.client)
        self._admission.measured(job.cost.work, seconds, saturated=more)
        self._metrics.front_work(line, seconds)


class _Line:
    """One thread, and the jobs that wait for it."""

    def __init__(self, name: str, desk: Desk) -> None:
        self._name = name
        self._desk = desk
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"desk-{name}")
        self._lanes = Lanes[_Job]()
        self._running: _Job | None = None

    def __len__(self) -> int:
        return len(self._lanes)

    def newest(self, client: str) -> Iterator[_Job]:
        """The jobs of a caller that have not begun, the last first."""
        return self._lanes.newest(client)

    def put(self, job: _Job) -> None:
        """Adds a job, and begins it if nothing else is there."""
        self._lanes.put(job)
        self._next()

    def close(self) -> None:
        """See Desk."""
        for job in self._lanes:
            job.future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        if self._running is not None or self._lanes.first() is None:
            return
        job = self._running = self._lanes.take()
        job.begun = True
        self._desk._metrics.front_seconds.observe(time.monotonic() - job.arrived)
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, job.run)
        running.add_done_callback(lambda done: self._done(job, done, time.monotonic() - began))

    def _done(self, job: _Job, done: asyncio.Future[Any], seconds: float) -> None:
        self._running = None
        self._desk._ended(job, self._name, seconds, more=self._lanes.first() is not None)
        job.cost = Cost()
        if done.cancelled():
            job.future.cancel()
        elif job.wanted and (error := done.exception()) is not None:
            job.future.set_exception(error)
        elif job.wanted:
            job.future.set_result(done.result())
        else:
            done.exception()  # looked at: nobody else does
        self._next()
