"""Batches: what queued while the engine was busy, up to the budget; who goes first; whose answer nobody wants."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from saeserve_server.engine.work import BatchDone, EncodeDone, EncodeWork, Failed, Work
from saeserve_server.errors import Internal, Unavailable
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.queue import STREAM_PATIENCE, Priority
from saeserve_server.scheduler.scheduler import Scheduler


def work(number: int, tokens: int = 10) -> EncodeWork:
    return EncodeWork((number, *range(tokens - 1)), True, False, (0,))


class SlowEngine:
    """Answers a batch once it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, batch: Sequence[Work]) -> BatchDone:
        self.batches.append([one.ids[0] for one in batch])
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return BatchDone(tuple(EncodeDone(one.ids[0], (), None) for one in batch), 0.01, 0.02)


def run(story: Callable[[SlowEngine, Scheduler], Awaitable[None]], batch_tokens: int = 100) -> None:
    async def tell() -> None:
        engine = SlowEngine()
        scheduler = Scheduler(engine, batch_tokens, Metrics())
        scheduler.start()
        try:
            await asyncio.wait_for(story(engine, scheduler), 10)
        finally:
            await scheduler.stop()

    asyncio.run(tell())


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def submit(scheduler: Scheduler, *items: EncodeWork, priority: Priority = Priority.UNARY) -> list[asyncio.Task]:
    return [asyncio.ensure_future(scheduler.submit(item, priority)) for item in items]


def test_what_queued_while_the_engine_was_busy_is_one_batch() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        first = submit(scheduler, work(1))
        await settle()
        rest = submit(scheduler, *(work(number) for number in range(2, 7)))
        await settle()
        engine.gate.set()
        outcomes = await asyncio.gather(*first, *rest)
        assert engine.batches == [[1], [2, 3, 4, 5, 6]]
        assert [outcome.done.rows for outcome in outcomes] == [1, 2, 3, 4, 5, 6]
        assert [outcome.batch_size for outcome in outcomes] == [1, 5, 5, 5, 5, 5]

    run(story)


def test_a_batch_keeps_within_its_tokens_and_a_long_text_goes_alone() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = submit(scheduler, work(1, 60), work(2, 60), work(3, 500), work(4, 40), work(5, 60))
        engine.gate.set()
        await asyncio.gather(*tasks)
        assert engine.batches == [[1], [2], [3], [4, 5]]

    run(story)


def test_the_same_text_costs_its_tokens_once() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        tasks = submit(scheduler, *(work(1, 60) for _ in range(20)))
        engine.gate.set()
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in engine.batches] == [20]

    run(story)


def test_streams_yield_to_unary_calls_but_are_not_starved(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = submit(scheduler, work(1))
        await settle()
        streamed = submit(scheduler, work(2, 100), work(3, 100), priority=Priority.STREAM)
        await settle()
        unary = submit(scheduler, work(4, 100), work(5, 100))
        await settle()
        engine.gate.set()
        await asyncio.gather(*busy, *streamed, *unary)
        assert engine.batches == [[1], [4], [5], [2], [3]]

    run(story)
    monkeypatch.setattr("saeserve_server.scheduler.queue.STREAM_PATIENCE", -1.0)

    async def impatient(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = submit(scheduler, work(1))
        await settle()
        streamed = submit(scheduler, work(2, 100), priority=Priority.STREAM)
        await settle()
        unary = submit(scheduler, work(4, 100))
        await settle()
        engine.gate.set()
        await asyncio.gather(*busy, *streamed, *unary)
        assert engine.batches == [[1], [2], [4]]

    run(impatient)
    assert STREAM_PATIENCE > 0


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        busy = submit(scheduler, work(1))
        await settle()
        given_up, wanted = submit(scheduler, work(2), work(3))
        await settle()
        given_up.cancel()
        await settle()
        engine.gate.set()
        await asyncio.gather(*busy, wanted)
        assert engine.batches == [[1], [3]]

    run(story)


def test_errors_reach_their_callers_and_the_next_batch_runs() -> None:
    async def story(engine: SlowEngine, scheduler: Scheduler) -> None:
        engine.gate.set()
        engine.error = Unavailable("gone", retry_after=1.0)
        with pytest.raises(Unavailable):
            await scheduler.submit(work(1))
        engine.error = RuntimeError("a fault")
        with pytest.raises(Internal, match="a fault"):
            await scheduler.submit(work(2))
        engine.error = None
        assert (await scheduler.submit(work(3))).done.rows == 3

    run(story)


def test_an_item_that_failed_is_an_internal_error() -> None:
    class Failing(SlowEngine):
        async def run(self, batch: Sequence[Work]) -> BatchDone:
            return BatchDone(tuple(Failed("no") for _ in batch), 0.0, 0.0)

    async def story() -> None:
        scheduler = Scheduler(Failing(), 100, Metrics())
        scheduler.start()
        with pytest.raises(Internal, match="no"):
            await asyncio.wait_for(scheduler.submit(work(1)), 10)
        await scheduler.stop()

    asyncio.run(story())
