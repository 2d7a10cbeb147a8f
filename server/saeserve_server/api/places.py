"""Who is in: places for calls, held until their answers have left, and seats for calls that may never end."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable

from saeserve_server.api.rpc import Rpc
from saeserve_server.errors import Overloaded, ServeError
from saeserve_server.metrics import Metrics

RETRY_SECONDS = 1.0
SEAT_RETRY_SECONDS = 2.0
PATIENCE = 0.25
"""Seconds that a call may wait for its caller, to send or to read, before others may have its place."""


class Places:
    """Places for calls. One is taken before a call's message is received, when nobody knows yet whose it is.

    When all are taken, a newcomer gets that of a call that only waits for its caller, of whoever has most of those;
    else the newest of a caller who has more than half of the places is refused for it. Nobody locks others out.
    """

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._calls: set[Rpc] = set()
        self._waiting: dict[Rpc, tuple[str, float]] = {}  # for whom, and since when: the longest first
        self._working: dict[Rpc, str] = {}  # for whom, if it may be refused yet: the newest last
        self._refused: set[Rpc] = set()
        self._metrics = metrics
        metrics.in_flight.set_function(lambda: self.taken)

    @property
    def taken(self) -> int:
        """How many."""
        return len(self._calls)

    def take(self, rpc: Rpc) -> None:
        """Takes a place until the call has ended: its answer has left, or its caller has. Raises Overloaded."""
        if self.taken >= self._limit:
            self._make_way()
        self._calls.add(rpc)
        self.waits(rpc)
        rpc.on_end(lambda: self._ended(rpc))

    def waits(self, rpc: Rpc, who: str = "") -> None:
        """The call waits for its caller from now on, as it does from the beginning."""
        if rpc in self._calls:
            self.works(rpc)
            self._waiting[rpc] = who, time.monotonic()

    def works(self, rpc: Rpc, who: str | None = None) -> None:
        """The caller waits for the call from now on. With `who`, its handler may be cancelled to be refused."""
        self._waiting.pop(rpc, None)
        self._working.pop(rpc, None)
        if who is not None and rpc in self._calls:
            self._working[rpc] = who

    def refusal(self, rpc: Rpc) -> Overloaded | None:
        """Why a call's handler was cancelled, if its place was wanted for another."""
        return self._full() if rpc in self._refused else None

    def _leave(self, rpc: Rpc) -> None:
        self._calls.discard(rpc)
        self._waiting.pop(rpc, None)
        self._working.pop(rpc, None)

    def _ended(self, rpc: Rpc) -> None:
        self._leave(rpc)
        self._refused.discard(rpc)

    def _make_way(self) -> None:
        late = time.monotonic() - PATIENCE
        idle = list(itertools.takewhile(lambda one: one[1][1] < late, self._waiting.items()))
        if not idle:
            self._refuse_newest()
            return
        ((most, _),) = Counter(who for _, (who, _) in idle).most_common(1)
        oldest = next(rpc for rpc, (who, _) in idle if who == most)
        self._metrics.stalled.labels("place").inc()
        self._leave(oldest)
        oldest.end()

    def _refuse_newest(self) -> None:
        most, count = next(iter(Counter(self._working.values()).most_common(1)), ("", 0))
        if 2 * count <= self._limit:
            raise self._full()
        newest = next(rpc for rpc, who in reversed(self._working.items()) if who == most)
        self._leave(newest)
        self._refused.add(newest)
        newest.interrupt()

    def _full(self) -> Overloaded:
        return Overloaded(
            f"as many calls are being answered as are taken at a time: {self._limit}",
            reason="TOO_MANY_CALLS",
            retry_after=RETRY_SECONDS,
        )


class Seat:
    """A place of a call that may never end by itself."""

    def __init__(self, who: str, stand_up: Callable[[], object]) -> None:
        self.who = who
        self._stand_up = stand_up
        self.error: ServeError | None = None
        """Why it is to end."""

    def end(self, error: ServeError) -> None:
        """Has the call end with an error."""
        self.error = error
        self._stand_up()


class Seats:
    """Seats for calls that may never end. When all are taken, a newcomer displaces the newest of whoever has most, if
    that is more than the newcomer would have: nobody locks others out."""

    def __init__(self, limit: int, name: str, reason: str) -> None:
        self._limit = limit
        self._name = name
        self._reason = reason
        self._seats: dict[Seat, None] = {}

    def __len__(self) -> int:
        return len(self._seats)

    def take(self, who: str, stand_up: Callable[[], object]) -> Seat:
        """A seat; `stand_up` ends the call when the seat is taken away. Raises Overloaded."""
        if len(self._seats) >= self._limit:
            self._displace(who)
        seat = Seat(who, stand_up)
        self._seats[seat] = None
        return seat

    def leave(self, seat: Seat) -> None:
        """The call has ended. May be called again."""
        self._seats.pop(seat, None)

    def end_all(self, error: ServeError) -> None:
        """Ends all of them."""
        for seat in list(self._seats):
            seat.end(error.again())

    def _displace(self, who: str) -> None:
        counts = Counter(seat.who for seat in self._seats)
        ((most, count),) = counts.most_common(1)
        if count <= counts[who] + 1:
            raise self._full()
        newest = next(seat for seat in reversed(self._seats) if seat.who == most)
        self.leave(newest)
        newest.end(self._full())

    def _full(self) -> Overloaded:
        return Overloaded(
            f"{len(self._seats)} {self._name} are open already; at most {self._limit} are taken",
            reason=self._reason,
            retry_after=SEAT_RETRY_SECONDS,
        )
