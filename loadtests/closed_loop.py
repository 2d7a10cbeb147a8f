"""So many callers who search, wait for the answer, and search again: throughput and latency at a given concurrency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio

from loadtests import connect, records
from loadtests.questions import search
from loadtests.rates import RESOLUTION, rate
from loadtests.texts import Texts, caller

CHANNELS = 4
DEFAULT_PAUSE = 0.1
"""Seconds after a refusal that names no delay."""


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop."""

    callers: int
    seconds: float
    """Of the window that counts."""
    warm_up: float
    """Seconds before it."""
    deadline: float
    """Seconds that a call may take."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured in one window."""

    rate: float
    """Answers a second."""
    latencies: tuple[float, ...]
    """Of the answers that came in it."""
    other: dict[str, int]
    """Calls that were not answered, by what they ended with."""


async def measure(server: connect.Server, texts: Texts, load: Load) -> Window:
    """One window. Calls still open at its end are cancelled, and the server is left idle."""
    headers = server.headers()
    begin = time.monotonic()
    log = _Log(closes=begin + load.warm_up + load.seconds)
    async with connect.stubs(server, min(CHANNELS, load.callers)) as stubs:
        loops = [
            asyncio.create_task(_search(stubs[number % len(stubs)], headers, number, texts, load, log))
            for number in range(load.callers)
        ]
        over = asyncio.create_task(log.over.wait())
        limit = load.warm_up + load.seconds + load.deadline
        await asyncio.wait([over, *loops], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(load.seconds / RESOLUTION)  # the rest of the burst that the close cut
        for task in (over, *loops):
            task.cancel()
        for ended in await asyncio.gather(over, *loops, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        # Batches in progress are not broken off: this answer comes after them.
        last = search(texts.pick(caller(load.seed, -1))).request
        await stubs[0].Search(last, timeout=load.deadline, metadata=headers(0))
    return _window(log.records, begin, log.closes - load.seconds, log.closes)


class _Log:
    """What became of the calls, and whether an answer has come after the close: it tells of the burst that is cut."""

    def __init__(self, closes: float) -> None:
        self.closes = closes
        self.records: list[records.Record] = []
        self.over = asyncio.Event()

    def add(self, record: records.Record) -> None:
        self.records.append(record)
        if record.answered and record.finished > self.closes:
            self.over.set()


def _window(found: Sequence[records.Record], begin: float, opens: float, closes: float) -> Window:
    answered = [record for record in found if record.answered]
    other: dict[str, int] = {}
    for record in found:
        if not record.answered:
            other[record.verdict] = other.get(record.verdict, 0) + 1
    latencies = tuple(record.seconds for record in answered if opens < record.finished <= closes)
    return Window(rate([record.finished for record in answered], begin, opens, closes), latencies, other)


async def _search(stub: Any, headers: connect.Headers, number: int, texts: Texts, load: Load, log: _Log) -> None:
    """Caller number n, until cancelled."""
    chance = caller(load.seed, number)
    while True:
        question = search(texts.pick(chance)).request
        start, verdict, pause = time.monotonic(), records.OK, 0.0
        try:
            await stub.Search(question, timeout=load.deadline, metadata=headers(number))
        except grpc.aio.AioRpcError as error:
            verdict, delay, _ = records.verdict_of(error)
            pause = DEFAULT_PAUSE if delay is None else delay
        log.add(records.Record("Search", start, time.monotonic(), verdict))
        if pause:
            await asyncio.sleep(pause)
