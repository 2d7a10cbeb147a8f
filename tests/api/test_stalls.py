"""Calls whose caller neither sends nor reads are ended after a while, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from saeserve_server.api.rpc import Rpc
from saeserve_server.api.stalls import Stalls
from saeserve_server.metrics import Metrics

SHORT, LONG = 0.05, 60.0


def tell(story: Callable[[Stalls, Metrics], Awaitable[None]], patience: float) -> None:
    async def run() -> None:
        metrics = Metrics()
        await asyncio.wait_for(story(Stalls(patience, metrics), metrics), 10)

    asyncio.run(run())


def call() -> tuple[Rpc, asyncio.Task[None]]:
    """A call that goes on until it is ended."""
    task = asyncio.create_task(asyncio.sleep(LONG))
    return Rpc(task, None), task


def ended(metrics: Metrics) -> float:
    return metrics.registry.get_sample_value("saeserve_stalled_total", {"by": "time"}) or 0.0


def test_who_waits_too_long_is_ended_and_who_is_answered_meanwhile_is_not() -> None:
    async def story(stalls: Stalls, metrics: Metrics) -> None:
        (first, one), (second, other), (third, last) = call(), call(), call()
        stalls.waits(first)
        stalls.waits(second)
        stalls.works(second)
        await asyncio.wait([one])
        stalls.waits(third)  # one timer has run, and there is another for who comes now
        await asyncio.wait([last])
        assert (one.cancelled(), other.done(), last.cancelled()) == (True, False, True)
        assert (ended(metrics), len(stalls)) == (2, 0)
        other.cancel()

    tell(story, SHORT)


def test_a_call_that_has_ended_is_not_waited_for() -> None:
    async def story(stalls: Stalls, metrics: Metrics) -> None:
        rpc, task = call()
        task.cancel()
        await asyncio.wait([task])
        stalls.waits(rpc)
        assert len(stalls) == 0

    tell(story, LONG)
