"""Memory of answers, from when they are made until they have left: one budget for all calls and all streams.

A caller who does not read keeps his answer here, in the transport's buffers. When somebody else needs the room, who
holds most and has not read for a while is ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from saeserve_server.errors import Overloaded
from saeserve_server.metrics import Metrics

STREAM_SHARE = 0.5
"""Share of the budget that streams may fill, which wait for room; calls are refused if there is none."""
PATIENCE = 2.0
"""Seconds that an answer may take to leave before it is ended for another caller's sake."""
RETRY_SECONDS = 1.0
ENTRY_BYTES = 2048
"""Of an answer, besides its bytes: the objects of its call."""


class Holding:
    """The memory that one answer takes."""

    def __init__(self, held: Held, size: int, client: str, end: Callable[[], None], *, streamed: bool) -> None:
        self._held = held
        self.size = size
        self.client = client
        self.end = end
        """Ends the call whose answer it is."""
        self.streamed = streamed
        self.leaving_since: float | None = None

    def leaves(self) -> None:
        """It is being written; each time that it gets on."""
        self.leaving_since = time.monotonic()

    def correct(self, size: int) -> None:
        """It turned out to take so much."""
        self._held._change(self, size)

    def release(self) -> None:
        """It has left, or nobody waits for it any more. May be called again."""
        self._held._change(self, 0)


class Held:
    """The budget, and what is held of it."""

    def __init__(self, budget: int, metrics: Metrics) -> None:
        self.budget = budget
        self._holdings: dict[Holding, None] = {}  # in the order of their arrival
        self._by_client: dict[str, int] = {}
        self._freed = asyncio.Event()
        self._metrics = metrics
        self.bytes = 0
        """What is held now."""
        self.streamed = 0
        """What streams hold of it."""
        metrics.answer_bytes.set_function(lambda: self.bytes)

    def take(self, size: int, client: str, end: Callable[[], None]) -> Holding:
        """Holds memory for an answer. Raises Overloaded if there is no room, even by ending those who do not read."""
        size += ENTRY_BYTES
        if not self._make_room(size, client):
            raise Overloaded(
                f"answers of {self.bytes} bytes have not been read yet; at most {self.budget} are held",
                reason="ANSWERS_UNREAD",
                retry_after=RETRY_SECONDS,
            )
        return self._add(Holding(self, size, client, end, streamed=False))

    async def wait(self, size: int, client: str, end: Callable[[], None]) -> Holding:
        """Holds memory for an item of a stream, once there is room among those of streams.

        What is larger than their whole share waits until they hold nothing.
        """
        size += ENTRY_BYTES
        share = int(STREAM_SHARE * self.budget)
        while (self.streamed and self.streamed + size > share) or not self._make_room(size, client):
            if self.streamed and self.streamed + size > share:
                self._end_stalled(self.streamed + size - share, client, size, streamed=True)
                if self.streamed + size <= share:
                    continue
            if not self._holdings:
                break
            self._freed.clear()
            try:
                async with asyncio.timeout(PATIENCE):  # by then somebody may be found to read nothing
                    await self._freed.wait()
            except TimeoutError:
                pass
        return self._add(Holding(self, size, client, end, streamed=True))

    def _make_room(self, size: int, client: str) -> bool:
        missing = self.bytes + size - self.budget
        if missing > 0:
            missing -= self._end_stalled(missing, client, size, streamed=False)
        return missing <= 0

    def _end_stalled(self, missing: int, client: str, size: int, *, streamed: bool) -> int:
        """Ends calls whose answers do not leave, of callers who hold more than this one would: who holds most first.
        Gives the bytes that are free for it."""
        late = time.monotonic() - PATIENCE
        stalled: dict[str, list[Holding]] = {}
        for one in self._holdings:
            if one.leaving_since is not None and one.leaving_since < late and (one.streamed or not streamed):
                stalled.setdefault(one.client, []).append(one)
        own = self._by_client.get(client, 0) + size
        freed = 0
        while freed < missing and stalled:
            most = max(stalled, key=lambda one: self._by_client.get(one, 0))
            if self._by_client.get(most, 0) <= own and most != client:
                break
            holding = stalled[most].pop(0)
            if not stalled[most]:
                del stalled[most]
            freed += holding.size
            self._metrics.stalled.labels("room").inc()
            holding.end()
            holding.release()
        return freed

    def _add(self, holding: Holding) -> Holding:
        size, holding.size = holding.size, 0
        self._holdings[holding] = None
        self._change(holding, size)
        return holding

    def _change(self, holding: Holding, size: int) -> None:
        if holding not in self._holdings:
            return
        difference = size - holding.size
        holding.size = size
        self.bytes += difference
        if holding.streamed:
            self.streamed += difference
        left = self._by_client.get(holding.client, 0) + difference
        if left:
            self._by_client[holding.client] = left
        else:
            self._by_client.pop(holding.client, None)
        if size == 0:
            del self._holdings[holding]
        if difference < 0:
            self._freed.set()
