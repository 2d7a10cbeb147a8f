"""Batches: what queued while the engine was busy, up to the budget; who goes first; whose answer nobody wants."""

import asyncio
from dataclasses import replace

import pytest

from saeserve_server.engine.work import Done, Failed
from saeserve_server.errors import Internal, Unavailable
from saeserve_server.ranking.work import Work
from saeserve_server.scheduler.queue import STREAM_PATIENCE, Priority
from saeserve_server.scheduler.scheduler import Scheduler
from tests.scheduler.stage import SlowEngine, occupied, run, sample, settle, submit, work


def test_what_queued_while_the_engine_was_busy_is_one_batch() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        first = await occupied(scheduler)
        rest = submit(scheduler, *(work(number) for number in range(2, 7)))
        await settle()
        engine.let_go()
        outcomes = await asyncio.gather(*first, *rest)
        assert engine.batches == [[1], [2, 3, 4, 5, 6]]
        assert [outcome.done.rows for outcome in outcomes] == [1, 2, 3, 4, 5, 6]
        assert [outcome.spent.batch_size for outcome in outcomes] == [1, 5, 5, 5, 5, 5]
        assert {(outcome.spent.forward, outcome.spent.encode) for outcome in outcomes} == {(0.01, 0.02)}

    metrics = run(story)
    assert sample(metrics, "batch_size_count") == 2
    assert sample(metrics, "batch_size_sum") == 6
    assert sample(metrics, "batch_tokens_sum") == 60
    assert sample(metrics, "queue_duration_seconds_count") == 6


def test_a_batch_keeps_within_its_tokens_and_a_long_text_goes_alone() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = submit(scheduler, work(1, 60), work(2, 60), work(3, 500), work(4, 40), work(5, 60))
        engine.let_go()
        await asyncio.gather(*tasks)
        assert engine.batches == [[1], [2], [3], [4, 5]]

    run(story)


def test_the_same_text_costs_its_tokens_once() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = submit(scheduler, *(work(1, 60) for _ in range(20)))
        engine.let_go()
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in engine.batches] == [20]

    run(story)


def test_a_text_takes_the_tokens_of_every_forward_pass_that_its_batch_does_not_hold_yet() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        both, bare = replace(work(1, 41), sources=(0, 2)), replace(work(1, 41), sources=(2,))  # 41 with the BOS, and 40
        tasks = submit(
            scheduler, work(1, 41), bare, both, work(2, 17), work(3, 61), replace(work(3, 61), sources=(0, 2))
        )
        engine.let_go()
        await asyncio.gather(*tasks)
        assert engine.batches == [[1, 1, 1, 2], [3], [3]]

    metrics = run(story)
    assert sample(metrics, "batch_tokens_sum") == (41 + 40 + 81 + 17) + 61 + 121


def test_a_batch_holds_no_more_requests_than_it_may() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = submit(scheduler, *(work(number % 3 + 1) for number in range(8)))  # the same texts count, too
        engine.let_go()
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in engine.batches] == [3, 3, 2]

    run(story, max_batch=3)


def test_streams_yield_to_unary_calls_but_are_not_starved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        streamed = submit(scheduler, work(2, 100), work(3, 100), priority=Priority.STREAM)
        await settle()
        unary = submit(scheduler, work(4, 100), work(5, 100))
        await settle()
        engine.let_go()
        await asyncio.gather(*busy, *streamed, *unary)
        assert engine.batches == [[1], [4], [5], [2], [3]]

    run(story)
    monkeypatch.setattr("saeserve_server.scheduler.queue.STREAM_PATIENCE", -1.0)

    async def impatient(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        streamed = submit(scheduler, work(2, 100), priority=Priority.STREAM)
        await settle()
        unary = submit(scheduler, work(4, 100))
        await settle()
        engine.let_go()
        await asyncio.gather(*busy, *streamed, *unary)
        assert engine.batches == [[1], [2], [4]]

    run(impatient)
    assert STREAM_PATIENCE > 0


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = await occupied(scheduler)
        given_up, wanted = submit(scheduler, work(2), work(3))
        await settle()
        given_up.cancel()
        await settle()
        engine.let_go()
        await asyncio.gather(*busy, wanted)
        assert engine.batches == [[1], [3]]
        assert engine.abandoned == []

    assert sample(run(story), "abandoned_total", stage="queue") == 1


def test_errors_reach_their_callers_and_the_next_batch_runs() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        engine.let_go()
        engine.error = Unavailable("gone", retry_after=1.0)
        with pytest.raises(Unavailable):
            await scheduler.submit(work(1))
        engine.error = RuntimeError("a fault")
        with pytest.raises(Internal, match="a fault"):
            await scheduler.submit(work(2))
        engine.error = None
        assert (await scheduler.submit(work(3))).done.rows == 3

    run(story)


def test_an_item_that_failed_is_an_internal_error_with_its_reason_and_the_others_are_answered() -> None:
    class Failing(SlowEngine):
        def answer(self, place: int, one: Work) -> Done:
            return Failed("no", "OUT_OF_MEMORY") if one.ids[0] == 2 else super().answer(place, one)

    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = submit(scheduler, work(1), work(2), work(3))
        engine.let_go()
        first, failed, third = await asyncio.gather(*tasks, return_exceptions=True)
        assert engine.batches == [[1, 2, 3]]
        assert isinstance(failed, Internal)
        assert (failed.message, failed.reason) == ("no", "OUT_OF_MEMORY")
        assert [first.done.rows, third.done.rows] == [1, 3]

    run(story, engine=Failing())


def test_an_engine_that_answers_too_little_fails_its_batch_and_the_next_runs() -> None:
    class Forgetful(SlowEngine):
        async def run(self, batch):
            answer = await super().run(batch)
            return type(answer)(answer.done[:1], answer.spent) if len(answer.done) == 2 else answer

    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = submit(scheduler, work(1), work(2))
        engine.let_go()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert any(isinstance(outcome, Internal) for outcome in outcomes)
        assert (await scheduler.submit(work(3))).done.rows == 3

    run(story, engine=Forgetful())
