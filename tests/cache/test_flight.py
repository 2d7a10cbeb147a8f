"""Identical questions: computed once, for as long as anyone waits, and no error outlives its computation."""

import asyncio
import gc
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from saeserve_server.cache.answer import Answer
from saeserve_server.cache.flight import Flights
from saeserve_server.errors import Internal
from saeserve_server.metrics import Metrics

KEY = bytes(32)


class Computation:
    """Answers, or raises, once it is let go. `stubborn`: takes its time to be cancelled."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = 0
        self.cancelled = 0
        self.error: Exception | None = None
        self.stubborn = asyncio.Event()
        self.stubborn.set()

    async def __call__(self) -> Answer:
        self.begun += 1
        number = self.begun
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            await self.stubborn.wait()
            raise
        if self.error is not None:
            raise self.error
        return Answer(b"%d" % number)


def run(story: Callable[[Flights, Computation], Awaitable[None]]) -> Metrics:
    """Tells the story; nothing is left over by it, and asyncio has nothing to complain about."""
    metrics = Metrics()
    complaints: list[dict[str, Any]] = []

    async def tell() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        flights = Flights(metrics)
        async with asyncio.timeout(10):
            await story(flights, Computation())
            await settle()
        assert len(flights) == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()

    asyncio.run(tell())
    gc.collect()
    assert not complaints
    return metrics


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def joined(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("saeserve_cache_joined_total")


def test_identical_questions_are_computed_once() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        waiters = [asyncio.create_task(flights.join(KEY, compute)) for _ in range(5)]
        await settle()
        compute.gate.set()
        answers = await asyncio.gather(*waiters)
        assert compute.begun == 1
        assert all(answer is answers[0] for answer in answers)

    assert joined(run(story)) == 4


def test_other_questions_are_not_joined() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        compute.gate.set()
        await asyncio.gather(*(flights.join(bytes([number]), compute) for number in range(5)))
        assert compute.begun == 5

    assert joined(run(story)) == 0


def test_a_later_question_is_computed_again() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        compute.gate.set()
        assert (await flights.join(KEY, compute)).payload == b"1"
        assert (await flights.join(KEY, compute)).payload == b"2"

    run(story)


@pytest.mark.parametrize("leaving", [0, 1])
def test_who_leaves_does_not_cancel_it_for_the_others(leaving: int) -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        waiters = [asyncio.create_task(flights.join(KEY, compute)) for _ in range(2)]
        await settle()
        waiters[leaving].cancel()
        await settle()
        assert waiters[leaving].cancelled()
        assert compute.cancelled == 0
        compute.gate.set()
        assert (await waiters[1 - leaving]).payload == b"1"

    run(story)


def test_when_the_last_leaves_it_is_cancelled() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        waiters = [asyncio.create_task(flights.join(KEY, compute)) for _ in range(3)]
        await settle()
        for waiter in waiters:
            assert compute.cancelled == 0
            waiter.cancel()
            await settle()
        assert compute.cancelled == 1

    run(story)


def test_when_all_leave_at_once_it_is_cancelled() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        waiters = [asyncio.create_task(flights.join(KEY, compute)) for _ in range(3)]
        await settle()
        for waiter in waiters:
            waiter.cancel()
        await settle()
        assert compute.cancelled == 1

    run(story)


def depth(error: BaseException) -> int:
    """Of its traceback."""
    return len(list(traceback.walk_tb(error.__traceback__)))


def test_an_error_goes_to_all_and_is_not_kept() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        compute.error = ValueError("no")
        waiters = [asyncio.create_task(flights.join(KEY, compute)) for _ in range(400)]
        await settle()
        compute.gate.set()
        errors = await asyncio.gather(*waiters, return_exceptions=True)
        assert {type(one) for one in errors} == {Internal}
        assert len(set(map(id, errors))) == 400
        assert max(depth(one) for one in errors if isinstance(one, Internal)) <= 3  # one raised for each would grow
        assert [one.logged for one in errors if isinstance(one, Internal)] == [False] + [True] * 399
        assert isinstance(errors[0], Internal)
        assert errors[0].__cause__ is compute.error  # for the log
        compute.error = None
        assert (await flights.join(KEY, compute)).payload == b"2"

    run(story)


def test_an_error_is_not_given_to_who_comes_the_moment_after_it() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        async def fail() -> Answer:
            await compute.gate.wait()
            raise ValueError("no")

        async def come() -> Answer:
            await compute.gate.wait()
            return await flights.join(KEY, compute)

        first = asyncio.create_task(flights.join(KEY, fail))
        await settle()
        # Woken by the gate right after `fail`, before asyncio tells anyone that `fail` is done.
        second = asyncio.create_task(come())
        await settle()
        compute.gate.set()
        assert (await second).payload == b"1"
        with pytest.raises(Internal, match="no"):
            await first

    run(story)


def test_an_error_that_nobody_waits_for_is_no_complaint() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        async def fail() -> Answer:
            try:
                return await compute()
            finally:
                raise ValueError

        waiter = asyncio.create_task(flights.join(KEY, fail))
        await settle()
        waiter.cancel()
        await settle()
        assert waiter.cancelled()

    run(story)


def test_who_comes_after_all_have_left_gets_a_computation_of_its_own() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        compute.stubborn.clear()
        first = asyncio.create_task(flights.join(KEY, compute))
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        assert compute.cancelled == 1
        second = asyncio.create_task(flights.join(KEY, compute))
        await settle()
        compute.stubborn.set()
        await settle()
        third = asyncio.create_task(flights.join(KEY, compute))
        await settle()
        assert compute.begun == 2, "the end of the first must not take the second off the table"
        compute.gate.set()
        assert (await second).payload == (await third).payload == b"2"

    assert joined(run(story)) == 1


def test_it_may_end_with_an_answer_although_cancelled() -> None:
    async def story(flights: Flights, compute: Computation) -> None:
        async def cling() -> Answer:
            try:
                return await compute()
            except asyncio.CancelledError:
                return Answer(b"late")

        first = asyncio.create_task(flights.join(KEY, cling))
        await settle()
        first.cancel()
        compute.gate.set()
        assert (await flights.join(KEY, compute)).payload in (b"1", b"2")
        await asyncio.wait({first})
        assert first.cancelled()

    run(story)
