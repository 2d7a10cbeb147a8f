"""Where requests meet the engine: everyone submits, one task forms batches and hands back the answers.

Whatever queued while the engine was busy is the next batch. Nothing is held back to wait for more, but for callers who
have just been answered and are expected back at once (`returning.py`). What is over the budget is refused at once; what
nobody waits for any more is not computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterable
from weakref import WeakValueDictionary

from saeserve_server.cache.answer import Spending
from saeserve_server.engine.process import Engine, WorkerLost
from saeserve_server.engine.work import Abandoned, Batch, BatchDone, Failed
from saeserve_server.errors import Internal, ServeError
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.similar import AnyWork
from saeserve_server.scheduler.admission import STREAM_SHARE, Admission
from saeserve_server.scheduler.cost import Cost, CostModel
from saeserve_server.scheduler.queue import Item, Outcome, Priority, WorkQueue
from saeserve_server.scheduler.returning import Returning
from saeserve_server.scheduler.suspects import Suspects

log = logging.getLogger(__name__)

ANSWERS_AT_ONCE = 2
"""Callers who are woken before the event loop looks at what else there is: each goes on to describe its answer."""


class Scheduler:
    """Admission, queue and dispatcher in front of one engine."""

    def __init__(self, engine: Engine, costs: CostModel, queue: WorkQueue, budget: Cost, metrics: Metrics) -> None:
        self._engine = engine
        self._costs = costs
        self._queue = queue
        self._admission = Admission(budget)
        self._suspects = Suspects()
        self._returning = Returning()
        self._metrics = metrics
        self._batches = itertools.count()
        self._running: dict[Item, int] = {}  # place in the batch that the engine is at
        self._freed = asyncio.Event()
        self._streamed = Cost()  # what items of streams take of the budget
        self._stream_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._dispatcher: asyncio.Task[None] | None = None
        self._deliveries: set[asyncio.Task[None]] = set()
        metrics.queue_size.set_function(lambda: self._admission.taken.items)
        metrics.queue_load.set_function(lambda: self._admission.load)
        metrics.queue_age.set_function(self._age)

    def start(self) -> None:
        """Starts forming batches. Call within the event loop."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="dispatcher")

    async def stop(self) -> None:
        """Stops forming batches."""
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._dispatcher

    def check(self, works: Iterable[AnyWork], otherwise: str, client: str = "", deadline: float | None = None) -> None:
        """For requests of several texts, before the first is submitted (without a deadline of its own).

        Raises InvalidArgument for texts that could never be taken together, where `otherwise` says what else can be
        done; Overloaded if what is there already would keep them waiting beyond the deadline.
        """
        cost = sum((self._costs.of(work) for work in works), Cost())
        self._admission.check_possible(cost, otherwise)
        self._check_in_time(cost, client, deadline)

    async def submit(
        self,
        work: AnyWork,
        priority: Priority = Priority.UNARY,
        *,
        client: str = "",
        deadline: float | None = None,
        keep: bool = False,
    ) -> Outcome:
        """Waits for an item's answer. Cancelling the wait takes the item out of the queue, or out of its batch.

        Items of streams wait for room; others are refused if there is none, or if what is there already would keep
        them waiting beyond their `deadline` (in the time of `time.monotonic`). Raises Overloaded, InvalidArgument for
        what could never be taken, Unavailable if the engine died, Internal if it could not compute the item or is
        known to die of it.
        """
        self._suspects.check(work)
        cost = self._costs.of(work)
        self._admission.check_possible(cost)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        item = Item(work, future, cost, self._costs.runs(work), priority, client, keep)
        if priority is Priority.STREAM:
            await self._room_for_stream(cost, client)
            self._streamed += cost
        else:
            self._check_in_time(cost, client, deadline)
            self._make_room(item)
        self._admission.take(cost, client)
        self._queue.put(item)
        self._returning.came()
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._left(item)
            raise
        finally:
            if item not in self._running:  # else its batch holds on to it
                self._release(item)

    def _check_in_time(self, cost: Cost, client: str, deadline: float | None) -> None:
        if deadline is not None and self._admission.is_too_late(cost, client, deadline - time.monotonic()):
            raise self._admission.refusal(cost)

    def _left(self, item: Item) -> None:
        """Nobody waits for an item any more."""
        if item.cost.items:
            self._metrics.abandoned.labels("queue").inc()
        elif item in self._running:
            self._engine.abandon(self._running[item])

    def _release(self, item: Item) -> None:
        """Gives back what the item still takes of the budget."""
        if item.cost != Cost():
            self._give_back(item, item.cost)

    def _started(self, item: Item) -> None:
        """It waits no more."""
        self._give_back(item, Cost(items=1))

    def _computed(self, item: Item) -> None:
        """What it still takes is the memory of its answer, until that is handed back."""
        self._give_back(item, Cost(work=item.cost.work))

    def _give_back(self, item: Item, cost: Cost) -> None:
        self._admission.give_back(cost, item.client)
        item.cost -= cost
        if item.priority is Priority.STREAM:
            self._streamed -= cost
        self._freed.set()

    async def _room_for_stream(self, cost: Cost, client: str) -> None:
        """Waits until the items of streams leave room for one more; unary calls do not keep it waiting.

        Within a caller's lane first come, first served.
        """
        async with self._stream_turns.setdefault(client, asyncio.Lock()):
            while self._streamed != Cost() and (self._streamed + cost).share_of(self._admission.budget) > STREAM_SHARE:
                self._freed.clear()
                await self._freed.wait()

    def _make_room(self, item: Item) -> None:
        for other in self._admission.make_way(item, self._queue.newest):
            self._refuse(other, self._admission.refusal(other.cost))

    async def _dispatch(self) -> None:
        while True:
            if held := await self._returning.wait(self._queue.has_room):
                self._metrics.gather_seconds.observe(held)
            work_waited = not self._queue.is_empty
            batch = [item for item in await self._queue.take(self._suspects.is_suspect) if self._is_admissible(item)]
            if not batch:
                continue
            self._running = {item: place for place, item in enumerate(batch)}
            for item in batch:
                self._started(item)
            began = time.monotonic()
            works = [item.work for item in batch]
            left_behind = self._admission.taken.items > 0
            try:
                answer = await self._engine.run(
                    Batch(next(self._batches), tuple(works), tuple(item.keep for item in batch))
                )
                if work_waited and answer.spent.idle_seconds:
                    self._metrics.handover_seconds.observe(max(0.0, answer.spent.idle_seconds - held))
                ran = [item for item, done in zip(batch, answer.done, strict=True) if not isinstance(done, Abandoned)]
                self._suspects.survived([item.work for item in ran])
                computed = sum({item.runs: item.cost.work for item in ran}.values())  # a text is run once
                seconds = time.monotonic() - began
                self._admission.measured(computed, seconds, saturated=left_behind)
                self._returning.ended(computed, seconds, [item.tokens for item in batch if item.wanted])
                for item in batch:
                    self._computed(item)
                self._hand_back(batch, answer, began)
            except WorkerLost as error:
                self._suspects.died(works)
                for item in batch:
                    self._refuse(item, self._suspects.verdict(item.work) or error)
            except ServeError as error:
                for item in batch:
                    self._refuse(item, error)
            except Exception as error:  # nothing may end this loop: every caller would hang
                log.exception("the engine's interface failed")
                for item in batch:
                    self._refuse(item, _fault(error))
            finally:
                self._running = {}

    def _is_admissible(self, item: Item) -> bool:
        """Whether nothing has come to be held against an item while it waited. Refuses it otherwise."""
        verdict = self._suspects.verdict(item.work)
        if verdict is not None:
            self._refuse(item, verdict)
        return verdict is None

    def _refuse(self, item: Item, error: ServeError) -> None:
        """Ends an item with an error, if it is still waited for."""
        if item.wanted:
            item.future.set_exception(error.again())
        self._release(item)

    def _hand_back(self, batch: list[Item], answer: BatchDone, began: float) -> None:
        """Has the answers delivered while the next batch is on its way."""

        async def deliver() -> None:
            try:
                await self._deliver(batch, answer, began)
            except Exception as error:  # nobody may be left waiting
                log.exception("the engine's answer cannot be delivered")
                for item in batch:
                    self._refuse(item, _fault(error))

        task = asyncio.create_task(deliver())
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)

    async def _deliver(self, batch: list[Item], answer: BatchDone, began: float) -> None:
        spent = answer.spent
        self._metrics.batch(len(batch), sum(item.tokens for item in batch), spent.forward_seconds, spent.encode_seconds)
        self._metrics.work(spent.forward_passes, spent.forward_tokens, spent.encodes, spent.encode_tokens)
        self._metrics.recovered(spent.splits, spent.out_of_memory)
        self._metrics.worker_memory(spent.memory_bytes, spent.mapped_bytes)
        self._metrics.device_memory(spent.device_bytes, spent.device_reserved_bytes)
        kept = answer.kept or (None,) * len(batch)
        for place, (item, done, rows) in enumerate(zip(batch, answer.done, kept, strict=True)):
            self._release(item)
            if place % ANSWERS_AT_ONCE == ANSWERS_AT_ONCE - 1:
                await asyncio.sleep(0)
            waited = began - item.arrived
            self._metrics.queue_seconds.observe(waited)
            if isinstance(done, Abandoned):
                self._metrics.abandoned.labels(done.stage).inc()
                self._refuse(item, Internal("the worker abandoned an item that was waited for"))
            elif isinstance(done, Failed):
                self._refuse(item, Internal(done.message, reason=done.reason))
            elif item.wanted:
                spending = Spending(len(batch), waited, spent.forward_seconds, spent.encode_seconds)
                item.future.set_result(Outcome(done, spending, rows))

    def _age(self) -> float:
        oldest = self._queue.oldest()
        return 0.0 if oldest is None else time.monotonic() - oldest


def _fault(error: Exception) -> Internal:
    return Internal(f"{type(error).__name__}: {error}")
