"""What waits for the engine, whose turn it is, and which of it makes the next batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from saeserve_server.cache.answer import Spending
from saeserve_server.engine.work import Answered, Run, run_tokens
from saeserve_server.ranking.similar import AnyWork, SimilarWork
from saeserve_server.rows import KeptRows
from saeserve_server.scheduler.cost import Cost
from saeserve_server.scheduler.lanes import Lanes

STREAM_PATIENCE = 1.0
"""Seconds after which an item of a stream no longer yields to unary calls, so that it is never starved."""
SWEEP_AT_LEAST = 4096
"""After so many arrivals, and twice as many as then waited, items that nobody waits for are looked for everywhere."""
MOST_SIMILAR = 16
"""Comparisons of directions in a batch, which holds nothing else: so texts do not wait for them but for a turn."""


class Priority(IntEnum):
    """Who goes first."""

    UNARY = 0
    STREAM = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """An item's answer, and what it took."""

    done: Answered
    spent: Spending
    kept: KeptRows | None = None
    """The rows of its sources, where it asked for them and they are worth keeping."""


@dataclass(slots=True, eq=False)
class Item:
    """A piece of work and whoever waits for it."""

    work: AnyWork
    future: asyncio.Future[Outcome]
    cost: Cost
    """What it takes of the budget now."""
    runs: frozenset[Run]
    """The forward passes that it takes."""
    priority: Priority = Priority.UNARY
    client: str = ""
    """Whose turn it takes."""
    keep: bool = False
    """Whether its rows are wanted too."""
    arrived: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        """What the item takes of a batch's budget."""
        return sum(map(run_tokens, self.runs))

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return not self.future.done()


class WorkQueue:
    """Callers take turns; items of streams yield to unary calls until they have waited long enough."""

    def __init__(self, batch_tokens: int, max_batch: int | None = None) -> None:
        self._batch_tokens = batch_tokens
        self._max_batch = max_batch
        self._waiting = {priority: Lanes[Item]() for priority in Priority}
        self._arrival = asyncio.Event()
        self._puts = 0
        self._swept_to = 0

    def put(self, item: Item) -> None:
        """Adds an item at the end of its caller's lane."""
        self._waiting[item.priority].put(item)
        self._arrival.set()
        self._puts += 1
        if self._puts >= 2 * self._swept_to + SWEEP_AT_LEAST:  # behind a worker that hangs callers come and give up
            for one in self._waiting.values():
                one.sweep()
            self._puts, self._swept_to = 0, sum(len(one) for one in self._waiting.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return self._next() is None

    def oldest(self) -> float | None:
        """When the item that has waited longest arrived; None if none waits."""
        return min((item.arrived for lanes in self._waiting.values() for item in lanes if item.wanted), default=None)

    async def take(self, runs_alone: Callable[[AnyWork], bool] = lambda work: False) -> list[Item]:
        """The next batch: what waits, up to the token budget, at least one item. Waits until there is one.

        Work of which `runs_alone` says so has a batch of its own.
        Items that nobody waits for any more are dropped. A text that is there already is run once, and costs next to
        nothing.
        """
        while True:
            batch = self._form(runs_alone)
            if batch:
                return batch
            self._arrival.clear()
            await self._arrival.wait()

    def has_room(self, items: int, tokens: float) -> bool:
        """Whether one batch would hold what waits and so much more, were no text there twice."""
        for lanes in self._waiting.values():
            for item in lanes:
                items, tokens = items + item.wanted, tokens + item.tokens * item.wanted
                if tokens > self._batch_tokens or (self._max_batch is not None and items > self._max_batch):
                    return False
        return True

    def newest(self, client: str) -> Iterator[Item]:
        """The unary items of a caller, who has waited least first."""
        return self._waiting[Priority.UNARY].newest(client)

    def _form(self, runs_alone: Callable[[AnyWork], bool]) -> list[Item]:
        batch: list[Item] = []
        shared: set[Run] = set()
        held = 0
        while (lanes := self._next()) is not None and (item := lanes.first()) is not None:
            cost = sum(map(run_tokens, item.runs - shared)) or 1
            full = held + cost > self._batch_tokens or len(batch) == self._max_batch
            alone = runs_alone(item.work)
            similar = isinstance(item.work, SimilarWork)
            full |= similar and len(batch) >= MOST_SIMILAR
            if batch and (full or alone or similar != isinstance(batch[0].work, SimilarWork)):
                break
            batch.append(lanes.take())
            shared |= item.runs
            held += cost
            if alone:
                break
        return batch

    def _next(self) -> Lanes[Item] | None:
        unary, stream = self._waiting[Priority.UNARY], self._waiting[Priority.STREAM]
        first, streamed = unary.first(), stream.first()
        if first is None or streamed is None:
            return unary if first is not None else stream if streamed is not None else None
        overdue = time.monotonic() - streamed.arrived > STREAM_PATIENCE
        return stream if overdue and streamed.arrived < first.arrived else unary
