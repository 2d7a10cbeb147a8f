"""What rounds of windows amount to: medians and ratios, as tables and as numbers for a file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.bench.floor import Floored
from loadtests.bench.sides import BASE, OURS, PLAIN
from loadtests.bench.usage import Memory
from loadtests.bench.windows import Window
from loadtests.percentiles import digits, milliseconds, percentile
from loadtests.table import table

MIB = 2**20


@dataclass(slots=True)
class Side:
    """One side in one cell, over the rounds."""

    windows: list[Window] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return statistics.median(one.rate for one in self.windows)

    @property
    def cpu(self) -> float:
        """CPU-seconds an answer."""
        return statistics.median(one.cpu for one in self.windows)

    @property
    def batch(self) -> float | None:
        """Requests in a batch; None where they are not counted."""
        sizes = [one.ran.batch for one in self.windows if one.ran is not None]
        return statistics.median(sizes) if sizes else None

    def latency(self, share: float) -> float:
        """A percentile of all rounds' answers, in seconds."""
        return percentile((seconds for one in self.windows for seconds in one.latencies), share)

    def settled(self, callers: int) -> bool:
        """Whether callers came round in each window: else its latencies are those of who came first."""
        return all(len(one.latencies) >= callers for one in self.windows)


@dataclass(slots=True)
class Cell:
    """So many callers with texts of so many tokens."""

    words: int
    callers: int
    sides: dict[str, Side] = field(default_factory=dict)
    floors: list[tuple[float, Floored]] = field(default_factory=list)
    """Of each round the mean batch of ours, and what its products take by themselves."""
    took: float = 0.0
    """Seconds of the last round."""

    def add(self, name: str, window: Window) -> None:
        """Another round of one side."""
        self.sides.setdefault(name, Side()).windows.append(window)

    @property
    def kernel(self) -> str:
        """The quickest for the encoders."""
        names = self.floors[0][1].encoders
        return min(names, key=lambda name: statistics.median(one.encoders[name].wall for _, one in self.floors))

    @property
    def floor_rate(self) -> float:
        """Texts a second that the products alone would allow."""
        kernel = self.kernel
        return statistics.median(size / (one.model.wall + one.encoders[kernel].wall) for size, one in self.floors)

    @property
    def floor_cpu(self) -> float:
        """CPU-seconds a text that they take."""
        kernel = self.kernel
        return statistics.median((one.model.cpu + one.encoders[kernel].cpu) / size for size, one in self.floors)

    def ratios(self) -> dict[str, float]:
        """Ours by the others: rates, CPU time of a text. The share of the floor is 1 if nothing else is done."""
        ours = self.sides[OURS]
        found = {}
        for name in (PLAIN, BASE):
            if (other := self.sides.get(name)) is not None:
                found[f"rate_by_{name}"] = ours.rate / other.rate
                found[f"cpu_by_{name}"] = ours.cpu / other.cpu
        return found | {"share_of_floor": ours.rate / self.floor_rate, "share_of_cpu": self.floor_cpu / ours.cpu}

    def numbers(self) -> dict[str, object]:
        """For the file of results."""
        sides = {
            name: {
                "rate": side.rate,
                "rates": [one.rate for one in side.windows],
                "cpu_seconds": side.cpu,
                "p50_seconds": side.latency(50) if side.settled(self.callers) else None,
                "p99_seconds": side.latency(99) if side.settled(self.callers) else None,
                "answers": sum(len(one.latencies) for one in side.windows),
                "mean_batch": side.batch,
            }
            for name, side in self.sides.items()
        }
        floor = {
            "rate": self.floor_rate,
            "cpu_seconds": self.floor_cpu,
            "kernel": self.kernel,
            "model_seconds": statistics.median(one.model.wall for _, one in self.floors),
            "encoder_seconds": {
                name: statistics.median(one.encoders[name].wall for _, one in self.floors)
                for name in self.floors[0][1].encoders
            },
        }
        own = {"tokens": self.words, "callers": self.callers, "rounds": len(self.floors)}
        return own | {"sides": sides, "floor": floor, "ratios": self.ratios()}


def describe(cells: Sequence[Cell]) -> str:
    """Two tables: every side in every cell, and ours beside the others."""
    head = ("tokens", "callers", "side", "texts/s", "p50 ms", "p99 ms", "CPU-ms a text", "mean batch")
    note = "" if all(side.settled(cell.callers) for cell in cells for side in cell.sides.values()) else _UNSETTLED
    return f"{table(head, [row for cell in cells for row in _rows(cell)])}{note}\n\n{_beside(cells)}"


_UNSETTLED = "\n\n\\* callers over rate: the mean of a closed loop. Not everybody had two answers in a window."


def _rows(cell: Cell) -> list[tuple[object, ...]]:
    own = (cell.words, cell.callers)
    rows: list[tuple[object, ...]] = []
    for name, side in cell.sides.items():
        times = (milliseconds(side.latency(50)), milliseconds(side.latency(99)))
        if not side.settled(cell.callers):
            times = (milliseconds(cell.callers / side.rate) + "\\*", "–")
        batch = "–" if side.batch is None else digits(side.batch)
        rows.append((*own, name, digits(side.rate), *times, milliseconds(side.cpu), batch))
    floor = f"floor, {cell.kernel}"
    return [*rows, (*own, floor, digits(cell.floor_rate), "", "", milliseconds(cell.floor_cpu), "")]


def _beside(cells: Sequence[Cell]) -> str:
    """Ours beside the others, a line for each cell."""
    names = {
        "rate_by_plain": "rate, × plain",
        "rate_by_base": "rate, × base",
        "cpu_by_plain": "CPU, × plain",
        "cpu_by_base": "CPU, × base",
        "share_of_floor": "share of the floor",
        "share_of_cpu": "in CPU time",
    }
    shown = [name for name in names if name in cells[0].ratios()]
    rows = []
    for cell in cells:
        ratios = cell.ratios()
        rows.append((cell.words, cell.callers, *(_share(name, ratios[name]) for name in shown)))
    return table(("tokens", "callers", *(names[name] for name in shown)), rows)


def _share(name: str, ratio: float) -> str:
    return f"{ratio:.0%}" if name.startswith("share") else f"{ratio:.2f}"


def describe_memory(held: Mapping[str, Memory]) -> str:
    """A line for each side."""
    rows = [(name, f"{one.private / MIB:,.0f}", f"{one.mapped / MIB:,.0f}") for name, one in held.items()]
    return table(("memory after the load", "private MiB", "mapped files MiB"), rows)
