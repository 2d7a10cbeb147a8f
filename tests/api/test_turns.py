"""The event loop's turns: their length is measured, and what one of them may do is counted."""

from __future__ import annotations

import asyncio
import time

from saeserve_server.api.turns import Turns
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.desk import Desk

BLOCKED = 0.03


def count(metrics: Metrics, most: str = "+Inf") -> float:
    """Turns that were measured and took no longer."""
    return metrics.registry.get_sample_value("saeserve_loop_turn_duration_seconds_bucket", {"le": most}) or 0.0


def test_a_turn_is_as_long_as_all_that_is_done_in_it() -> None:
    async def story() -> None:
        metrics, loop = Metrics(), asyncio.get_running_loop()
        turns = Turns(metrics)

        def block() -> None:
            time.sleep(BLOCKED)
            loop.call_soon(block)

        block()
        async with asyncio.timeout(10):
            while count(metrics) < 3:  # noqa: ASYNC110 (turns are what is looked at)
                await asyncio.sleep(0)
        assert count(metrics, "0.025") == 0
        turns.close()
        measured = count(metrics)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert count(metrics) == measured

    asyncio.run(story())


def test_of_those_who_wait_for_their_turn_one_goes_on_in_a_turn_of_the_loop() -> None:
    async def story() -> None:
        desk = Desk(1.0, 100, Metrics())
        turn = 0
        seen: list[int] = []

        async def ask(client: str) -> None:
            await desk.turn(client)
            seen.append(turn)

        asking = [asyncio.create_task(ask(str(place % 3))) for place in range(40)]
        async with asyncio.timeout(10):
            while not all(one.done() for one in asking):
                turn += 1
                await asyncio.sleep(0)
        assert len(seen) == len(set(seen)) == len(asking)
        desk.close()

    asyncio.run(story())
