"""The HTTP port of the metrics and probes: what it answers, and how little a caller can take of it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from saeserve_server.api import watch_port
from saeserve_server.api.watch_port import MOST_CONNECTIONS, WatchPort
from saeserve_server.metrics import Metrics
from tests.service.servers import descriptors

Ask = Callable[[bytes], Awaitable[tuple[int, bytes]]]


@asynccontextmanager
async def watched(*, ready: bool = True) -> AsyncIterator[tuple[int, Ask]]:
    """A port, and what asks it: status and body."""
    port = WatchPort(Metrics().registry, lambda: ready)
    number = await port.listen("127.0.0.1:0")

    async def ask(head: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(head + b"\r\nHost: here\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        top, _, body = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]), body

    try:
        yield number, ask
    finally:
        port.close()


def test_each_path_says_what_it_is_for_and_anything_else_is_not_found() -> None:
    async def story() -> None:
        async with watched() as (_, ask):
            status, page = await ask(b"GET /metrics HTTP/1.1")
            assert (status, b"saeserve_ready" in page) == (200, True)
            assert await ask(b"GET /metrics?name[]=saeserve_ready HTTP/1.0") == (
                200,
                b"# HELP saeserve_ready 1 while calls are answered\n# TYPE saeserve_ready gauge\nsaeserve_ready 0.0\n",
            )
            assert await ask(b"GET /livez HTTP/1.1") == (200, b"alive\n")
            assert await ask(b"GET /readyz?verbose HTTP/1.1") == (200, b"ready\n")
            assert await ask(b"HEAD /readyz HTTP/1.1") == (200, b"")
            for path in (b"/", b"/healthz", b"/metrics/", b"//livez", b"/livez/..", b""):
                assert (await ask(b"GET " + path + b" HTTP/1.1"))[0] == 404
            for method in (b"POST", b"PUT", b"DELETE", b"OPTIONS", b"get"):
                assert (await ask(method + b" /metrics HTTP/1.1"))[0] == 405
            for wrong in (b"GET /livez", b"GET", b"GET /livez HTTP/2.0", b"\xff\x00"):
                assert (await ask(wrong))[0] == 400
        async with watched(ready=False) as (_, ask):
            assert (await ask(b"GET /readyz HTTP/1.1"))[0] == 503
            assert (await ask(b"GET /livez HTTP/1.1"))[0] == 200

    asyncio.run(story())


def test_a_thousand_silent_connections_take_no_threads_few_descriptors_and_keep_nobody_out() -> None:
    async def story() -> None:
        async with watched() as (number, ask):
            threads, before = threading.active_count(), descriptors(os.getpid())
            silent = []
            for _ in range(1000):
                _, writer = await asyncio.open_connection("127.0.0.1", number)
                silent.append(writer)
            began = time.monotonic()
            assert (await ask(b"GET /livez HTTP/1.1"))[0] == 200
            assert time.monotonic() - began < 1
            # Ours are open still; at the port's side no more than it allows are.
            assert descriptors(os.getpid()) - before <= len(silent) + MOST_CONNECTIONS
            assert threading.active_count() == threads
            for writer in silent:
                writer.transport.abort()

    asyncio.run(story())


def test_who_asks_slowly_or_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_port, "CONNECTION_SECONDS", 0.3)

    async def is_cut(number: int, first: bytes, then: bytes = b"") -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        began = time.monotonic()
        writer.write(first)
        while time.monotonic() - began < 3:
            try:
                async with asyncio.timeout(0.05):
                    if not await reader.read(1):
                        return True
            except TimeoutError:
                writer.write(then)
            except ConnectionError:
                return True
        return False

    async def story() -> None:
        async with watched() as (number, _):
            assert await is_cut(number, b"")
            assert await is_cut(number, b"GET /livez HT", b"x")
            assert await is_cut(number, b"GET /livez HTTP/1.1\r\n", b"X: y\r\n")
            assert await is_cut(number, b"GET /" + b"a" * 20_000)

    asyncio.run(story())
