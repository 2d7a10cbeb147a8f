"""Memory of answers: one budget, of which nobody takes more than he leaves, and nobody holds who does not read."""

import asyncio
import time

import pytest

from saeserve_server.errors import Overloaded
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.held import ENTRY_BYTES, PATIENCE, STREAM_SHARE, Held, Holding

UNIT = 100_000
BUDGET = 12 * (UNIT + ENTRY_BYTES)


class Bench:
    """A budget of twelve answers, and who was ended."""

    def __init__(self) -> None:
        self.held = Held(BUDGET, Metrics())
        self.ended: list[str] = []

    def take(self, client: str) -> Holding:
        return self.held.take(UNIT, client, lambda: self.ended.append(client))

    def fill(self, client: str) -> list[Holding]:
        """As much as the caller gets."""
        taken: list[Holding] = []

        def go_on() -> None:
            while True:
                taken.append(self.take(client))

        with pytest.raises(Overloaded) as caught:
            go_on()
        assert (caught.value.reason, caught.value.retry_after) == ("ANSWERS_UNREAD", 1.0)
        return taken


def stalled(holdings: list[Holding]) -> None:
    """Has them wait to leave for longer than others put up with."""
    for one in holdings:
        one.leaves()
        one.leaving_since = time.monotonic() - PATIENCE - 1


def test_a_caller_takes_no_more_than_he_leaves() -> None:
    bench = Bench()
    assert len(bench.fill("flood")) == 6
    assert len(bench.fill("second")) == 3
    bench.take("third")
    assert not bench.ended


def test_what_has_left_is_free_again() -> None:
    bench = Bench()
    first = bench.fill("one")
    for holding in first:
        holding.release()
        holding.release()  # said twice, counted once
    assert bench.held.bytes == 0
    assert len(bench.fill("one")) == 6


def test_who_holds_most_and_reads_nothing_makes_room_for_others() -> None:
    bench = Bench()
    stalled(bench.fill("flood"))
    stalled(bench.fill("second"))
    for name in ("a", "b", "c", "d"):
        stalled([bench.take(name)])
    assert set(bench.ended) == {"flood"}
    assert bench.held.bytes <= BUDGET


def test_who_reads_slowly_is_not_ended_at_once() -> None:
    bench = Bench()
    for one in [*bench.fill("one"), *bench.fill("two")]:
        one.leaves()
    while bench.held.bytes + UNIT + ENTRY_BYTES <= BUDGET:
        bench.take(f"other-{bench.held.bytes}").leaves()
    with pytest.raises(Overloaded):
        bench.take("late")
    assert not bench.ended


def test_nobody_is_ended_for_who_holds_as_much() -> None:
    bench = Bench()
    stalled(bench.fill("one"))
    with pytest.raises(Overloaded):
        bench.take("one")
    assert not bench.ended


def test_streams_share_a_part_and_wait_for_it() -> None:
    async def story() -> None:
        bench = Bench()
        held = bench.held

        async def hold(client: str) -> Holding:
            return await held.wait(UNIT, client, lambda: bench.ended.append(client))

        taken = [await hold("one") for _ in range(3)]
        waiting = asyncio.ensure_future(hold("one"))
        await asyncio.sleep(0)
        assert not waiting.done()
        taken.append(await hold("two"))  # another's goes ahead
        assert held.streamed_bytes <= STREAM_SHARE * BUDGET
        bench.take("unary")
        for one in taken:
            one.release()
        await asyncio.wait_for(waiting, 5)

    asyncio.run(story())


def test_an_item_larger_than_everything_goes_alone() -> None:
    async def story() -> None:
        held = Bench().held
        small = await held.wait(UNIT, "one", lambda: None)
        large = asyncio.ensure_future(held.wait(2 * BUDGET, "one", lambda: None))
        await asyncio.sleep(0)
        assert not large.done()
        small.release()
        await asyncio.wait_for(large, 5)
        after = asyncio.ensure_future(held.wait(UNIT, "two", lambda: None))
        await asyncio.sleep(0)
        assert not after.done()
        large.result().correct(UNIT)  # it turned out small
        await asyncio.wait_for(after, 5)

    asyncio.run(story())
