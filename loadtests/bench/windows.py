"""A window of one side: callers who search, wait for the answer, and search again, and what the machine spent on it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np

from loadtests import connect
from loadtests.bench.usage import cpu_seconds, processes
from loadtests.closed_loop import CHANNELS
from loadtests.metrics import Growth
from loadtests.processes import Address
from loadtests.questions import search
from loadtests.rates import RESOLUTION, rate
from loadtests.texts import Distinct, caller


class Unanswered(Exception):
    """A call that was not answered: then nothing was measured."""


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop on texts that come once."""

    callers: int
    words: int
    """Of a text; each is a token."""
    seconds: float
    """Of the window that counts. It opens when every caller has had an answer, or after as long as it lasts."""
    patience: float
    """Seconds that a call may take."""
    seed: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What a server ran in the window, by its own count."""

    batch: float
    """Mean requests in a batch."""
    model_rows: float
    """Mean rows of a batch that went through the model."""
    encoder_rows: float
    """Mean rows of a batch that each source encoded."""


@dataclass(frozen=True, slots=True)
class Window:
    """What was measured."""

    rate: float
    """Answers a second."""
    cpu: float
    """CPU-seconds of all its processes for an answer."""
    latencies: tuple[float, ...]
    """Of the answers that came in it, in seconds."""
    ran: Ran | None
    """None of a server without metrics."""


async def measure(address: Address, load: Load, sources: int) -> Window:
    """One window. Calls still open at its end are cancelled, and the server is left idle.

    Raises Unanswered if a call fails or none is answered in time.
    """
    if address.pid is None:
        raise ValueError(f"{address.server.target}: its process is not known, so its CPU time cannot be told")
    headers = address.server.headers()
    async with connect.stubs(address.server, min(CHANNELS, load.callers)) as stubs:
        log = _Log(load, processes(address.pid))
        try:
            async with asyncio.TaskGroup() as group:
                callers = [
                    group.create_task(_search(stubs[number % len(stubs)], headers, number, load, log))
                    for number in range(load.callers)
                ]
                await asyncio.wait_for(log.opened.wait(), load.seconds + load.patience)
                before = await asyncio.to_thread(address.page)
                await asyncio.wait_for(log.over.wait(), load.seconds + load.patience)
                await asyncio.sleep(load.seconds / RESOLUTION)  # the rest of the burst that the close cut
                after = await asyncio.to_thread(address.page)
                for one in callers:
                    one.cancel()
            # Batches in progress are not broken off: this answer comes after them.
            last = search(Distinct(load.words).pick(caller(load.seed, -1))).request
            await stubs[0].Search(last, timeout=load.patience, metadata=headers(0))
        except* (grpc.aio.AioRpcError, TimeoutError) as failed:
            raise Unanswered(f"{address.server.target}: {failed.exceptions[0]!r}") from None
    return log.window(None if before is None or after is None else _ran(Growth(before, after), sources))


class _Log:
    """When answers came, and how much CPU time had gone by then."""

    def __init__(self, load: Load, pids: list[int]) -> None:
        self._load = load
        self._pids = pids
        self._begin = time.monotonic()
        self._waiting = set(range(load.callers))
        self._answers: list[tuple[float, float]] = []  # when, and after how long
        self._taken: list[tuple[float, float]] = [(self._begin, cpu_seconds(pids))]
        self._opens = np.inf
        self.opened, self.over = asyncio.Event(), asyncio.Event()

    def add(self, number: int, began: float) -> None:
        """Caller number n has his answer."""
        now = time.monotonic()
        self._answers.append((now, now - began))
        self._taken.append((now, cpu_seconds(self._pids)))
        self._waiting.discard(number)
        if now > self._opens + self._load.seconds:
            self.over.set()
        elif not self.opened.is_set() and (not self._waiting or now > self._begin + self._load.seconds):
            self._opens = now
            self.opened.set()

    def window(self, ran: Ran | None) -> Window:
        """What was measured. CPU time counts as spent evenly between answers, as `rates.rate` has it of the answers."""
        opens, closes = self._opens, self._opens + self._load.seconds
        answered = rate([ended for ended, _ in self._answers], self._begin, opens, closes)
        times, taken = zip(*self._taken, strict=True)
        at_opens, at_closes = np.interp([opens, closes], np.asarray(times), np.asarray(taken))
        latencies = tuple(seconds for ended, seconds in self._answers if opens < ended <= closes)
        return Window(answered, float(at_closes - at_opens) / (answered * self._load.seconds), latencies, ran)


def _ran(grown: Growth, sources: int) -> Ran:
    batches = grown.count("batch_size_count")
    model, encoders = grown.count("forward_tokens_total"), grown.count("encode_tokens_total") / sources
    return Ran(grown.average("batch_size"), model / batches, encoders / batches)


async def _search(stub: Any, headers: connect.Headers, number: int, load: Load, log: _Log) -> None:
    """Caller number n, until cancelled."""
    chance, texts = caller(load.seed, number), Distinct(load.words)
    while True:
        question, began = search(texts.pick(chance)).request, time.monotonic()
        await stub.Search(question, timeout=load.patience, metadata=headers(number))
        log.add(number, began)
