"""Seats and places: when all are taken, nobody locks others out."""

from __future__ import annotations

import pytest

from saeserve_server.api.places import PATIENCE, Places, Seats
from saeserve_server.api.rpc import Rpc
from saeserve_server.errors import Overloaded, ServeError, Unavailable
from saeserve_server.metrics import Metrics


class Row:
    """Four seats, and who has had to stand up."""

    def __init__(self) -> None:
        self.seats = Seats(4, "streams", "TOO_MANY_STREAMS")
        self.stood_up: list[str] = []

    def sit(self, *names: str) -> list[object]:
        """Callers by the first letter of their names."""
        return [self.seats.take(name[0], lambda name=name: self.stood_up.append(name)) for name in names]


def test_the_newest_of_whoever_has_most_stands_up_for_a_newcomer() -> None:
    row = Row()
    seats = row.sit("a1", "a2", "a3", "a4")
    row.sit("b1")
    assert row.stood_up == ["a4"]
    error = seats[3].error  # type: ignore[attr-defined]
    assert isinstance(error, Overloaded)
    assert (error.reason, error.retry_after) == ("TOO_MANY_STREAMS", 2.0)
    row.sit("b2")
    assert row.stood_up == ["a4", "a3"]
    assert len(row.seats) == 4


def test_nobody_stands_up_for_who_would_have_as_much() -> None:
    row = Row()
    row.sit("a1", "a2", "b1", "b2")
    for name in ("a3", "b3"):
        with pytest.raises(Overloaded, match="4 streams are open already; at most 4"):
            row.sit(name)
    row.sit("c1")
    assert len(row.stood_up) == 1
    assert len(row.seats) == 4


def test_a_seat_that_was_left_is_free() -> None:
    row = Row()
    seats = row.sit("a1", "a2", "a3", "a4")
    for _ in range(2):
        row.seats.leave(seats[0])  # type: ignore[arg-type]
    row.sit("b1")
    assert not row.stood_up


def test_all_end_with_an_error_of_their_own() -> None:
    row = Row()
    seats = row.sit("a1", "b1")
    row.seats.end_all(Unavailable("the server is going away"))
    assert row.stood_up == ["a1", "b1"]
    errors = {seat.error for seat in seats}  # type: ignore[attr-defined]
    assert len(errors) == 2
    assert all(isinstance(error, ServeError) for error in errors)


class Spoken(Rpc):
    """A call that ends when it is told to."""

    def __init__(self) -> None:
        super().__init__(None, None)
        self.callbacks: list[object] = []
        self.ended = self.interrupted = False

    def interrupt(self) -> None:
        self.interrupted = True

    def on_end(self, callback: object) -> None:  # type: ignore[override]
        self.callbacks.append(callback)

    def end(self) -> None:
        self.ended = True
        for callback in self.callbacks:
            callback()  # type: ignore[operator]


@pytest.fixture
def hall(monkeypatch: pytest.MonkeyPatch) -> Hall:
    return Hall(monkeypatch)


class Hall:
    """Four places, and a clock that goes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.metrics = Metrics()
        self.places = Places(4, self.metrics)
        self.now = 0.0
        monkeypatch.setattr("saeserve_server.api.places.time.monotonic", lambda: self.now)

    def enter(self) -> Spoken:
        rpc = Spoken()
        self.places.take(rpc)
        return rpc

    def refuses(self) -> None:
        """Holds that nobody is let in."""
        with pytest.raises(Overloaded, match="as many calls are being answered as are taken at a time: 4") as caught:
            self.enter()
        assert (caught.value.reason, caught.value.retry_after) == ("TOO_MANY_CALLS", 1.0)


def test_calls_that_are_worked_on_keep_their_places(hall: Hall) -> None:
    calls = [hall.enter() for _ in range(4)]
    for call in calls:
        hall.places.works(call)
    hall.now += 100
    hall.refuses()
    calls[0].end()
    hall.enter()
    assert not any(call.ended for call in calls[1:])
    assert hall.places.taken == 4


def test_who_sends_nothing_makes_way_but_not_at_once(hall: Hall) -> None:
    silent = [hall.enter() for _ in range(4)]
    hall.now += PATIENCE / 2
    hall.refuses()
    hall.now += PATIENCE
    other = hall.enter()
    assert [call.ended for call in silent] == [True, False, False, False]
    assert not other.ended
    assert hall.places.taken == 4
    assert hall.metrics.registry.get_sample_value("saeserve_stalled_total", {"by": "place"}) == 1


def test_who_leaves_most_answers_unread_makes_way(hall: Hall) -> None:
    calls = {name: hall.enter() for name in ("slow", "a1", "a2", "working")}
    for name, call in calls.items():
        hall.places.works(call)
        if name != "working":
            hall.places.waits(call, name[0])
            hall.now += 0.01
    hall.now += 2 * PATIENCE
    hall.enter()
    assert [name for name, call in calls.items() if call.ended] == ["a1"]


def test_the_newest_of_who_has_more_than_half_is_refused_for_a_newcomer(hall: Hall) -> None:
    calls = [hall.enter() for _ in range(4)]
    for call, who in zip(calls, ("other", "flood", "flood", "flood"), strict=True):
        hall.places.works(call, who)
    hall.enter()
    assert [call.interrupted for call in calls] == [False, False, False, True]
    error = hall.places.refusal(calls[3])
    assert error is not None
    assert (error.reason, error.retry_after) == ("TOO_MANY_CALLS", 1.0)
    assert hall.places.taken == 4
    calls[3].end()
    assert hall.places.refusal(calls[3]) is None
    assert hall.places.taken == 4
    hall.refuses()  # now nobody has more than half


def test_whoever_has_left_waits_no_more(hall: Hall) -> None:
    call = hall.enter()
    call.end()
    hall.places.waits(call, "gone")
    assert hall.places.taken == 0
    hall.now += 100
    for _ in range(4):
        hall.enter()
    hall.refuses()
