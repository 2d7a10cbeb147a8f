"""What is known of an RPC beyond what grpc.aio says: when it has ended, and how to end it. On a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from loadtests.attacks.ends import Ends
from loadtests.attacks.http2 import Connection
from loadtests.attacks.watch import resident
from loadtests.connect import Server
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceServicer, add_FeatureServiceServicer_to_server
from saeserve_server.api.interceptor import CallInterceptor
from saeserve_server.api.places import PATIENCE
from saeserve_server.api.rpc import Rpc, current_rpc, watch_rpcs
from saeserve_server.metrics import Metrics
from saeserve_server.scheduler.desk import Desk
from saeserve_server.scheduler.held import Held
from tests.service.wire import SERVICE

MEGABYTE = 2**20
PID = os.getpid()
TOKENIZE, STREAM = f"/{SERVICE}/Tokenize", f"/{SERVICE}/EncodeStream"
LONG, SHORT = 60.0, 0.3
"""Seconds of patience with callers who do not send or read."""


class Servicer(FeatureServiceServicer):
    """Answers with so many bytes, and keeps the RPCs."""

    def __init__(self) -> None:
        self.size = 10
        self.rpcs: list[Rpc] = []
        self.ended: list[Rpc] = []
        self.returned = 0
        self.free = asyncio.Event()
        self.free.set()

    def _note(self) -> None:
        rpc = current_rpc()
        self.rpcs.append(rpc)
        rpc.on_end(lambda: self.ended.append(rpc))

    async def Tokenize(self, request: Any, context: Any) -> Any:
        self._note()
        self.returned += 1
        await self.free.wait()
        return bytes(self.size)

    async def EncodeStream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        self._note()
        async for _ in requests:
            yield bytes(self.size)


class Bench:
    """A server in this event loop."""

    def __init__(self, stall_timeout: float, max_calls: int) -> None:
        self.servicer = Servicer()
        self.metrics = Metrics()
        self.held = Held(2**30, self.metrics)
        self.desk = Desk(10, 100, self.metrics)
        self._interceptor = CallInterceptor(
            self.metrics,
            self.desk,
            self.held,
            token=None,
            requests={
                "Tokenize": (service.TokenizeRequest, 1000),
                "EncodeStream": (service.EncodeStreamRequest, 1000),
            },
            max_calls=max_calls,
            max_streams=10,
            stall_timeout=stall_timeout,
            log_texts=False,
        )
        options = [("grpc.max_send_message_length", -1)]
        self.server = grpc.aio.server(interceptors=[self._interceptor], options=options)
        add_FeatureServiceServicer_to_server(self.servicer, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.ends = Ends()

    def value(self, name: str, **labels: str) -> float:
        """A sample of the metrics."""
        return self.metrics.registry.get_sample_value(f"saeserve_{name}", labels) or 0.0

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for it; the story's timeout ends what waits too long."""
        while not holds():  # noqa: ASYNC110  it stands in many places
            await asyncio.sleep(0.01)

    async def call_once(self) -> None:
        """Another call, of another connection: gRPC keeps the last that came until the next one comes."""
        self.servicer.size = 10
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options) as channel:
            await channel.unary_unary(TOKENIZE)(b"")

    async def unread(self, *methods: str) -> Connection:
        """A connection with such calls, none of which reads."""
        connection = await Connection.open(Server(f"127.0.0.1:{self.port}"), self.ends, 0)
        for method in methods:
            await connection.call(method, b"", [])
        return connection


def run(story: Callable[[Bench, grpc.aio.Channel], Awaitable[None]], stall: float = LONG, max_calls: int = 100) -> None:
    """Tells a story; at its end nothing is held and nobody has a place."""

    async def tell() -> None:
        watch_rpcs(asyncio.get_running_loop())
        bench = Bench(stall, max_calls)
        await bench.server.start()
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        try:
            async with asyncio.timeout(6):
                async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.port}", options=options) as channel:
                    await story(bench, channel)
                await bench.until(lambda: not bench.held.bytes and not bench.value("requests_in_flight"))
        finally:
            await bench.server.stop(0)
            bench.desk.close()

    asyncio.run(tell())


def test_every_handler_finds_its_rpc() -> None:
    """With a gRPC in which it does not, the server would run, but neither end calls nor know when they have ended."""

    async def story(bench: Bench, channel: grpc.aio.Channel) -> None:
        await channel.unary_unary(TOKENIZE)(b"")
        stream = channel.stream_stream(STREAM)(iter([b""]))
        assert [len(answer) async for answer in stream] == [10]
        assert [rpc.can_be_ended for rpc in bench.servicer.rpcs] == [True, True]
        await bench.until(lambda: bench.servicer.ended == bench.servicer.rpcs)

    run(story)


def test_a_call_has_ended_when_its_answer_has_left_or_its_caller_has() -> None:
    async def story(bench: Bench, channel: grpc.aio.Channel) -> None:
        bench.servicer.size = MEGABYTE
        connection = await bench.unread(TOKENIZE, TOKENIZE)
        await bench.until(lambda: bench.servicer.returned == 2)
        await channel.unary_unary(TOKENIZE)(b"")
        await bench.until(lambda: bench.servicer.ended == bench.servicer.rpcs[2:])  # who reads
        assert bench.value("requests_in_flight") == 2
        assert 2 * MEGABYTE < bench.value("answer_bytes") < 3 * MEGABYTE
        connection.hang_up()
        await bench.until(lambda: len(bench.servicer.ended) == 3)

    run(story)


def test_a_call_that_is_ended_leaves_no_byte_behind() -> None:
    async def story(bench: Bench, channel: grpc.aio.Channel) -> None:
        bench.servicer.size = 64 * MEGABYTE
        before = resident(PID)
        connection = await bench.unread(TOKENIZE, TOKENIZE)
        await bench.until(lambda: bench.servicer.returned == 2)
        await bench.until(lambda: resident(PID) - before > 100 * MEGABYTE)
        for rpc in bench.servicer.rpcs:
            rpc.end()
        await bench.call_once()
        await bench.until(lambda: resident(PID) - before < 32 * MEGABYTE)
        await bench.until(lambda: not connection.open_streams)
        assert list(bench.ends.by_verdict) == ["CANCELLED"]
        connection.hang_up()

    run(story)


def test_who_never_sends_his_message_is_ended() -> None:
    async def story(bench: Bench, channel: grpc.aio.Channel) -> None:
        call = channel.stream_unary(TOKENIZE)()
        await bench.until(lambda: bench.value("stalled_total", by="time") == 1)
        await bench.until(lambda: bench.value("requests_in_flight") == 0)
        assert not bench.servicer.rpcs
        await bench.call_once()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.CANCELLED

    run(story, stall=SHORT)


@pytest.mark.parametrize("method", [TOKENIZE, STREAM], ids=["unary", "stream"])
def test_who_reads_nothing_is_ended(method: str) -> None:
    async def story(bench: Bench, channel: grpc.aio.Channel) -> None:
        bench.servicer.size = MEGABYTE
        connection = await bench.unread(method)
        await bench.until(lambda: bench.value("stalled_total", by="time") == 1)
        await bench.call_once()
        await bench.until(lambda: not connection.open_streams)
        assert not connection.closed.is_set()
        connection.hang_up()

    run(story, stall=SHORT)


def test_who_is_done_in_time_is_not_ended_later() -> None:
    async def story(bench: Bench, channel: grpc.aio.Channel) -> None:
        await channel.unary_unary(TOKENIZE)(b"")
        stream = channel.stream_stream(STREAM)()
        for _ in range(4):  # together longer than the patience
            await asyncio.sleep(SHORT / 2)
            await stream.write(b"")
            assert len(await stream.read()) == 10
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert bench.value("stalled_total", by="time") == 0

    run(story, stall=SHORT)


def test_neither_who_sends_nothing_nor_who_reads_nothing_locks_others_out() -> None:
    async def story(bench: Bench, channel: grpc.aio.Channel) -> None:
        connection = await bench.unread(TOKENIZE, TOKENIZE)
        silent = [channel.stream_unary(TOKENIZE)() for _ in range(2)]
        await bench.until(lambda: bench.value("requests_in_flight") == 4 and bench.servicer.returned == 2)
        with contextlib.suppress(grpc.aio.AioRpcError):  # refused, unless the test was slower than their time
            await channel.unary_unary(TOKENIZE)(b"")
        await asyncio.sleep(PATIENCE)
        for _ in range(8):
            await channel.unary_unary(TOKENIZE)(b"")
        assert bench.value("stalled_total", by="place") >= 1
        assert bench.value("requests_in_flight") <= 4
        for call in silent:
            call.cancel()
        connection.hang_up()

    run(story, max_calls=4)


def test_nobody_locks_others_out_by_what_he_has_worked_on() -> None:
    async def story(bench: Bench, channel: grpc.aio.Channel) -> None:
        call = channel.unary_unary(TOKENIZE)
        bench.servicer.free.clear()
        flood = [asyncio.ensure_future(_answered(call, "flood")) for _ in range(4)]
        await bench.until(lambda: bench.servicer.returned == 4)
        other = asyncio.ensure_future(_answered(call, "other"))
        await bench.until(lambda: bench.servicer.returned == 5)
        bench.servicer.free.set()
        ends = await asyncio.gather(*flood, other)
        assert ends[:4].count("as many calls are being answered as are taken at a time: 4") == 1
        assert ends.count("") == 4
        assert ends[4] == ""
        name = {"method": "Tokenize", "code": "RESOURCE_EXHAUSTED", "reason": "TOO_MANY_CALLS"}
        assert bench.value("requests_total", **name) == 1

    run(story, max_calls=4)


async def _answered(method: Any, client: str) -> str:
    """Nothing, or why it was refused."""
    try:
        await method(b"", metadata=[("x-saeserve-client", client)])
    except grpc.aio.AioRpcError as error:
        return str(error.details())
    return ""
