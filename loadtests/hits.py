"""What a cached search costs the front end, beside the least that grpc.aio can do: an empty handler with its answer.

Both servers run at once, and windows alternate between them, so that what the machine does beside it hits both. The
ratio of the rates and CPU time a call, of the front end's process, are what to look at.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import uvloop

from loadtests import connect, empty_server, texts
from loadtests.lean import Counts, Message, call
from loadtests.percentiles import digits, mean, milliseconds, percentile
from loadtests.processes import leave_nothing_behind, served
from loadtests.rates import abba
from loadtests.table import table
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc, types_pb2

EMPTY = "empty handler"
TEXT = "My favorite color is red, and the sky over the sea is"
SEARCH = "/saeserve.v1.FeatureService/Search"
SETTLE = 0.3
"""Seconds of calls before each window."""
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one server."""

    name: str
    target: str
    pid: int
    path: str
    message: Message


@dataclass(slots=True)
class Point:
    """One question at one number of callers."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Seconds of a core that the server's process took for a call, of each window."""
    seconds: list[float] = field(default_factory=list)
    """Of each call."""
    failed: dict[str, int] = field(default_factory=dict)

    def add(self, counts: Counts, span: float, cpu: float) -> None:
        """Another window."""
        self.rates.append(counts.answered / span)
        self.cpu.append(cpu / max(1, counts.answered))
        self.seconds += counts.seconds
        for status, count in counts.failed.items():
            self.failed[status] = self.failed.get(status, 0) + count


def cached() -> Message:
    """The same question each time."""
    message = pb.SearchRequest(input=types_pb2.Input(text=TEXT)).SerializeToString()
    return lambda: message


def sorted_anew() -> Message:
    """Each time the same text sorted by other tokens, with other limits: ranked from what is kept of it."""
    numbers = itertools.count()

    def message() -> bytes:
        number = next(numbers)
        sort = [pb.SortToken(position=place) for place in range(8) if number >> place & 1] or [pb.SortToken(position=9)]
        return pb.SearchRequest(
            input=types_pb2.Input(text=TEXT), sort_tokens=sort, limit=25 + number // 256 % 10
        ).SerializeToString()

    return message


def fresh() -> Message:
    """Another text each time."""
    chance = Random(f"hits {time.time_ns()}")  # noqa: S311  load, not secrets

    def message() -> bytes:
        text = texts.compose(chance, texts.TYPICAL_WORDS)
        return pb.SearchRequest(input=types_pb2.Input(text=text)).SerializeToString()

    return message


def tokens() -> Message:
    """The tokens of a text."""
    message = pb.TokenizeRequest(input=types_pb2.Input(text=TEXT)).SerializeToString()
    return lambda: message


QUESTIONS: dict[str, tuple[str, Message]] = {
    "hit": (SEARCH, cached()),
    "sorted anew": (SEARCH, sorted_anew()),
    "new text": (SEARCH, fresh()),
    "Tokenize": ("/saeserve.v1.FeatureService/Tokenize", tokens()),
}


def measure(question: Question, callers: int, connections: int, seconds: float, point: Point) -> None:
    """One window."""
    ask = partial(call, question.target, question.path, question.message, callers, connections)
    uvloop.run(ask(SETTLE))
    cpu, began = processor_seconds(question.pid), time.monotonic()
    counts = uvloop.run(ask(seconds))
    point.add(counts, time.monotonic() - began, processor_seconds(question.pid) - cpu)


def processor_seconds(pid: int) -> float:
    """Of all cores, that a process has taken, without those it started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextmanager
def empty(answer: bytes, folder: Path) -> Iterator[tuple[str, int]]:
    """An empty server that answers these bytes: its address and process id."""
    file, port_file = folder / "answer", folder / "empty-port"
    file.write_bytes(answer)
    command = [sys.executable, "-m", "loadtests.empty_server", "--answer", str(file), "--port-file", str(port_file)]
    with subprocess.Popen(command) as server:
        try:
            deadline = time.monotonic() + connect.PATIENCE
            while not (port_file.exists() and (target := port_file.read_text())):
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the empty server did not start")
                time.sleep(0.05)
            yield target, server.pid
        finally:
            server.terminate()
            server.wait(timeout=30)


def first_answer(server: connect.Server, message: bytes) -> bytes:
    """The bytes of a cached search, which is cached from now on."""
    with connect.channel(server) as channel:
        stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        request = pb.SearchRequest.FromString(message)
        stub.Search(request, timeout=30)
        return bytes(stub.Search(request, timeout=30).SerializeToString())


def describe(points: dict[tuple[str, int], Point]) -> str:
    """A row for each question and number of callers."""
    rows = []
    for (name, callers), point in points.items():
        base = points[EMPTY, callers]
        ratios = [own / other for own, other in zip(point.rates, base.rates, strict=True)]
        rows.append(
            (
                name,
                callers,
                digits(mean(point.rates)),
                f"{mean(ratios):.2f}",
                " ".join(f"{ratio:.2f}" for ratio in ratios),
                milliseconds(mean(point.cpu)),
                f"{mean(base.cpu) / mean(point.cpu):.2f}",
                milliseconds(percentile(point.seconds, 50)),
                milliseconds(percentile(point.seconds, 99)),
                " ".join(f"{count} × {status}" for status, count in point.failed.items()) or "0",
            )
        )
    head = ("question", "callers", "answers/s", "of empty", "by round", "CPU ms a call", "empty's of it")
    return table((*head, "p50 ms", "p99 ms", "failed"), rows)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", default="16,64", help="closed loops of so many callers (default %(default)s)")
    parser.add_argument("--connections", type=int, default=4, help="that they share (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="windows of each (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="length of a window (default %(default)s)")
    parser.add_argument("--questions", default="hit", help=f"of {', '.join(QUESTIONS)} (default %(default)s)")
    asked = parser.parse_args()
    leave_nothing_behind()
    wanted = [name.strip() for name in asked.questions.split(",")]
    if unknown := sorted(set(wanted) - set(QUESTIONS)):
        parser.error(f"--questions: {', '.join(unknown)}; of {', '.join(QUESTIONS)} is expected")
    with tempfile.TemporaryDirectory() as name, served(Path(name), 120.0) as ours:
        target, own_pid = ours.server.target, ours.pid or 0
        answer = first_answer(ours.server, cached()())
        with empty(answer, Path(name)) as (other, pid):
            asking = [Question(EMPTY, other, pid, empty_server.PATH, cached())]
            asking += [Question(one, target, own_pid, *QUESTIONS[one]) for one in wanted]
            points = {(one.name, int(callers)): Point() for callers in asked.callers.split(",") for one in asking}
            for callers in map(int, asked.callers.split(",")):
                for forward in abba(asked.rounds):
                    for one in asking if forward else reversed(asking):
                        measure(one, callers, asked.connections, asked.seconds, points[one.name, callers])
    print(f"answers of {len(answer)} bytes, {asked.connections} connections\n\n{describe(points)}")


if __name__ == "__main__":
    main()
