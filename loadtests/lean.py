"""Callers in a closed loop that cost next to nothing: they speak HTTP/2 by themselves and look at no answer.

A caller of grpc.aio takes as much of a core as an empty handler does, so it would hide what the server takes. Here a
call is two frames with the same header block, and an answer is over when its stream is.
"""

from __future__ import annotations

import asyncio
import functools
import struct
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import cast

from hpack import Decoder, Encoder
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, SettingsFrame, WindowUpdateFrame

from loadtests.attacks.http2 import DEFAULT_WINDOW, PREFACE
from loadtests.connect import PATIENCE

DATA, HEADERS, RESET, SETTINGS, PING, GO_AWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM = 1, 1
WIDE = 2**31 - 1
"""The largest window: answers are never held back."""
GRANT = 2**24
"""Bytes read after which the connection's window is opened anew."""

Message = Callable[[], bytes]
"""Gives the next call's message."""


@dataclass(slots=True)
class Counts:
    """What became of the calls of a window."""

    closes: float
    """When the last may begin, on the monotonic clock."""
    answered: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of each answered call."""
    failed: dict[str, int] = field(default_factory=dict)
    """Calls that were not answered, by their status."""


class Line(asyncio.Protocol):
    """One connection and its callers. A message must be so short that those of all its callers fit into 64 KiB."""

    def __init__(self, path: str, message: Message, callers: int, counts: Counts) -> None:
        self._head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "lean")]
        self._head += [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "30S")]
        self._encoder = Encoder()
        self._message = message
        self._callers = callers
        self._counts = counts
        self._began: dict[int, float] = {}
        self._stream = 1
        self._read = b""
        self._taken = 0
        self._transport: asyncio.Transport
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set once all calls that began have ended; ConnectionError if the server ends them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # Without a table, each header block of the server's can be read by itself.
        settings = {SettingsFrame.HEADER_TABLE_SIZE: 0, SettingsFrame.INITIAL_WINDOW_SIZE: WIDE}
        opening = WindowUpdateFrame(0, window_increment=WIDE - DEFAULT_WINDOW)
        self._transport.write(PREFACE + SettingsFrame(0, settings=settings).serialize() + opening.serialize())
        for _ in range(self._callers):
            self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the server hung up: {exc}"))

    def data_received(self, data: bytes) -> None:
        data, place = self._read + data, 0
        while place + 9 <= len(data):
            size = int.from_bytes(data[place : place + 3])
            end = place + 9 + size
            if end > len(data):
                break
            kind, flags = data[place + 3], data[place + 4]
            stream = int.from_bytes(data[place + 5 : place + 9])
            self._take(kind, flags, stream, data[place + 9 : end])
            place = end
        self._read = data[place:]

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == DATA:
            self._taken += len(body)
            if self._taken > GRANT:
                self._transport.write(WindowUpdateFrame(0, window_increment=self._taken).serialize())
                self._taken = 0
        elif kind == HEADERS and flags & END_STREAM:
            self._ended(stream, _status(body))
        elif kind == RESET:
            self._ended(stream, "reset")
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(SettingsFrame(0, flags=["ACK"]).serialize())
        elif kind == PING and not flags & ACK:
            self._transport.write(PingFrame(0, opaque_data=body, flags=["ACK"]).serialize())
        elif kind == GO_AWAY:
            self._transport.abort()

    def _ended(self, stream: int, status: str) -> None:
        began = self._began.pop(stream, None)
        if began is None:
            return  # reset after its status, as servers do with calls that they refuse early
        if status == "0":
            self._counts.answered += 1
            self._counts.seconds.append(time.monotonic() - began)
        else:
            self._counts.failed[status] = self._counts.failed.get(status, 0) + 1
        if time.monotonic() < self._counts.closes:
            self._call()
        elif not self._began and not self.done.done():
            self.done.set_result(None)

    def _call(self) -> None:
        stream, self._stream = self._stream, self._stream + 2
        message = self._message()
        frame = HeadersFrame(stream, self._encoder.encode(self._head), flags=["END_HEADERS"])
        body = DataFrame(stream, struct.pack(">BI", 0, len(message)) + message, flags=["END_STREAM"])
        self._began[stream] = time.monotonic()
        self._transport.write(frame.serialize() + body.serialize())


async def call(target: str, path: str, message: Message, callers: int, connections: int, seconds: float) -> Counts:
    """So many callers, spread over the connections, for so long. Raises OSError where the server ends a connection."""
    host, _, port = target.rpartition(":")
    counts = Counts(time.monotonic() + seconds)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        lines = []
        for place in range(connections):
            share = len(range(place, callers, connections))
            make = functools.partial(Line, path, message, share, counts)
            transport, line = await loop.create_connection(make, host.strip("[]"), int(port))
            stack.callback(transport.abort)
            lines.append(line)
        async with asyncio.timeout(seconds + PATIENCE):
            await asyncio.gather(*(line.done for line in lines))
    return counts


@functools.lru_cache(maxsize=64)
def _status(block: bytes) -> str:
    """The `grpc-status` of a header block that was written without a table."""
    fields = {str(name): str(value) for name, value in Decoder().decode(block)}
    return fields.get("grpc-status", "none")
