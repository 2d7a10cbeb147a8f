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

    When all are taken, a newcomer gets that of a call that only waits for its caller, of whoever has most of those: who
    sends nothing, or reads nothing, locks nobody out.
    """

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._calls: set[Rpc] = set()
        self._waiting: dict[Rpc, tuple[str, float]] = {}  # for whom, and since when: the longest first
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
        rpc.on_end(lambda: self._leave(rpc))

    def waits(self, rpc: Rpc, who: str = "") -> None:
        """The call waits for its caller from now on, as it does from the beginning."""
        if rpc in self._calls:
            self._waiting.pop(rpc, None)
            self._waiting[rpc] = who, time.monotonic()

    def works(self, rpc: Rpc) -> None:
        """The caller waits for the call from now on."""
        self._waiting.pop(rpc, None)

    def _leave(self, rpc: Rpc) -> None:
        self._calls.discard(rpc)
        self._waiting.pop(rpc, None)

    def _make_way(self) -> None:
        late = time.monotonic() - PATIENCE
        idle = list(itertools.takewhile(lambda one: one[1][1] < late, self._waiting.items()))
        if not idle:
            raise Overloaded(
                f"{self.taken} calls are being answered; at most {self._limit} are taken at a time",
                reason="TOO_MANY_CALLS",
                retry_after=RETRY_SECONDS,
            )
        ((most, _),) = Counter(who for _, (who, _) in idle).most_common(1)
        oldest = next(rpc for rpc, (who, _) in idle if who == most)
        self._metrics.stalled.labels("place").inc()
        self._leave(oldest)
        oldest.end()


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
        counts: dict[str, int] = {}
        for seat in self._seats:
            counts[seat.who] = counts.get(seat.who, 0) + 1
        most = max(counts, key=counts.__getitem__)
        if counts[most] <= counts.get(who, 0) + 1:
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
