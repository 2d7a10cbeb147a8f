"""What the sweep makes of what it drove."""

import json

import pytest

from loadtests import concurrency, knee, plot
from loadtests.closed_loop import Window
from loadtests.open_loop import Driven
from loadtests.records import Record

WINDOWS = knee.Windows(seconds=10, warm_up=5, deadline=2)


def point(multiple: float, goodput: float) -> knee.Point:
    return knee.Point(multiple, multiple * 10, goodput, 0, 0, 0, 0.1, 0.2, {"OK": 1}, True, "")


def test_only_the_window_counts() -> None:
    ended = [number / 10 for number in range(200)]
    answers = [Record("Search", end - 0.05, end, "OK") for end in ended]
    refusals = [Record("Search", end, end, "RESOURCE_EXHAUSTED OVERLOADED") for end in ended[::2]]
    expired = [Record("Search", end - 2, end, "DEADLINE_EXCEEDED") for end in ended[::10]]
    found = knee.read(2.0, Driven(0.0, [*answers, *refusals, *expired]), WINDOWS)
    assert found.goodput == pytest.approx(10, rel=0.02)
    assert found.refused == pytest.approx(5)
    assert found.expired == pytest.approx(1)
    assert found.failed == 0
    assert found.p50 == pytest.approx(0.05)
    assert found.verdicts == {"OK": 200, "RESOURCE_EXHAUSTED OVERLOADED": 100, "DEADLINE_EXCEEDED": 20}


def test_what_is_left_at_twice_the_capacity() -> None:
    assert "is 95% of its peak (goal 90%: reached)" in knee.describe([point(0.5, 5), point(1, 10), point(2, 9.5)])
    assert "is 21% of its peak (goal 90%: missed)" in knee.describe([point(1, 10), point(2, 2.1)])
    assert "was not offered" in knee.describe([point(1, 10)])


def test_a_rate_without_answers_can_be_shown_and_drawn(tmp_path) -> None:
    nothing = knee.read(2.0, Driven(0.0), WINDOWS)
    points = [point(1, 10), nothing]
    assert "–" in knee.describe(points)
    assert json.loads(json.dumps(knee.numbers(points), allow_nan=False))[1]["p99"] is None
    plot.draw(points, 10.0, "title", tmp_path / "knee.png")
    assert (tmp_path / "knee.png").read_bytes().startswith(b"\x89PNG")


def test_the_ratio_of_two_servers() -> None:
    batched, single = (concurrency.Point(server, 2) for server in (concurrency.BATCHED, concurrency.SINGLE))
    for rates in ((30.0, 10.0), (50.0, 10.0)):
        for one, rate in zip((batched, single), rates, strict=True):
            one.add(Window(rate, (0.1,) * 8, {}), 4.0)
    cells = [cell.strip() for cell in concurrency.describe([batched, single]).splitlines()[2].split("|")[1:-1]]
    assert cells == ["2", "40.0", "10.0", "4.00", "3.00 5.00", "4.00", "0.100", "0.100", "0.100", "0.100", "0"]


def test_latencies_of_a_queue_that_still_grows_are_marked() -> None:
    points = [concurrency.Point(server, 8) for server in (concurrency.BATCHED, concurrency.SINGLE)]
    for one in points:
        one.add(Window(1.0, (0.1,) * 8, {}), float("nan"))
    assert "still grows" in concurrency.describe(points)
    assert json.loads(json.dumps(points[0].numbers(), allow_nan=False))["settled"] is False
