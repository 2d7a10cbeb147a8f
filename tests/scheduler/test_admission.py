"""Who is let in: what fits the budget; who is not is told when to come again, each at a time of its own."""

import asyncio
import time
from itertools import pairwise

import pytest

from saeserve_server.errors import InvalidArgument, Overloaded
from saeserve_server.ranking.similar import Side, VectorsWork
from saeserve_server.ranking.work import Aggregate, EncodeWork, Projection, Ranking, SearchWork, SourceFilter
from saeserve_server.scheduler.admission import LEAST_DELAY, MOST_DELAY, Admission
from saeserve_server.scheduler.cost import Cost, CostModel
from saeserve_server.scheduler.queue import Priority
from saeserve_server.scheduler.scheduler import Scheduler
from tests.scheduler.stage import CATALOG, COSTS, SlowEngine, budget, occupied, run, settle, submit, taken, work


@pytest.mark.parametrize(
    ("room", "admitted"),
    [
        (budget(items=3), 1 + 3),  # what runs waits no more
        (budget(flop=3), 3),
        (budget(size=3), 3),
    ],
    ids=["items", "flop", "bytes"],
)
def test_what_is_over_the_budget_is_refused_at_once_and_taken_again_once_there_is_room(
    room: Cost, admitted: int
) -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = await occupied(scheduler)
        tasks += submit(scheduler, *(work(number) for number in range(2, 7)))
        await settle()
        refused = [task for task in tasks if task.done()]
        assert tasks[admitted:] == refused
        for task in refused:
            error = task.exception()
            assert isinstance(error, Overloaded)
            assert (error.reason, error.status.value) == ("OVERLOADED", "RESOURCE_EXHAUSTED")
            assert error.retry_after
        engine.end()
        await settle()  # the next batch has begun
        (again,) = submit(scheduler, work(9))
        await settle()
        assert not again.done()
        engine.let_go()
        await asyncio.gather(again, *tasks[:admitted])
        assert taken(scheduler) == Cost()

    run(story, room=room)


@pytest.mark.parametrize(
    ("room", "limit"),
    [
        (Cost(10, COSTS.of(work(1, 20)).work, 10**9), "queue_gflop"),
        (Cost(10, 10**12, COSTS.of(work(1, 20)).bytes), "queue_bytes"),
    ],
    ids=["flop", "bytes"],
)
def test_what_can_never_fit_is_the_callers_fault(room: Cost, limit: str) -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        await occupied(scheduler)  # whether there is room now makes no difference
        with pytest.raises(InvalidArgument) as caught:
            await scheduler.submit(work(2, 21))
        assert caught.value.reason == "REQUEST_TOO_COSTLY"
        assert caught.value.metadata["limit"] == limit
        assert limit in caught.value.message
        assert caught.value.retry_after is None
        with pytest.raises(InvalidArgument, match=f"{limit}.*; so shall it be done"):
            scheduler.check([work(2, 11), work(3, 11)], "; so shall it be done")
        (largest,) = submit(scheduler, work(2, 20))
        engine.let_go()
        await asyncio.wait([largest])
        assert not isinstance(largest.exception(), InvalidArgument)

    run(story, room=room)


def test_texts_that_can_never_be_taken_together_are_the_callers_fault_also_where_each_would_do() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        with pytest.raises(InvalidArgument) as caught:
            scheduler.check((work(number) for number in range(4)), ", or else")
        assert caught.value.metadata == {"limit": "queue_items", "queue_items": "3", "cost": "4"}
        scheduler.check((work(number) for number in range(3)), "")
        assert taken(scheduler) == Cost()  # to check takes nothing

    run(story, room=budget(items=3))


# When to come again


def refusing(taken_flop: int = 50) -> Admission:
    """A full budget; the engine does 10 flop a second, so half of what is there takes 2.5 s."""
    admission = Admission(Cost(10**6, taken_flop, 10**6))
    admission.take(Cost(5, taken_flop, 5), "somebody")
    admission.measured(100, 10, saturated=True)
    return admission


def test_no_two_refused_calls_are_told_the_same_time() -> None:
    admission = refusing()
    delays = [admission.refusal(Cost(1, 1, 1)).retry_after for _ in range(70)]
    assert all(LEAST_DELAY <= delay <= MOST_DELAY for delay in delays)
    assert delays[0] == pytest.approx(2.5, abs=0.1)
    assert delays == sorted(delays)
    assert [later - earlier for earlier, later in pairwise(delays)] == pytest.approx([0.1] * 69, abs=0.05)


@pytest.mark.parametrize("count", [200, 2000])
def test_no_refused_call_is_told_to_wait_longer_than_callers_put_up_with(count: int) -> None:
    admission = refusing(taken_flop=10**6)
    delays = [admission.refusal(Cost(1, 30, 1)).retry_after for _ in range(count)]
    assert max(delays) <= MOST_DELAY
    assert min(delays) >= LEAST_DELAY


def test_calls_refused_beyond_the_longest_delay_do_not_all_come_back_at_once() -> None:
    admission = refusing()
    delays = [admission.refusal(Cost(1, 30, 1)).retry_after for _ in range(200)]
    assert len({round(delay, 3) for delay in delays}) > 150


def test_calls_refused_before_anything_was_measured_do_not_all_come_back_at_once() -> None:
    admission = Admission(Cost(1, 1, 1))
    delays = [admission.refusal(Cost(1, 1, 1)).retry_after for _ in range(50)]
    assert max(delays) <= MOST_DELAY
    assert len({round(delay, 3) for delay in delays}) > 40


def test_calls_refused_by_a_fast_engine_do_not_all_come_back_at_once() -> None:
    admission = Admission(Cost(10**6, 10**9, 10**6))
    admission.take(Cost(5, 10**7, 5), "somebody")
    admission.measured(10**9, 1.0, saturated=True)
    delays = [admission.refusal(Cost(1, 10**6, 1)).retry_after for _ in range(30)]
    assert len({round(delay, 3) for delay in delays}) > 25


def delay(admission: Admission) -> float:
    return admission.refusal(Cost(1, 0, 1)).retry_after


def test_the_measured_rate_follows_the_engine() -> None:
    admission = refusing()
    for _ in range(30):
        admission.measured(20, 1, saturated=True)  # it has become twice as fast
    assert delay(admission) == pytest.approx(1.25, rel=0.01)
    admission.measured(1000, 0, saturated=True)  # a clock that stood still, and a batch of nothing, tell nothing
    admission.measured(0, 1, saturated=True)
    assert delay(admission) == pytest.approx(1.25, rel=0.01)


def test_small_batches_tell_only_how_fast_the_engine_is_at_least() -> None:
    admission = Admission(Cost(10**6, 50, 10**6))
    for flop, expected in ((10, 10), (5, 10), (20, 20), (10, 20)):
        admission.measured(flop, 1, saturated=False)
        assert admission._rate == expected
    admission.measured(25, 1, saturated=True)
    assert admission._rate == 25
    admission.measured(10, 1, saturated=False)
    assert admission._rate == 25


# Deadlines


def test_who_would_be_answered_too_late_is_refused_at_once() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        scheduler._admission.measured(COSTS.of(work(1)).work, 1.0, saturated=True)  # a text a second
        tasks = await occupied(scheduler, client="a")
        tasks += submit(scheduler, work(2), work(3), client="a")
        await settle()
        soon, late = time.monotonic() + 3.5, time.monotonic() + 60
        with pytest.raises(Overloaded) as caught:
            await asyncio.wait_for(scheduler.submit(work(4), client="a", deadline=soon), 1)
        assert caught.value.retry_after
        assert taken(scheduler).items == 2
        tasks.append(asyncio.ensure_future(scheduler.submit(work(5), client="a", deadline=late)))
        tasks.append(asyncio.ensure_future(scheduler.submit(work(6), client="a")))
        stream = scheduler.submit(work(7), Priority.STREAM, client="a", deadline=soon)  # waits for as long as it may
        tasks.append(asyncio.ensure_future(stream))
        await settle()
        assert not any(task.done() for task in tasks)
        engine.let_go()
        await asyncio.gather(*tasks)
        assert taken(scheduler) == Cost()

    run(story, batch_tokens=10)


def test_nobody_is_taken_to_be_too_late_before_the_engine_was_seen_at_work() -> None:
    admission = Admission(Cost(10**6, 10**6, 10**6))
    admission.take(Cost(5, 50, 5), "somebody")
    assert not admission.is_too_late(Cost(1, 1, 1), "somebody", 0.1)
    admission.measured(1, 1, saturated=False)
    assert not admission.is_too_late(Cost(1, 1, 1), "somebody", 0.1)
    admission.measured(10, 1, saturated=True)
    assert admission.is_too_late(Cost(1, 1, 1), "somebody", 5.0)
    assert not admission.is_too_late(Cost(1, 60, 1), "somebody", 5.0)  # late by itself: no retry would mend that
    assert not admission.is_too_late(Cost(1, 1, 1), "somebody", 5.2)


def test_a_caller_whose_turn_comes_in_time_is_not_refused_for_what_another_waits_for() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        scheduler._admission.measured(COSTS.of(work(1)).work, 1.0, saturated=True)  # a text a second
        heavy = await occupied(scheduler, client="heavy")
        heavy += submit(scheduler, *(work(number) for number in range(10, 40)), client="heavy")
        await settle()
        light = asyncio.ensure_future(scheduler.submit(work(50), client="light", deadline=time.monotonic() + 10))
        await settle()
        engine.let_go()
        await asyncio.gather(light, *heavy)
        assert [50] in engine.batches[:3]  # it is the next or the one after

    run(story, batch_tokens=10)


# What a text costs


def search(tokens: int, *sources: int, **changes: object) -> SearchWork:
    values = {
        "ids": tuple(range(1, tokens)),
        "bos_row": False,
        "filters": tuple(SourceFilter(rank) for rank in sources),
        "aggregate": Aggregate.MAX,
        "rows": tuple(range(tokens - 1)),
        "limit": 25,
        "ranking": Ranking.RAW,
    }
    return SearchWork(**(values | changes))


def test_a_text_costs_by_its_tokens_and_what_is_asked_of_them() -> None:
    one, two = COSTS.of(search(10, 0)), COSTS.of(search(20, 0))
    assert two.work == 2 * one.work
    assert two.bytes > one.bytes
    model = 2 * 12 * 4**2
    assert one.work == 10 * (model + 2 * 4 * 8)
    assert COSTS.of(search(10, 1)).work == 10 * model  # neurons are read, not encoded
    assert COSTS.of(search(10, 0, 1)).work == one.work
    assert COSTS.of(search(10, 0, limit=1000)).bytes > 30 * one.bytes
    assert COSTS.of(search(10, 0, aggregate=Aggregate.EACH)).bytes > one.bytes
    ids = tuple(range(9))
    assert COSTS.of(EncodeWork(ids, True, (0,))).bytes > COSTS.of(EncodeWork(ids, False, (0,))).bytes
    whole, chosen = EncodeWork(ids, False, (1,)), EncodeWork(ids, False, (), ((1, 3), (1, 5)))
    assert COSTS.of(whole).bytes - COSTS.of(chosen).bytes == 9 * 4 * (16 - 2)
    assert COSTS.of(EncodeWork(ids, False, (), ((0, 3), (0, 5)))).work == one.work


def test_a_text_costs_a_forward_pass_for_each_bos_of_its_sources() -> None:
    model, encoding = 2 * 12 * 4**2, 2 * 4 * 8
    assert COSTS.of(search(10, 0, 1)).work == 10 * (model + encoding)
    assert COSTS.of(search(10, 2)).work == 9 * (model + encoding)  # without a BOS
    assert COSTS.of(search(10, 0, 1, 2)).work == (10 + 9) * model + 10 * 2 * encoding


def test_an_answer_takes_no_more_than_it_was_taken_to() -> None:
    """Where the estimate is exact: dense rows, which are what grows without bound."""
    cost = CostModel(CATALOG).of(EncodeWork(tuple(range(99)), False, (), ((1, 3), (1, 5), (0, 2))))
    assert cost.bytes >= 99 * 3 * 4
    assert cost.items == 1


def test_projections_cost_their_vectors_and_the_model_even_without_a_source() -> None:
    ids, one = tuple(range(9)), Projection("hook", bytes(4 * 16), b"")
    alone, four = (COSTS.of(EncodeWork(ids, False, projections=(one,) * count)) for count in (1, 4))
    assert alone.work == 10 * (2 * 12 * 4**2 + 2 * 16)
    assert four.work - alone.work == 3 * 10 * 2 * 16
    assert four.bytes - alone.bytes == 3 * (4 * 16 + 4 * 9)
    beside = COSTS.of(EncodeWork(ids, False, (), ((0, 3),), (one,)))
    assert beside.work == COSTS.of(EncodeWork(ids, False, (), ((0, 3),))).work + 10 * 2 * 16


def test_to_look_vectors_up_is_cheap_and_runs_nothing() -> None:
    asked = VectorsWork(0, 3, (Side.DECODER,))
    assert COSTS.runs(asked) == frozenset()
    assert 0 < COSTS.of(asked).work < COSTS.of(EncodeWork((5,), False, (0,))).work
