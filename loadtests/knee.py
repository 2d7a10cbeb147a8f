"""The second part of the sweep: an open loop at multiples of what the server can do, to find where latency bends and
whether answers in time go on beyond."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from loadtests import closed_loop, open_loop, records
from loadtests.connect import Server
from loadtests.percentiles import digits, percentile
from loadtests.rates import rate
from loadtests.table import table
from loadtests.texts import Distinct

WORDS = 10
GOAL = 0.9
"""Share of the peak goodput that should be left at twice the capacity."""


@dataclass(frozen=True, slots=True)
class Point:
    """One rate."""

    multiple: float
    """Of the capacity."""
    offered: float
    """Arrivals a second in the window."""
    goodput: float
    """Answers a second that came in the window, each within its deadline."""
    refused: float
    """Calls a second that the server declined, saying why."""
    expired: float
    """Calls a second whose deadline passed."""
    failed: float
    """Calls a second that ended otherwise."""
    p50: float | None
    """Seconds from the intended start, of the answers; None where there were none."""
    p99: float | None
    verdicts: dict[str, int]
    """How all calls ended, those of the warm-up too."""
    kept_up: bool
    """Whether the driver sent what it was told to, in time."""
    driver: str
    """Its own lateness."""


@dataclass(frozen=True, slots=True)
class Windows:
    """How long each rate is held."""

    seconds: float
    warm_up: float
    """Before the window that counts: long enough for the queue to fill, or it flatters an overloaded server."""
    deadline: float


def capacity(server: Server, callers: int, windows: Windows, seed: int) -> float:
    """What as many callers as keep it busy get from the server, in answers a second."""
    load = closed_loop.Load(callers, windows.seconds, windows.seconds / 4, deadline=600, seed=seed)
    return asyncio.run(closed_loop.measure(server, Distinct(WORDS), load)).rate


def hold(server: Server, multiple: float, capacity: float, windows: Windows, processes: int, seed: int) -> Point:
    """One rate, for a while."""
    length = windows.warm_up + windows.seconds
    plan = open_loop.Plan(server, multiple * capacity, length, windows.deadline, words=WORDS, seed=seed)
    return read(multiple, open_loop.drive_all(plan, processes), windows)


def read(multiple: float, driven: open_loop.Driven, windows: Windows) -> Point:
    """The window of what was driven."""
    opens = driven.begin + windows.warm_up
    closes = opens + windows.seconds
    ended = [record for record in driven.records if opens < record.finished <= closes]
    times = [record.seconds for record in ended if record.answered]
    expired = sum(record.verdict.startswith(records.EXPIRED) for record in ended)
    verdicts: dict[str, int] = {}
    for record in driven.records:
        verdicts[record.verdict] = verdicts.get(record.verdict, 0) + 1
    return Point(
        multiple=multiple,
        offered=sum(opens < record.began <= closes for record in driven.records) / windows.seconds,
        goodput=rate([r.finished for r in driven.records if r.answered], driven.begin, opens, closes),
        refused=sum(record.refused for record in ended) / windows.seconds,
        expired=expired / windows.seconds,
        failed=(sum(record.failed for record in ended) - expired) / windows.seconds,
        p50=percentile(times, 50) if times else None,
        p99=percentile(times, 99) if times else None,
        verdicts=verdicts,
        kept_up=driven.kept_up,
        driver=driven.note(),
    )


def describe(points: Sequence[Point]) -> str:
    """A table: a line for each rate, and what is left at twice the capacity."""
    head = ("× capacity", "offered/s", "answered in time/s", "refused/s", "expired/s", "failed/s", "p50 s", "p99 s")
    rows = [
        (
            f"{point.multiple:g}{'' if point.kept_up else ' (driver fell behind)'}",
            *(digits(part) for part in (point.offered, point.goodput, point.refused, point.expired, point.failed)),
            *(digits(math.nan if part is None else part) for part in (point.p50, point.p99)),
        )
        for point in points
    ]
    return f"{table(head, rows)}\n\n{left(points)}"


def left(points: Sequence[Point]) -> str:
    """What is left of the peak goodput at twice the capacity."""
    share = left_share(points)
    if share is None:
        return "Twice the capacity was not offered."
    reached = "reached" if share >= GOAL else "missed"
    return f"At twice the capacity, goodput is {share:.0%} of its peak (goal {GOAL:.0%}: {reached})."


def left_share(points: Sequence[Point]) -> float | None:
    """Goodput at twice the capacity as a share of the peak; None where that was not offered."""
    peak = max((point.goodput for point in points), default=0.0)
    double = [point.goodput for point in points if point.multiple == 2]
    return double[0] / peak if double and peak else None


def numbers(points: Sequence[Point]) -> list[dict[str, object]]:
    """For the file of results."""
    return [asdict(point) for point in points]
