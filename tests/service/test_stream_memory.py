"""What a stream may hold: answers wait until there is room, and one that is larger than all of it goes alone."""

import asyncio

from saeserve_server.api.encode_stream import _Memory


def test_what_does_not_fit_waits_until_something_is_given_back() -> None:
    async def story() -> None:
        memory = _Memory(100)
        await memory.take(60)
        second = asyncio.ensure_future(memory.take(50))
        await asyncio.sleep(0)
        assert not second.done()
        memory.give_back(60)
        await asyncio.wait_for(second, 5)

    asyncio.run(story())


def test_what_is_larger_than_everything_goes_alone() -> None:
    async def story() -> None:
        memory = _Memory(100)
        await memory.take(10)
        large = asyncio.ensure_future(memory.take(1000))
        await asyncio.sleep(0)
        assert not large.done()
        memory.give_back(10)
        await asyncio.wait_for(large, 5)
        small = asyncio.ensure_future(memory.take(1))
        await asyncio.sleep(0)
        assert not small.done()
        memory.give_back(1000)
        await asyncio.wait_for(small, 5)

    asyncio.run(story())


def test_an_answer_that_turned_out_small_makes_room() -> None:
    async def story() -> None:
        memory = _Memory(100)
        await memory.take(90)
        waiting = asyncio.ensure_future(memory.take(50))
        await asyncio.sleep(0)
        memory.correct(-80)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(story())
