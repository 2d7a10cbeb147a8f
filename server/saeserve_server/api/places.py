"""Who is in: places for calls, held until their answers have left, and seats for calls that may never end."""

from __future__ import annotations

from collections.abc import Callable

from saeserve_server.api.rpc import Rpc
from saeserve_server.errors import Overloaded, ServeError
from saeserve_server.metrics import Metrics

RETRY_SECONDS = 1.0
SEAT_RETRY_SECONDS = 2.0


class Places:
    """Places for calls. One is taken before a call's message is received."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self.taken = 0
        metrics.in_flight.set_function(lambda: self.taken)

    def take(self, rpc: Rpc) -> None:
        """Takes a place until the call has ended: its answer has left, or its caller has. Raises Overloaded."""
        if self.taken >= self._limit:
            raise Overloaded(
                f"{self.taken} calls are being answered; at most {self._limit} are taken at a time",
                reason="TOO_MANY_CALLS",
                retry_after=RETRY_SECONDS,
            )
        self.taken += 1
        rpc.on_end(self._left)

    def _left(self) -> None:
        self.taken -= 1


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
