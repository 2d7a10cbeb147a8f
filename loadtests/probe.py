"""Ask cheap questions at a steady low rate, from a process of its own, while others load the server.

Each kind has a connection of its own. Calls start by the clock, whether or not earlier ones have been answered, and
their time counts from when they were meant to start. How late this process itself was is told beside it: on a busy
machine it waits for a core as all do.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loadtests import connect, records, texts
from loadtests.processes import SERVICE
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc, types_pb2

TEXT = types_pb2.Input(text="My favorite color is red.")
LONG_WORDS = 1000
DEADLINE = 30.0
CHECK, CACHED, UNCACHED = "Health.Check", "Search, cached", "Search, uncached"
TOKENIZE, LONG = "Tokenize", "Tokenize, 1000 words"
KEPT = "Search, ranked anew"
LATE = "late"
"""Kind of the records that say how late this process was."""


async def probe(
    server: connect.Server,
    rate: float,
    seconds: float,
    uncached: float = 0.0,
    begun: Callable[[], None] = lambda: None,
) -> list[records.Record]:
    """Ask each question so many times a second for so long, and `uncached` times what costs the server more: a
    search that is in no cache, one that is ranked anew, and a text long enough to be cut beside the event loop."""
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(connect.aio_channel(server)) for _ in range(7)]
        questions = _questions(channels, server.headers())
        await questions[CACHED](10 * DEADLINE)  # the cache has it from now on
        found: list[records.Record] = []
        start = time.monotonic() + 0.05
        begun()
        loops = []
        for place, (kind, send) in enumerate(questions.items()):
            every = uncached if kind in (UNCACHED, KEPT, LONG) else rate
            if every:
                due = start + place / every / len(questions)
                loops.append(_steadily(kind, send, due, every, max(1, int(seconds * every)), found))
        await asyncio.gather(*loops)
    return found


def _questions(
    channels: list[grpc.aio.Channel], headers: connect.Headers
) -> dict[str, Callable[[float], Awaitable[Any]]]:
    """What is asked, each on its own connection, within so many seconds."""
    checks = health_pb2_grpc.HealthStub(channels[0])
    info, tokens, cached, uncached, kept, long = (
        feature_service_pb2_grpc.FeatureServiceStub(one) for one in channels[1:]
    )
    check = health_pb2.HealthCheckRequest(service=SERVICE)
    chance = Random(f"probe {time.time_ns()}")  # noqa: S311  load, not secrets

    limits = itertools.cycle(range(26, 1000))
    cut = types_pb2.Input(text=texts.compose(chance, LONG_WORDS))

    def fresh() -> pb.SearchRequest:
        return pb.SearchRequest(input=types_pb2.Input(text=texts.compose(chance, texts.TYPICAL_WORDS)))

    return {
        CHECK: lambda timeout: checks.Check(check, timeout=timeout, metadata=headers(0)),
        "GetServerInfo": lambda timeout: info.GetServerInfo(
            pb.GetServerInfoRequest(), timeout=timeout, metadata=headers(1)
        ),
        TOKENIZE: lambda timeout: tokens.Tokenize(pb.TokenizeRequest(input=TEXT), timeout=timeout, metadata=headers(2)),
        CACHED: lambda timeout: cached.Search(pb.SearchRequest(input=TEXT), timeout=timeout, metadata=headers(3)),
        UNCACHED: lambda timeout: uncached.Search(fresh(), timeout=timeout, metadata=headers(4)),
        KEPT: lambda timeout: kept.Search(
            pb.SearchRequest(input=TEXT, limit=next(limits)), timeout=timeout, metadata=headers(5)
        ),
        LONG: lambda timeout: long.Tokenize(pb.TokenizeRequest(input=cut), timeout=timeout, metadata=headers(6)),
    }


async def _steadily(
    kind: str,
    send: Callable[[float], Awaitable[Any]],
    start: float,
    rate: float,
    count: int,
    found: list[records.Record],
) -> None:
    calls = set[asyncio.Task[None]]()
    for number in range(count):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        found.append(records.Record(LATE, due, time.monotonic(), records.OK))
        call = asyncio.create_task(_ask(kind, send, due, found))
        calls.add(call)
        call.add_done_callback(calls.discard)
    await asyncio.gather(*calls)


async def _ask(kind: str, send: Callable[[float], Awaitable[Any]], due: float, found: list[records.Record]) -> None:
    verdict, tier = records.OK, ""
    try:
        answer = await send(DEADLINE)
        tier = records.tier_of(answer) if hasattr(answer, "call_info") else ""
    except grpc.aio.AioRpcError as error:
        verdict, _, _ = records.verdict_of(error)
    found.append(records.Record(kind, due, time.monotonic(), verdict, tier))


def main() -> None:
    """Parse the command line and probe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="HOST:PORT of the server")
    parser.add_argument("--rate", type=float, default=15, help="calls a second of each kind (default %(default)s)")
    parser.add_argument(
        "--uncached",
        type=float,
        default=0,
        help="dearer calls a second of each kind (default %(default)s)",
    )
    parser.add_argument("--seconds", type=float, default=10, help="how long (default %(default)s)")
    parser.add_argument("--records", type=Path, required=True, help="file for what became of each call")
    connect.add_options(parser)
    asked = parser.parse_args()
    server = connect.Server.read(asked.target, asked)
    with connect.one_line():
        server.check()
        probing = probe(server, asked.rate, asked.seconds, asked.uncached, asked.records.with_suffix(".began").touch)
        records.write(asyncio.run(probing), asked.records)


if __name__ == "__main__":
    main()
