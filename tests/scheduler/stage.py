"""A scheduler on a stage: an engine that answers when it is told to, and a small model that every text costs alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from saeserve_server.catalog import Catalog, Kind, ModelInfo, SourceInfo
from saeserve_server.engine.process import WorkerLost
from saeserve_server.engine.work import Abandoned, Batch, BatchDone, Done, Spent
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.work import EncodeDone, EncodeWork, Work
from saeserve_server.scheduler.cost import Cost, CostModel
from saeserve_server.scheduler.queue import Outcome, Priority, WorkQueue
from saeserve_server.scheduler.returning import Returning
from saeserve_server.scheduler.scheduler import Scheduler

CATALOG = Catalog(
    ModelInfo("m", 1, 4, 1024, 100, 0, "", "", "cpu", "float32"),
    (
        SourceInfo("0-a", "a", 0, Kind.LATENT, "h", "standard", 4, 8, bos_id=0),
        SourceInfo("0", "neurons", 0, Kind.NEURON, "h", "neurons", 4, 16, bos_id=0),
        SourceInfo("0-bare", "bare", 0, Kind.LATENT, "h", "standard", 4, 8, bos_id=None),
    ),
)
COSTS = CostModel(CATALOG)
AMPLE = Cost(10**6, 10**15, 10**15)


def work(number: int, tokens: int = 10) -> EncodeWork:
    """A text of so many tokens, with its BOS, that is known by its first id."""
    return EncodeWork((number, *range(tokens - 2)), False, (0,))


def budget(items: float = 10**6, flop: float = 10**6, size: float = 10**6) -> Cost:
    """Room for so many texts of 10 tokens: to wait, to compute, to hold."""
    one = COSTS.of(work(1))
    return Cost(int(items), int(flop * one.work), int(size * one.bytes))


def lost() -> WorkerLost:
    return WorkerLost("the worker is restarting", reason="WORKER_RESTARTING", retry_after=1.0)


class SlowEngine:
    """Answers a batch once it is told to: `end` for the one in progress, `let_go` for that and all that follow."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.abandoned: list[tuple[int, int]] = []
        """Number of the batch, and which text of it."""
        self.error: Exception | None = None
        self._numbers: list[int] = []
        self._works: tuple[Work, ...] = ()
        self._gone: set[int] = set()
        self._ended: asyncio.Future[None] | None = None
        self._free = False

    async def run(self, batch: Batch) -> BatchDone:
        self.batches.append([one.ids[0] for one in batch.works])
        self._numbers.append(batch.number)
        self._works, self._gone = batch.works, set()
        if not self._free:
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended
        if self.error is not None:
            raise self.error
        return BatchDone(tuple(self.answer(place, one) for place, one in enumerate(batch.works)), Spent(0.01, 0.02))

    def answer(self, place: int, one: Work) -> Done:
        return Abandoned("encode") if place in self._gone else EncodeDone(one.ids[0], (), None)

    def abandon(self, place: int) -> None:
        self._gone.add(place)
        self.abandoned.append((self._numbers[-1], self._works[place].ids[0]))

    @property
    def busy(self) -> bool:
        return self._ended is not None and not self._ended.done()

    def end(self, error: Exception | None = None) -> None:
        """Ends the batch in progress: with its answers, or with an error."""
        assert self._ended is not None
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def let_go(self) -> None:
        self._free = True
        if self.busy:
            self.end()


class WaitsForNobody(Returning):
    """On the stage a batch takes as long as the telling, and who comes back is the teller's to say."""

    @property
    def patience(self) -> float:
        return 0.0


Story = Callable[[SlowEngine, Scheduler], Awaitable[None]]


def run(
    story: Story, batch_tokens: int = 100, *, room: Cost = AMPLE, max_batch: int | None = None, **parts: object
) -> Metrics:
    """Tells a story; gives the metrics at its end."""
    metrics = Metrics()

    async def tell() -> None:
        engine = parts.get("engine") or SlowEngine()
        assert isinstance(engine, SlowEngine)
        scheduler = Scheduler(engine, COSTS, WorkQueue(batch_tokens, max_batch), room, metrics)
        scheduler._returning = WaitsForNobody()
        scheduler.start()
        try:
            await asyncio.wait_for(story(engine, scheduler), 10)
        finally:
            await scheduler.stop()

    asyncio.run(tell())
    return metrics


async def settle() -> None:
    """Lets everybody go on until nobody can."""
    for _ in range(10):
        await asyncio.sleep(0)


def submit(
    scheduler: Scheduler, *items: Work, priority: Priority = Priority.UNARY, client: str = ""
) -> list[asyncio.Task[Outcome]]:
    tasks = [asyncio.ensure_future(scheduler.submit(item, priority, client=client)) for item in items]
    for task in tasks:  # some tests do not look at all of them, and asyncio would complain
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return tasks


async def occupied(scheduler: Scheduler, *items: Work, client: str = "") -> list[asyncio.Task[Outcome]]:
    """Tasks of a batch that the engine is at from now on."""
    tasks = submit(scheduler, *(items or (work(1),)), client=client)
    await settle()
    return tasks


def taken(scheduler: Scheduler) -> Cost:
    """What is taken of the budget."""
    return scheduler._admission.taken


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"saeserve_{name}", labels) or 0.0
