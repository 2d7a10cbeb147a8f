"""Requests that a worker died over: alone once, then answered or refused; nobody else pays for them twice."""

import asyncio

import pytest

from saeserve_server.errors import Internal, ServeError, Unavailable
from saeserve_server.scheduler import suspects
from saeserve_server.scheduler.cost import Cost
from saeserve_server.scheduler.scheduler import Scheduler
from saeserve_server.scheduler.suspects import Suspects
from tests.scheduler.stage import SlowEngine, lost, occupied, run, settle, submit, taken, work


async def die_over(engine: SlowEngine, scheduler: Scheduler, *numbers: int) -> list[BaseException | None]:
    """A batch of these kills the worker; what each is told."""
    busy = await occupied(scheduler, work(99))
    tasks = submit(scheduler, *(work(number) for number in numbers))
    await settle()
    engine.end()
    await settle()
    assert engine.batches[-1] == list(numbers)
    engine.end(lost())
    await settle()
    await asyncio.gather(*busy)
    return [task.exception() for task in tasks]


def test_after_a_death_each_runs_alone_and_is_cleared_when_it_survives() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        told = await die_over(engine, scheduler, 1, 2, 3)
        assert all(isinstance(error, Unavailable) and error.reason == "WORKER_RESTARTING" for error in told)
        busy = await occupied(scheduler, work(99))
        again = submit(scheduler, work(1), work(4), work(2), work(5), work(6))
        await settle()
        engine.let_go()
        await asyncio.gather(*busy, *again)
        assert engine.batches[-4:] == [[1], [4], [2], [5, 6]]
        await asyncio.gather(*submit(scheduler, work(1), work(2), work(3), work(7)))
        # 3 has not come back before: it is still to show that it does no harm.
        assert engine.batches[-3:] == [[1, 2], [3], [7]]
        assert taken(scheduler) == Cost()

    run(story)


def test_after_a_second_death_it_is_refused_and_the_others_are_answered() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        await die_over(engine, scheduler, 1, 2)
        (told,) = await die_over(engine, scheduler, 1)
        assert isinstance(told, Internal)
        assert told.reason == "REQUEST_CRASHED"
        with pytest.raises(Internal) as caught:
            await scheduler.submit(work(1))
        assert caught.value.reason == "REQUEST_CRASHED"
        engine.let_go()
        assert (await scheduler.submit(work(2))).done.rows == 2
        assert taken(scheduler) == Cost()

    run(story)


def test_a_worker_that_was_not_up_is_nobodys_fault() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        engine.error = Unavailable("the worker is restarting", reason="WORKER_RESTARTING", retry_after=1.0)
        engine.let_go()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await scheduler.submit(work(1))
        engine.error = None
        await asyncio.gather(*submit(scheduler, work(1), work(2)))
        assert engine.batches[-1] == [1, 2]

    run(story)


def test_what_is_held_against_a_request_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        await die_over(engine, scheduler, 1, 2)
        await die_over(engine, scheduler, 1)
        with pytest.raises(Internal):
            await scheduler.submit(work(1))
        assert suspects.HELD_SECONDS == 600
        monkeypatch.setattr(suspects, "HELD_SECONDS", 0.01)
        await asyncio.sleep(0.02)
        engine.let_go()
        await asyncio.gather(*submit(scheduler, work(1), work(2), work(3)))
        assert engine.batches[-1] == [1, 2, 3]

    run(story)


def test_one_that_waits_while_another_like_it_kills_the_worker_runs_alone_too() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        first = await occupied(scheduler, work(1))
        waiting = submit(scheduler, work(2), work(1), work(3))
        await settle()
        engine.end(lost())
        await settle()
        engine.let_go()
        await asyncio.gather(*first, *waiting, return_exceptions=True)
        assert engine.batches == [[1], [2], [1], [3]]

    run(story)


def test_one_that_waits_while_another_like_it_kills_the_worker_twice_is_refused() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        await die_over(engine, scheduler, 1)
        first = await occupied(scheduler, work(1))
        (waiting,) = submit(scheduler, work(1))
        await settle()
        engine.end(lost())
        await settle()
        engine.let_go()
        outcomes = await asyncio.gather(*first, waiting, return_exceptions=True)
        assert engine.batches == [[99], [1], [1]]
        assert [isinstance(one, ServeError) and one.reason for one in outcomes] == ["REQUEST_CRASHED"] * 2

    run(story)


def test_the_same_request_twice_in_a_batch_was_present_at_one_death() -> None:
    held = Suspects()
    held.died([work(1), work(1)])
    held.check(work(1))
    assert held.is_suspect(work(1))


def test_no_more_is_held_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "MOST_SUSPECTS", 3)
    held = Suspects()
    held.died([work(number) for number in range(5)])
    assert [held.is_suspect(work(number)) for number in range(5)] == [False, False, True, True, True]
