"""One computation for identical questions that are asked while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from saeserve_server.cache.answer import Answer
from saeserve_server.errors import Internal, Overloaded, ServeError
from saeserve_server.metrics import Metrics


@dataclass(slots=True, eq=False)
class _Flight:
    """A computation and how many wait for it."""

    task: asyncio.Task[Answer]
    waiters: int = 0
    error: ServeError | None = None
    """What it ended with, as those who wait get it."""

    def failed(self) -> ServeError | None:
        """A fresh error for one who waits, None if there is none. A fault of the server is logged for the first."""
        cause = self.task.exception()
        if cause is None:
            return None
        first = self.error is None
        if self.error is None:
            self.error = cause if isinstance(cause, ServeError) else Internal(f"{type(cause).__name__}: {cause}")
        error = self.error.again()
        error.__cause__ = cause if first and cause is not self.error else None
        if isinstance(error, Internal):
            error.logged = not first
        return error


class Flights:
    """The computations in progress. Each lives until it is done or its last waiter leaves."""

    def __init__(self, metrics: Metrics) -> None:
        self._joined = metrics.cache_joined
        self._flights: dict[bytes, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def join(self, key: bytes, start: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of the computation in progress under this key, or else of one begun by `start`.

        Its error goes to all who wait, and is not kept. A waiter that is cancelled, the first one too, does not cancel
        it for the others. That the first was refused says nothing of the others: they ask once more.
        """
        led, answer = await self._wait(key, start)
        if not led and isinstance(answer, Overloaded):
            _, answer = await self._wait(key, start)
        if isinstance(answer, Answer):
            return answer
        raise answer

    async def _wait(self, key: bytes, start: Callable[[], Awaitable[Answer]]) -> tuple[bool, Answer | ServeError]:
        """Whether the computation was begun here, and what became of it."""
        flight = self._flights.get(key)
        led = flight is None or flight.task.done()
        # One that is done but not yet taken off is over: who comes now must not get its error.
        if flight is None or flight.task.done():
            flight = self._begin(key, start)
        else:
            self._joined.inc()
        flight.waiters += 1
        try:
            # Not awaited itself, which would cancel it together with this waiter.
            await asyncio.wait({flight.task})
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                # Off the table first: it takes its time to end, and a newcomer needs a computation of its own.
                self._end(key, flight)
                flight.task.cancel()
        if flight.task.cancelled():
            raise asyncio.CancelledError
        return led, flight.failed() or flight.task.result()

    def _begin(self, key: bytes, start: Callable[[], Awaitable[Answer]]) -> _Flight:
        flight = _Flight(asyncio.create_task(_run(start)))
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._end(key, flight))
        flight.task.add_done_callback(_retrieve)
        return flight

    def _end(self, key: bytes, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


async def _run(start: Callable[[], Awaitable[Answer]]) -> Answer:
    return await start()


def _retrieve(task: asyncio.Task[Answer]) -> None:
    """Looks at the error of a computation that nobody waits for, so that asyncio does not complain about it."""
    if not task.cancelled():
        task.exception()
