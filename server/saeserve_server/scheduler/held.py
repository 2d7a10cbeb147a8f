"""Memory of answers, from when they are made until they have left: one budget for all calls and all streams.

A caller who does not read keeps his answers here, in the transport's buffers. So a caller may hold no more than is
still free: one alone takes half of the budget, two a third each, and there is always room for another's. If there is
none, who holds most and has not read for a while is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable

from saeserve_server.errors import Overloaded
from saeserve_server.metrics import Metrics

STREAM_SHARE = 0.5
"""Share of the budget that streams may fill. Their items wait for room; calls are refused if there is none."""
PATIENCE = 2.0
"""Seconds that an answer may take to leave before it is ended for another caller's sake."""
RETRY_SECONDS = 1.0
NEAR = 1 / 32
"""A caller who is so near to his share of the budget is refused before anything is done for him."""
ENTRY_BYTES = 2048
"""Of an answer, besides its bytes: the objects of its call."""


class Holding:
    """The memory that one answer takes."""

    def __init__(self, held: Held, client: str, end: Callable[[], None], *, streamed: bool) -> None:
        self._held = held
        self.size = 0
        self.client = client
        self.end = end
        """Ends the call whose answer it is."""
        self.streamed = streamed
        self.leaving_since: float | None = None

    def leaves(self) -> None:
        """It is being written; to be said each time that it gets on."""
        self.leaving_since = time.monotonic()

    def correct(self, size: int) -> None:
        """It turned out to take so much."""
        self._held._change(self, size + ENTRY_BYTES)

    def release(self) -> None:
        """It has left, or nobody waits for it any more. May be called again."""
        self._held._change(self, 0)


class Held:
    """The budget, and what is held of it."""

    def __init__(self, budget: int, metrics: Metrics) -> None:
        self.budget = budget
        self._streams_budget = int(STREAM_SHARE * budget)
        self._holdings: dict[Holding, None] = {}  # in the order of their arrival
        self._all = Counter[str]()  # bytes by caller
        self._streamed = Counter[str]()
        self._freed = asyncio.Event()
        self._metrics = metrics
        self.bytes = 0
        """What is held now."""
        self.streamed_bytes = 0
        """What streams hold of it."""
        metrics.answer_bytes.set_function(lambda: self.bytes)

    def check(self, client: str) -> None:
        """Raises Overloaded for a caller who holds so much that hardly an answer would find room."""
        if (own := self._all[client]) and own + NEAR * self.budget > self.budget - self.bytes:
            raise self._full(client)

    def take(self, size: int, client: str, end: Callable[[], None]) -> Holding:
        """Holds memory for an answer. Raises Overloaded if there is no room, even by ending those who do not read."""
        if not self._has_room(size + ENTRY_BYTES, client):
            raise self._full(client)
        return self._add(size, Holding(self, client, end, streamed=False))

    async def wait(self, size: int, client: str, end: Callable[[], None]) -> Holding:
        """Holds memory for an item of a stream, once there is room for it.

        What is larger than all that streams may take waits until they hold nothing.
        """
        while self._holdings and not self._has_room(size + ENTRY_BYTES, client, streamed=True):
            self._freed.clear()
            with contextlib.suppress(TimeoutError):  # by then somebody may be found to read nothing
                async with asyncio.timeout(PATIENCE):
                    await self._freed.wait()
        return self._add(size, Holding(self, client, end, streamed=True))

    def _full(self, client: str) -> Overloaded:
        return Overloaded(
            f"answers of {self.bytes} bytes have not been read yet, {self._all[client]} of them by this caller; "
            f"at most {self.budget} are held, and by one caller no more than are free",
            reason="ANSWERS_UNREAD",
            retry_after=RETRY_SECONDS,
        )

    def _has_room(self, size: int, client: str, *, streamed: bool = False) -> bool:
        missing = self._missing(size, client, streamed=streamed)
        if missing > 0:
            self._end_stalled(missing, client, size, streamed=streamed)
            missing = self._missing(size, client, streamed=streamed)
        return missing <= 0

    def _missing(self, size: int, client: str, *, streamed: bool) -> int:
        """Bytes that would have to be free for so many more; none or less if there is room."""
        missing = self.bytes + size - self.budget
        if streamed and self.streamed_bytes:
            own = self._streamed[client]
            missing = max(missing, self.streamed_bytes + size + (own + size if own else 0) - self._streams_budget)
        elif not streamed and (own := self._all[client]):
            missing = max(missing, self.bytes + size + own + size - self.budget)
        return missing

    def _end_stalled(self, missing: int, client: str, size: int, *, streamed: bool) -> None:
        """Ends calls whose answers do not leave, of callers who hold more than this one would: who holds most first."""
        late = time.monotonic() - PATIENCE
        taken = self._streamed if streamed else self._all
        own = taken[client] + size
        stalled = [
            one
            for one in self._holdings
            if one.leaving_since is not None and one.leaving_since < late and (one.streamed or not streamed)
        ]
        while missing > 0 and stalled:
            victim = max(stalled, key=lambda one: taken[one.client])  # the first of them: the oldest
            if taken[victim.client] <= own:
                break
            stalled.remove(victim)
            missing -= victim.size
            self._metrics.stalled.labels("room").inc()
            victim.end()
            victim.release()

    def _add(self, size: int, holding: Holding) -> Holding:
        self._holdings[holding] = None
        holding.correct(size)
        return holding

    def _change(self, holding: Holding, size: int) -> None:
        if holding not in self._holdings:
            return
        difference = size - holding.size
        holding.size = size
        self.bytes += difference
        counts = [self._all]
        if holding.streamed:
            self.streamed_bytes += difference
            counts.append(self._streamed)
        for count in counts:
            count[holding.client] += difference
            if not count[holding.client]:
                del count[holding.client]
        if size == 0:
            del self._holdings[holding]
        if difference < 0:
            self._freed.set()
