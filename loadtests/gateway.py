"""What the gateway adds to a call: a cached search by HTTP beside the same by gRPC, in one run.

Windows alternate between the ways, so that what the machine does beside it hits all. Server, gateway and callers share
the machine; the callers are as lean as they can be here (grpc.aio, and HTTP/1.1 over asyncio's streams).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from loadtests import connect
from loadtests.percentiles import digits, milliseconds, percentile
from loadtests.processes import leave_nothing_behind, served
from loadtests.table import table
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc, types_pb2

TEXT = "My favorite color is red, and the sky over the sea is"
WAYS = ("gRPC", "HTTP", "HTTP, gzip")
SETTLE = 0.2
"""Seconds of calls before each window."""

Ask = Callable[[], Awaitable[None]]


@contextmanager
def gateway(target: str, log: Path) -> Iterator[int]:
    """A gateway's process before a server: its port."""
    command = [sys.executable, "-m", "saeserve", "web", "--bind", "127.0.0.1:0", "--target", target]
    with log.open("w") as output, subprocess.Popen(command, stderr=output) as process:
        try:
            deadline = time.monotonic() + 60
            while " asks " not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the gateway did not start:\n{log.read_text()}")
                time.sleep(0.1)
            yield int(log.read_text().partition("127.0.0.1:")[2].partition("/")[0])
        finally:
            process.terminate()
            process.wait(30)


class Direct:
    """A caller by gRPC, with a channel of his own."""

    def __init__(self, target: str, limit: int) -> None:
        self._channel = connect.aio_channel(connect.Server(target))
        self._stub = feature_service_pb2_grpc.FeatureServiceStub(self._channel)
        self._request = pb.SearchRequest(input=types_pb2.Input(text=TEXT), limit=limit)

    async def ask(self) -> None:
        """One search, its answer parsed."""
        await self._stub.Search(self._request)

    async def close(self) -> None:
        await self._channel.close()


class Http:
    """A caller by HTTP, with a connection of his own, which is kept."""

    def __init__(self, port: int, limit: int, gzip: bool) -> None:
        body = json.dumps({"input": {"text": TEXT}, "limit": limit}).encode()
        accepted = "accept-encoding: gzip\r\n" if gzip else ""
        head = f"POST /api/v1/search HTTP/1.1\r\nhost: localhost\r\n{accepted}content-length: {len(body)}\r\n\r\n"
        self._message = head.encode() + body
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> None:
        """One search, its answer read. Exits where it is none."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(self._message)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"http/1.1 200"):
            sys.exit(f"the gateway answered {head!r} {body[:400]!r}")

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def window(asks: list[Ask], seconds: float) -> tuple[list[float], float]:
    """The time of each call, and the rate, of callers who ask again once they are answered."""
    found: list[float] = []
    begin = time.perf_counter() + SETTLE
    end = begin + seconds

    async def caller(ask: Ask) -> None:
        while (now := time.perf_counter()) < end:
            await ask()
            if now >= begin:
                found.append(time.perf_counter() - now)

    await asyncio.gather(*map(caller, asks))
    return found, len(found) / (time.perf_counter() - begin)


async def measure(target: str, port: int, callers: int, asked: argparse.Namespace) -> list[list[object]]:
    """Rows of the table."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    async with AsyncExitStack() as opened:
        asks: dict[str, list[Ask]] = {way: [] for way in WAYS}
        for way, _ in itertools.product(WAYS, range(callers)):
            one = Direct(target, asked.limit) if way == "gRPC" else Http(port, asked.limit, way == "HTTP, gzip")
            opened.push_async_callback(one.close)
            asks[way].append(one.ask)
        for _ in range(asked.windows):
            for way in WAYS:
                found, rate = await window(asks[way], asked.seconds)
                times[way] += found
                rates[way].append(rate)
    least = percentile(times["gRPC"], 50)
    rows: list[list[object]] = []
    for way in WAYS:
        median = percentile(times[way], 50)
        more = "" if way == "gRPC" else milliseconds(median - least)
        tails = [milliseconds(percentile(times[way], percent)) for percent in (50, 99)]
        rows.append([f"{way}, {callers}", digits(percentile(rates[way], 50)), *tails, more])
    return rows


async def main_of(asked: argparse.Namespace, target: str, port: int) -> None:
    """Measure and print."""
    rows: list[list[object]] = []
    for callers in map(int, asked.callers.split(",")):
        rows += await measure(target, port, callers, asked)
    print(table(["way, callers", "searches/s", "p50 ms", "p99 ms", "added at the median, ms"], rows))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="what the server serves (default: demo)")
    parser.add_argument("--callers", default="1,8,32", help="at a time (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=25, help="features in an answer (default: 25)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a window (default: 1)")
    parser.add_argument("--windows", type=int, default=5, help="of each way (default: 5)")
    asked = parser.parse_args()
    leave_nothing_behind()
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), 300.0, model=asked.model) as address:
        target = address.server.target
        with gateway(target, Path(folder, "web")) as port:
            asyncio.run(main_of(asked, target, port))


if __name__ == "__main__":
    main()
