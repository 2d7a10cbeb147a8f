"""Ask cheap questions at a steady low rate, from a process of its own, while others load the server.

Calls start by the clock, whether or not earlier ones have been answered, and their time counts from when they were
meant to start. How late this process itself was is told beside it: on a busy machine it waits for a core as all do.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loadtests import connect, records
from loadtests.processes import SERVICE
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc, types_pb2

TEXT = types_pb2.Input(text="My favorite color is red.")
DEADLINE = 30.0
LATE = "late"
"""Kind of the records that say how late this process was."""


async def probe(target: str, rate: float, seconds: float) -> list[records.Record]:
    """Ask each question so many times a second for so long."""
    async with grpc.aio.insecure_channel(target, options=connect.OPTIONS) as channel:
        stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest(service=SERVICE)
        questions: dict[str, Callable[[], Awaitable[Any]]] = {
            "Health.Check": lambda: health.Check(check, timeout=DEADLINE),
            "GetServerInfo": lambda: stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=DEADLINE),
            "Tokenize": lambda: stub.Tokenize(pb.TokenizeRequest(input=TEXT), timeout=DEADLINE),
            "Search, cached": lambda: stub.Search(pb.SearchRequest(input=TEXT), timeout=DEADLINE),
        }
        await stub.Search(pb.SearchRequest(input=TEXT), timeout=10 * DEADLINE)  # the cache has it from now on
        found: list[records.Record] = []
        calls = set[asyncio.Task[None]]()
        step = 1 / (rate * len(questions))
        start = time.monotonic() + 0.05
        for number in range(max(len(questions), int(seconds / step))):
            due = start + number * step
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            found.append(records.Record(LATE, due, time.monotonic(), records.OK))
            kind = list(questions)[number % len(questions)]
            call = asyncio.create_task(_ask(kind, questions[kind], due, found))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)
    return found


async def _ask(kind: str, send: Callable[[], Awaitable[Any]], due: float, found: list[records.Record]) -> None:
    verdict, tier = records.OK, ""
    try:
        answer = await send()
        tier = records.tier_of(answer) if hasattr(answer, "call_info") else ""
    except grpc.aio.AioRpcError as error:
        verdict, _, _ = records.verdict_of(error)
    found.append(records.Record(kind, due, time.monotonic(), verdict, tier))


def main() -> None:
    """Parse the command line and probe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True, help="HOST:PORT of the server")
    parser.add_argument("--rate", type=float, default=15, help="calls a second of each kind (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="how long (default %(default)s)")
    parser.add_argument("--records", type=Path, required=True, help="file for what became of each call")
    arguments = parser.parse_args()
    records.write(asyncio.run(probe(arguments.target, arguments.rate, arguments.seconds)), arguments.records)


if __name__ == "__main__":
    main()
