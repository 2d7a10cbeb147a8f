"""Items of streams: they wait for room where others are refused, and leave half of the budget to those."""

import asyncio

import pytest

from saeserve_server.errors import InvalidArgument
from saeserve_server.scheduler.cost import Cost
from saeserve_server.scheduler.queue import Priority
from saeserve_server.scheduler.scheduler import Scheduler
from tests.scheduler.stage import SlowEngine, budget, occupied, run, settle, submit, taken, work

STREAM = Priority.STREAM


def test_streams_wait_for_room_and_leave_half_of_the_budget_to_unary_calls() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        streamed = submit(scheduler, *(work(number) for number in range(10, 20)), priority=STREAM)
        await settle()
        assert taken(scheduler).items == 4
        unary = submit(scheduler, *(work(number) for number in range(20, 25)))
        await settle()
        assert [task.done() for task in unary] == [False] * 4 + [True]
        assert not any(task.done() for task in streamed)
        engine.let_go()
        await asyncio.gather(*busy, *streamed, *unary[:4])
        assert [one for batch in engine.batches for one in batch if 10 <= one < 20] == list(range(10, 20))
        assert taken(scheduler) == Cost()

    run(story, room=budget(items=8))


@pytest.mark.parametrize("room", [budget(items=5), budget(flop=5), budget(size=5)], ids=["items", "flop", "bytes"])
def test_the_half_is_of_each_part_of_the_budget(room: Cost) -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        streamed = submit(scheduler, *(work(number) for number in range(10, 16)), priority=STREAM)
        while engine.batches[-1:] != [[15]] and engine.batches[-1:] != [[14, 15]]:
            await settle()
            assert taken(scheduler).share_of(room) <= 0.5
            assert not any(task.done() and task.exception() for task in streamed)
            engine.end()
        await settle()
        engine.let_go()
        await asyncio.gather(*streamed)

    run(story, room=room)


def test_streams_come_first_come_first_served_the_small_behind_the_large() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler, work(1, 20))
        streamed = submit(scheduler, work(10, 40), work(11, 40), work(12, 1), priority=STREAM)
        await settle()
        assert taken(scheduler).items == 1  # the small would fit beside the first, the large would not
        engine.let_go()
        await asyncio.gather(*busy, *streamed)
        assert [one for batch in engine.batches for one in batch] == [1, 10, 11, 12]

    run(story, room=budget(flop=10))


def test_one_that_takes_more_than_half_goes_when_no_other_is_there() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler, work(1, 1))
        small, large = submit(scheduler, work(9, 10), work(10, 80), priority=STREAM)
        await settle()
        assert taken(scheduler).items == 1
        engine.let_go()
        await asyncio.gather(*busy, small, large)
        assert engine.batches == [[1], [9], [10]]
        with pytest.raises(InvalidArgument) as caught:
            await scheduler.submit(work(11, 101), STREAM)
        assert caught.value.reason == "REQUEST_TOO_COSTLY"

    run(story, room=budget(flop=10))


def test_unary_calls_that_take_all_there_is_do_not_keep_streams_waiting() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        unary = submit(scheduler, *(work(number) for number in range(20, 28)))
        await settle()
        assert taken(scheduler).items == 8
        (streamed,) = submit(scheduler, work(10), priority=STREAM)
        await settle()
        assert taken(scheduler).items == 9
        engine.let_go()
        await asyncio.gather(*busy, *unary, streamed)

    run(story, room=budget(items=8))


def test_callers_take_turns_for_the_room_of_streams() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        many = submit(scheduler, *(work(number) for number in range(10, 30)), priority=STREAM, client="many")
        await settle()
        (one,) = submit(scheduler, work(50), priority=STREAM, client="one")
        await settle()
        engine.let_go()
        await asyncio.gather(*busy, *many, one)
        assert [number for batch in engine.batches for number in batch].index(50) <= 5

    run(story, room=budget(items=4))


def test_one_that_is_given_up_while_it_waits_for_room_takes_nothing_and_holds_nobody_up() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        admitted, first, second, third = submit(scheduler, *(work(10 + n) for n in range(4)), priority=STREAM)
        await settle()
        for waiting in (first, second):  # the one whose turn it is, and one behind it
            waiting.cancel()
        await settle()
        assert taken(scheduler).items == 1
        engine.let_go()
        await asyncio.gather(*busy, admitted, third)
        assert engine.batches == [[1], [10], [13]]
        assert taken(scheduler) == Cost()

    run(story, room=budget(items=2))
