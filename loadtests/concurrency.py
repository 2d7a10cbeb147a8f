"""The first part of the sweep: closed-loop throughput and latency at several concurrencies, batching and one at a time.

Both servers run at once, and windows alternate between them, so that what the machine does beside it hits both.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from loadtests.closed_loop import Load, Window, measure
from loadtests.metrics import Growth
from loadtests.percentiles import digits, mean, percentile
from loadtests.processes import Address
from loadtests.rates import abba
from loadtests.table import table
from loadtests.texts import Distinct

BATCHED, SINGLE = "batching", "one at a time"
WORDS = 10


@dataclass(slots=True)
class Point:
    """One server at one concurrency."""

    server: str
    callers: int
    rates: list[float] = field(default_factory=list)
    """Answers a second, of each round."""
    latencies: list[float] = field(default_factory=list)
    batch_sizes: list[float] = field(default_factory=list)
    """Mean requests in a batch, of each round."""
    other: dict[str, int] = field(default_factory=dict)
    """Calls that were not answered."""

    @property
    def rate(self) -> float:
        """Mean of the rounds."""
        return mean(self.rates)

    @property
    def settled(self) -> bool:
        """Whether each caller came round twice in each round: before that the queue still grows."""
        return len(self.latencies) >= 2 * self.callers * len(self.rates)

    def add(self, window: Window, batch_size: float) -> None:
        """Another round."""
        self.rates.append(window.rate)
        self.latencies += window.latencies
        self.batch_sizes.append(batch_size)
        for verdict, count in window.other.items():
            self.other[verdict] = self.other.get(verdict, 0) + count

    def numbers(self) -> dict[str, object]:
        """For the file of results: percentiles instead of every latency."""
        found = asdict(self)
        del found["latencies"]
        for share in (50, 95, 99):
            found[f"p{share}_seconds"] = None if not self.latencies else percentile(self.latencies, share)
        found["batch_sizes"] = [None if math.isnan(size) else size for size in self.batch_sizes]
        return found | {"rate": self.rate, "answers": len(self.latencies), "settled": self.settled}


def sweep(servers: Mapping[str, Address], callers: Sequence[int], rounds: int, load: Load) -> list[Point]:
    """Every server at every concurrency; the two take turns in going first."""
    points = {(server, count): Point(server, count) for count in callers for server in servers}
    for count in callers:
        for number, forward in enumerate(abba(rounds)):
            for server in servers if forward else reversed(list(servers)):
                point = points[server, count]
                _round(servers[server], point, load, seed=number)
                print(f"  {count} callers, {server}: {digits(point.rates[-1])} answers a second", flush=True)
    return list(points.values())


def _round(address: Address, point: Point, load: Load, seed: int) -> None:
    load = Load(point.callers, load.seconds, load.warm_up, load.deadline, seed)
    before = address.page()
    window = asyncio.run(measure(address.server, Distinct(WORDS), load))
    after = address.page()
    point.add(window, Growth(before, after).average("batch_size") if before and after else math.nan)


def describe(points: Sequence[Point]) -> str:
    """A table: a line for each concurrency. Without a server to compare with, of the one alone."""
    found = {(point.server, point.callers): point for point in points}
    note = "\n\n\\* fewer than two answers a caller and window: the latency of a queue that still grows."
    note = note if any(not point.settled for point in points) else ""
    if all(point.server == BATCHED for point in points):
        alone = [
            (
                point.callers,
                digits(point.rate),
                digits(mean(point.batch_sizes)),
                *_latencies(point),
                sum(point.other.values()),
            )
            for point in points
        ]
        return table(("callers", "answers/s", "mean batch", "p50 s", "p99 s", "not answered"), alone) + note
    rows = []
    for count in dict.fromkeys(point.callers for point in points):
        batched, single = found[BATCHED, count], found[SINGLE, count]
        each = [b / s if s else math.nan for b, s in zip(batched.rates, single.rates, strict=True)]
        row: list[object] = [str(count), digits(batched.rate), digits(single.rate)]
        row += [f"{batched.rate / single.rate:.2f}" if single.rate else "–", " ".join(f"{ratio:.2f}" for ratio in each)]
        row += [digits(mean(batched.batch_sizes)), *_latencies(batched), *_latencies(single)]
        row += [sum(batched.other.values()) + sum(single.other.values())]
        rows.append(row)
    head = ["callers", "batching, answers/s", "one at a time, answers/s", "ratio", "by round", "mean batch"]
    head += ["batching p50 s", "p99 s", "one at a time p50 s", "p99 s", "not answered"]
    return table(head, rows) + note


def _latencies(point: Point) -> list[str]:
    star = "" if point.settled else "\\*"
    return [digits(percentile(point.latencies, share)) + star for share in (50, 99)]
