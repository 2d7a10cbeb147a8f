"""Callers take turns, and whoever takes most of a full budget makes room for others."""

import asyncio
import time

from saeserve_server.cache.answer import Answer
from saeserve_server.cache.answers import AnswerCache
from saeserve_server.cache.local import LocalTier
from saeserve_server.errors import Overloaded
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.work import Work
from saeserve_server.scheduler.cost import Cost
from saeserve_server.scheduler.queue import Item, Priority, WorkQueue
from saeserve_server.scheduler.scheduler import Scheduler
from tests.scheduler.stage import COSTS, SlowEngine, budget, occupied, run, sample, settle, submit, taken, work

# Turns


def test_callers_take_turns_and_each_is_served_in_its_order() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = await occupied(scheduler)
        tasks += submit(scheduler, *(work(number) for number in range(10, 16)), client="many")
        tasks += submit(scheduler, *(work(number) for number in range(20, 22)), client="few")
        tasks += submit(scheduler, work(30), client="one")
        await settle()
        engine.let_go()
        await asyncio.gather(*tasks)
        assert engine.batches == [[1], [10], [20], [30], [11], [21], [12], [13], [14], [15]]

    run(story, batch_tokens=10)


def test_who_names_no_caller_is_one_caller() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = await occupied(scheduler)
        tasks += submit(scheduler, *(work(number) for number in range(10, 14)))
        tasks += submit(scheduler, work(20), client="named")
        await settle()
        engine.let_go()
        await asyncio.gather(*tasks)
        assert engine.batches[1:] == [[10], [20], [11], [12], [13]]

    run(story, batch_tokens=10)


def test_streams_of_several_callers_take_turns_too() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = await occupied(scheduler)
        for client in (10, 20):
            texts = (work(client + number) for number in range(3))
            tasks += submit(scheduler, *texts, priority=Priority.STREAM, client=str(client))
        await settle()
        engine.let_go()
        await asyncio.gather(*tasks)
        assert engine.batches[1:] == [[10], [20], [11], [21], [12], [22]]

    run(story, batch_tokens=10)


def item(number: int, client: str, arrived: float) -> Item:
    future = asyncio.get_running_loop().create_future()
    return Item(work(number), future, COSTS.of(work(number)), COSTS.runs(work(number)), client=client, arrived=arrived)


def test_the_age_of_the_queue_is_that_of_the_item_that_has_waited_longest() -> None:
    async def story() -> None:
        queue = WorkQueue(10)
        assert queue.oldest() is None
        for one in (item(1, "a", 1.0), item(2, "a", 2.0), item(3, "b", 3.0)):
            queue.put(one)
        assert queue.oldest() == 1.0
        (first,) = await queue.take()
        first.future.set_result(None)
        assert queue.oldest() == 2.0

    asyncio.run(story())


# Displacement


def waiting_of(tasks: list[asyncio.Task]) -> list[bool]:
    return [not task.done() for task in tasks]


def test_the_newest_item_of_who_takes_most_makes_room_for_who_takes_less() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        running = await occupied(scheduler, client="other")
        heavy = submit(scheduler, work(10), work(11), work(12), work(13), client="heavy")
        middle = submit(scheduler, work(20), work(21), client="middle")
        await settle()
        light = submit(scheduler, work(30), client="light")
        await settle()
        assert waiting_of([*heavy, *middle, *light]) == [True, True, True, False, True, True, True]
        error = heavy[3].exception()
        assert isinstance(error, Overloaded)
        assert error.retry_after
        assert taken(scheduler).items == 6

        light += submit(scheduler, work(31), client="light")  # heavy still takes more than light would
        await settle()
        assert waiting_of([*heavy, *middle, *light]) == [True, True, False, False, True, True, True, True]
        light += submit(scheduler, work(32), client="light")  # all take two now: nobody takes more than light would
        await settle()
        assert waiting_of([*heavy[:2], *middle, *light]) == [True] * 6 + [False]
        engine.let_go()
        await asyncio.gather(*running, *heavy[:2], *middle, *light[:2])
        assert engine.batches[1] == [10, 20, 30, 11, 21, 31]
        assert taken(scheduler) == Cost()

    run(story, room=budget(items=6))


def test_nobody_makes_room_for_one_who_would_then_take_as_much() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        await occupied(scheduler, client="other")
        waiting = submit(scheduler, work(10), work(11), client="two")
        waiting += submit(scheduler, work(20), client="one")
        waiting += submit(scheduler, work(30), client="third")
        await settle()
        for client in ("one", "two"):  # one more would be as many as "two" has, or more than anybody has
            (refused,) = submit(scheduler, work(40), client=client)
            await settle()
            assert isinstance(refused.exception(), Overloaded)
        assert waiting_of(waiting) == [True] * 4
        engine.let_go()
        await asyncio.gather(*waiting)

    run(story, room=budget(items=4))


def test_what_runs_and_items_of_streams_are_never_displaced() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        running = await occupied(scheduler, *(work(number) for number in range(10, 15)), client="heavy")
        streamed = submit(scheduler, work(20), priority=Priority.STREAM, client="heavy")
        await settle()
        third = submit(scheduler, work(30), work(31), work(32), client="third")
        heavy = submit(scheduler, work(40), client="heavy")
        light = submit(scheduler, *(work(50 + number) for number in range(4)), client="light")
        await settle()
        assert waiting_of([*running, *streamed]) == [True] * 6
        assert waiting_of([*third, *heavy]) == [True, True, True, False]
        assert waiting_of(light) == [True, True, True, False]
        engine.let_go()
        await asyncio.gather(*running, *streamed, *third, *light[:3])
        assert taken(scheduler) == Cost()

    run(story, room=budget(flop=12), batch_tokens=50)


def test_nobody_is_displaced_in_vain() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        await occupied(scheduler, *(work(number) for number in range(10, 13)), client="running")
        heavy = submit(scheduler, *(work(number) for number in range(20, 26)), client="heavy")
        await settle()
        (large,) = submit(scheduler, work(30, 40), client="light")
        await settle()
        assert isinstance(large.exception(), Overloaded)
        assert waiting_of(heavy) == [True] * 6

    run(story, room=budget(flop=9), batch_tokens=30)


def test_the_share_that_counts_is_the_largest_of_items_computation_and_memory() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        await occupied(scheduler)
        many = submit(scheduler, *(work(number, 2) for number in range(10, 14)), client="many short")
        few = submit(scheduler, work(20, 60), work(21, 1), client="few long")
        await settle()
        light: list[asyncio.Task] = submit(scheduler, work(30, 20), client="light")
        await settle()
        assert waiting_of([*many, *light]) == [True] * 5
        assert not all(waiting_of(few))

    run(story, room=budget(items=100, flop=8))


def test_an_item_that_was_given_up_is_not_displaced_again() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        await occupied(scheduler, client="other")
        heavy = submit(scheduler, work(10), work(11), work(12), work(13), client="heavy")
        await settle()
        heavy[3].cancel()
        await settle()
        light = submit(scheduler, work(20), work(21), client="light")
        await settle()
        assert waiting_of([*heavy, *light]) == [True, True, False, False, True, True]
        engine.let_go()
        await asyncio.gather(*heavy[:2], *light)
        assert taken(scheduler) == Cost()

    metrics: Metrics = run(story, room=budget(items=4))
    assert sample(metrics, "abandoned_total", stage="queue") == 1


def test_works_of_all_kinds_have_the_same_identity() -> None:
    """Items are told apart, not their works: two callers may ask the same."""

    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        same: Work = work(1)
        tasks = submit(scheduler, same, same, same)
        engine.let_go()
        assert [outcome.done.rows for outcome in await asyncio.gather(*tasks)] == [1, 1, 1]
        assert taken(scheduler) == Cost()

    run(story)


def test_who_waits_for_an_answer_that_another_has_asked_for_is_not_refused_with_the_other() -> None:
    """The caches compute identical questions once, in the lane and with the deadline of who asked first."""

    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        metrics = Metrics()
        answers = AnswerCache(LocalTier(0, metrics), None, metrics)

        def asked(deadline: float | None) -> asyncio.Future[Answer]:
            async def compute() -> Answer:
                await settle()  # as a look-up among replicas takes
                return Answer(str((await scheduler.submit(work(20), deadline=deadline)).done.rows).encode())

            async def readable(_: bytes) -> bool:
                return True

            return asyncio.ensure_future(answers.get(b"key", compute, readable))

        scheduler._admission.measured(COSTS.of(work(1)).work, 1.0, saturated=True)  # a text a second
        busy = await occupied(scheduler)
        first, second = asked(time.monotonic() + 1.5), asked(None)
        await settle()
        await settle()
        await settle()
        assert isinstance(first.exception(), Overloaded)
        engine.let_go()
        await asyncio.gather(*busy)
        assert (await second).payload == b"20"

    run(story)
