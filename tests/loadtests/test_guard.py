"""The guard: a closed loop makes the calls that its users and their latency make, or it stood still."""

from loadtests.guard import complaint
from loadtests.records import Record


def calls(count: int, seconds: float, waited: float = 0.0) -> list[Record]:
    return [Record("Search", 0.0, seconds, "OK", "", waited) for _ in range(count)]


def test_a_healthy_rate_passes() -> None:
    assert complaint(32, calls(3200, 0.1), seconds=10) is None


def test_a_rate_somewhat_lower_passes() -> None:
    assert complaint(32, calls(1000, 0.1), seconds=10) is None


def test_a_collapsed_rate_is_told() -> None:
    """The gevent trap: each call takes 100 ms, and ten seconds hold a hundred of them, whatever the users."""
    told = complaint(32, calls(100, 0.1), seconds=10)
    assert told
    assert "10.0 calls a second" in told
    assert "320.0" in told


def test_pauses_are_no_collapse() -> None:
    assert complaint(32, calls(290, 0.1), seconds=10, think=1.0) is None
    assert complaint(32, calls(290, 0.1, waited=1.0), seconds=10) is None


def test_no_call_at_all_is_told() -> None:
    assert complaint(32, [], seconds=10) == "no call was made"
