"""Where requests meet the engine: everyone submits, one task forms batches and hands back the answers.

Work-conserving: whatever queued while the engine was busy is the next batch; nothing is held back to wait for more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from saeserve_server.engine.process import Engine
from saeserve_server.engine.work import BatchDone, Failed, Work
from saeserve_server.errors import Internal, ServeError
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.queue import Item, Outcome, Priority, WorkQueue

log = logging.getLogger(__name__)


class Scheduler:
    """Queue and dispatcher in front of one engine."""

    def __init__(self, engine: Engine, batch_tokens: int, metrics: Metrics) -> None:
        self._engine = engine
        self._queue = WorkQueue(batch_tokens)
        self._metrics = metrics
        self._dispatcher: asyncio.Task[None] | None = None
        metrics.queue_length.set_function(lambda: len(self._queue))

    def start(self) -> None:
        """Starts forming batches. Call within the event loop."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="dispatcher")

    async def stop(self) -> None:
        """Stops forming batches."""
        if self._dispatcher is not None:
            self._dispatcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._dispatcher

    async def submit(self, work: Work, priority: Priority = Priority.UNARY) -> Outcome:
        """Waits for an item's answer. Cancelling the wait takes the item out of the queue.

        Raises Unavailable if the engine died, Internal if it could not compute the item.
        """
        item = Item(work, asyncio.get_running_loop().create_future())
        self._queue.put(item, priority)
        outcome = await item.future
        if isinstance(outcome.done, Failed):
            raise Internal(outcome.done.message)
        return outcome

    async def _dispatch(self) -> None:
        while True:
            batch = await self._queue.take()
            began = time.monotonic()
            try:
                self._deliver(batch, await self._engine.run([item.work for item in batch]), began)
            except ServeError as error:
                for item in batch:
                    _fail(item, error)
            except Exception as error:  # nothing may end this loop: every caller would hang
                log.exception("the engine's interface failed")
                for item in batch:
                    _fail(item, Internal(f"{type(error).__name__}: {error}"))

    def _deliver(self, batch: list[Item], answer: BatchDone, began: float) -> None:
        self._metrics.batch(
            len(batch), sum(item.tokens for item in batch), answer.forward_seconds, answer.encode_seconds
        )
        for item, done in zip(batch, answer.done, strict=True):
            waited = began - item.arrived
            self._metrics.queue_seconds.observe(waited)
            if not item.future.done():
                item.future.set_result(Outcome(done, len(batch), waited, answer.forward_seconds, answer.encode_seconds))


def _fail(item: Item, error: ServeError) -> None:
    if not item.future.done():
        item.future.set_exception(error)
