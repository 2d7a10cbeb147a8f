"""Ask at a given rate whatever the server does: Poisson arrivals, and latency from when each was meant to start.

    python -m loadtests.open_loop --target 127.0.0.1:50051 --rate 50 --seconds 20

A closed loop asks less of a server that stalls, and so hides the stall. Here arrivals go on: what waits in the server,
in the connection or in this process counts. How late this process itself sent is reported, never corrected.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import grpc.aio

from loadtests import connect, records
from loadtests.percentiles import milliseconds, percentile
from loadtests.questions import search
from loadtests.summary import by_verdict
from loadtests.texts import Distinct, Popular, Texts, caller

HEAD_START = 3.0
"""Seconds that processes have to import and connect before the first arrival."""
TOLERATED_LATENESS = 0.05
"""Seconds: if one call in a hundred is sent later than this, the driver did not keep up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An open loop."""

    server: connect.Server
    rate: float
    """Arrivals a second, by all processes together."""
    seconds: float
    """How long calls arrive; answers are awaited beyond that."""
    deadline: float = 30.0
    """Seconds from the intended start after which nobody wants the answer."""
    distinct: bool = True
    words: int | None = None
    """Words of each distinct text; unset: around ten."""
    channels: int = 4
    most: int = 10_000
    """Calls in flight in one process: what arrives beyond is not sent, and counted."""
    seed: int = 0
    number: int = 0
    """Which process this is."""
    begin: float | None = None
    """When the first may arrive, on the monotonic clock; unset: at once."""


@dataclass(slots=True)
class Driven:
    """What an open loop made happen."""

    begin: float
    """When it began; arrivals end `Plan.seconds` later."""
    records: list[records.Record] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    """Of each call sent: seconds after it was meant to be."""
    unsent: int = 0
    """Arrivals that met too many calls in flight here."""

    @property
    def kept_up(self) -> bool:
        """Whether the driver did what it was told to."""
        return not self.unsent and not percentile(self.lateness, 99) > TOLERATED_LATENESS

    def note(self) -> str:
        """One line about the driver itself."""
        p50, p99, most = (milliseconds(percentile(self.lateness, share)) for share in (50, 99, 100))
        behind = "" if self.kept_up else ": THE DRIVER FELL BEHIND"
        return f"sent late by p50 {p50} ms, p99 {p99} ms, at most {most} ms; {self.unsent} not sent{behind}"


async def drive(plan: Plan) -> Driven:
    """Let calls arrive, and wait for their answers. Raises CannotConnectError."""
    chance = caller(plan.seed, plan.number)
    texts: Texts = Distinct(plan.words) if plan.distinct else Popular(seed=plan.seed)
    calls = set[asyncio.Task[None]]()
    headers = plan.server.headers()
    async with connect.stubs(plan.server, plan.channels) as stubs:
        driven = Driven(plan.begin or time.monotonic())
        due = driven.begin
        number = 0
        while (due := due + chance.expovariate(plan.rate)) < driven.begin + plan.seconds:
            # Not slept when behind, but answers must be read in any case.
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(calls) >= plan.most:
                driven.unsent += 1
                continue
            number += 1
            question = search(texts.pick(chance)).request
            driven.lateness.append(time.monotonic() - due)
            send = partial(stubs[number % len(stubs)].Search, question, metadata=headers(number))
            call = asyncio.create_task(_ask(send, due, plan.deadline, driven))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)
    return driven


async def _ask(send: Callable[..., Any], due: float, deadline: float, driven: Driven) -> None:
    """One call, wanted by `due + deadline`."""
    verdict, tier = records.OK, ""
    try:
        answer = await send(timeout=max(0.001, due + deadline - time.monotonic()))
        tier = records.tier_of(answer)
    except grpc.aio.AioRpcError as error:
        verdict, _, _ = records.verdict_of(error)
    driven.records.append(records.Record("Search", due, time.monotonic(), verdict, tier))


def drive_all(plan: Plan, processes: int = 1) -> Driven:
    """The same by several processes, each with its share of the arrivals; in this one where one is enough."""
    if processes == 1:
        return asyncio.run(drive(plan))
    begin = time.monotonic() + HEAD_START
    shares = [replace(plan, rate=plan.rate / processes, number=number, begin=begin) for number in range(processes)]
    # Not forked: gRPC's threads do not survive that.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = list(pool.map(_drive_one, shares))
    whole = Driven(begin)
    for part in parts:
        whole.records += part.records
        whole.lateness += part.lateness
        whole.unsent += part.unsent
    return whole


def _drive_one(plan: Plan) -> Driven:
    return asyncio.run(drive(plan))


def main() -> None:
    """Parse the command line, drive, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="HOST:PORT of the server")
    parser.add_argument("--rate", type=float, required=True, help="searches a second")
    parser.add_argument("--seconds", type=float, default=20, help="how long they arrive (default %(default)s)")
    parser.add_argument("--deadline", type=float, default=30, help="seconds that each may take (default %(default)s)")
    parser.add_argument("--popular", action="store_true", help="texts that come again, instead of a new one each time")
    parser.add_argument("--words", type=int, help="words of each new text; unset: around ten")
    parser.add_argument("--processes", type=int, default=1, help="that drive; one does a thousand a second or so")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    connect.add_options(parser)
    asked = parser.parse_args()
    server = connect.Server.read(asked.target, asked)
    plan = Plan(server, asked.rate, asked.seconds, asked.deadline, not asked.popular, asked.words, seed=asked.seed)
    with connect.one_line():
        server.check()
        driven = drive_all(plan, asked.processes)
    print(by_verdict(driven.records, asked.seconds), end="\n\n")
    print(driven.note())


if __name__ == "__main__":
    main()
