"""What waits for the engine, and which of it makes the next batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum

from saeserve_server.engine.work import Done, Work

STREAM_PATIENCE = 1.0
"""Seconds after which an item of a stream no longer yields to unary calls, so that it is never starved."""


class Priority(IntEnum):
    """Who goes first."""

    UNARY = 0
    STREAM = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """An item's answer, and what it took. Seconds."""

    done: Done
    batch_size: int
    queue_seconds: float
    forward_seconds: float
    encode_seconds: float


@dataclass(slots=True, eq=False)
class Item:
    """A piece of work and whoever waits for it."""

    work: Work
    future: asyncio.Future[Outcome]
    arrived: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        """What the item takes of a batch's budget."""
        return len(self.work.ids)


class WorkQueue:
    """First come, first served; items of streams yield to unary calls until they have waited long enough."""

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._waiting: dict[Priority, deque[Item]] = {priority: deque() for priority in Priority}
        self._arrival = asyncio.Event()

    def put(self, item: Item, priority: Priority) -> None:
        """Adds an item at the end."""
        self._waiting[priority].append(item)
        self._arrival.set()

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())

    async def take(self) -> list[Item]:
        """The next batch: what waits, up to the token budget, at least one item. Waits until there is one.

        Items that nobody waits for any more are dropped. A text that is there already is run once, and costs next to
        nothing.
        """
        while True:
            batch = self._form()
            if batch:
                return batch
            self._arrival.clear()
            await self._arrival.wait()

    def _form(self) -> list[Item]:
        batch: list[Item] = []
        texts: set[tuple[int, ...]] = set()
        held = 0
        while (waiting := self._next()) is not None:
            item = waiting[0]
            if item.future.done():
                waiting.popleft()
                continue
            cost = 1 if item.work.ids in texts else item.tokens
            if batch and held + cost > self._batch_tokens:
                break
            waiting.popleft()
            batch.append(item)
            texts.add(item.work.ids)
            held += cost
        return batch

    def _next(self) -> deque[Item] | None:
        unary, stream = self._waiting[Priority.UNARY], self._waiting[Priority.STREAM]
        if not unary or not stream:
            return unary or stream or None
        overdue = time.monotonic() - stream[0].arrived > STREAM_PATIENCE
        return stream if overdue and stream[0].arrived < unary[0].arrived else unary
