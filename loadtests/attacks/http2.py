"""A connection that speaks HTTP/2 as it likes: gRPC's own client always reads, and keeps to every limit."""

from __future__ import annotations

import asyncio
import base64
import ssl
import struct
from typing import Any

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from loadtests.attacks.ends import Ends, verdict_of_trailers
from loadtests.connect import PATIENCE, Server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65535
"""Bytes that may be sent before the peer says more, on each stream and on the connection."""
NO_LIMIT = 2**31


class Connection:
    """One connection; `ends` counts what becomes of its calls."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: Ends, read_window: int
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._ends = ends
        self._encoder, self._decoder = Encoder(), Decoder()
        self._stream = 1
        self._window = DEFAULT_WINDOW
        self._window_opened = asyncio.Event()
        self.open_streams: set[int] = set()
        self.limit = NO_LIMIT
        """Calls at a time that the server takes on this connection."""
        self.greeted = asyncio.Event()
        """Set once its limit is known."""
        self.closed = asyncio.Event()
        """Set once the server has hung up."""
        settings = {SettingsFrame.INITIAL_WINDOW_SIZE: read_window, SettingsFrame.ENABLE_PUSH: 0}
        writer.write(PREFACE + SettingsFrame(0, settings=settings).serialize())
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, server: Server, ends: Ends, read_window: int = DEFAULT_WINDOW) -> Connection:
        """Connected, and its limit known. With a window of 0 the server may send headers, and no byte of an answer."""
        host, _, port = server.target.rpartition(":")
        host = host.strip("[]")
        context = tls_context(server)
        name = (server.server_name or host) if context else None
        opening = asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
        reader, writer = await asyncio.wait_for(opening, PATIENCE)
        made = cls(reader, writer, ends, read_window)
        waits = [asyncio.create_task(made.greeted.wait()), asyncio.create_task(made.closed.wait())]
        await asyncio.wait(waits, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()
        return made

    async def call(self, path: str, message: bytes, headers: list[tuple[str, str | bytes]]) -> None:
        """Begins a call; its answer is not read. Waits where the server takes no more bytes; ConnectionError once it
        has hung up."""
        body = struct.pack(">BI", 0, len(message)) + message
        while self._window < len(body) and not self.closed.is_set():
            self._window_opened.clear()
            await asyncio.wait_for(self._window_opened.wait(), PATIENCE)
        if self.closed.is_set():
            raise ConnectionError
        self._window -= len(body)
        stream, self._stream = self._stream, self._stream + 2
        names = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "attack")]
        names += [("content-type", "application/grpc"), ("te", "trailers"), *((key, str(v)) for key, v in headers)]
        opening = HeadersFrame(stream, self._encoder.encode(names), flags=["END_HEADERS"])
        self._writer.write(opening.serialize() + DataFrame(stream, body, flags=["END_STREAM"]).serialize())
        self.open_streams.add(stream)
        self._ends.begin(len(message))
        await self._writer.drain()

    def hang_up(self) -> None:
        """At once, whatever is open."""
        self._reading.cancel()
        self._writer.transport.abort()

    async def _read(self) -> None:
        try:
            while True:
                frame, length = Frame.parse_frame_header(memoryview(await self._reader.readexactly(9)))
                frame.parse_body(memoryview(await self._reader.readexactly(length)))
                self._take(frame)
        except (OSError, asyncio.IncompleteReadError):
            self._end("the server closed the connection")

    def _take(self, frame: Any) -> None:
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.limit = frame.settings.get(SettingsFrame.MAX_CONCURRENT_STREAMS, self.limit)
            self._writer.write(SettingsFrame(0, flags=["ACK"]).serialize())
            self.greeted.set()
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self._writer.write(PingFrame(0, opaque_data=frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, WindowUpdateFrame) and frame.stream_id == 0:
            self._window += frame.window_increment
            self._window_opened.set()
        elif isinstance(frame, HeadersFrame):
            fields = {str(name): str(value) for name, value in self._decoder.decode(frame.data)}
            if "grpc-status" in fields:
                packed = fields.get("grpc-status-details-bin", "")
                details = base64.b64decode(packed + "=" * (-len(packed) % 4))
                self._ended(frame.stream_id, *verdict_of_trailers(int(fields["grpc-status"]), details))
        elif isinstance(frame, RstStreamFrame):
            self._ended(frame.stream_id, f"stream reset, HTTP/2 error {frame.error_code}")
        elif isinstance(frame, GoAwayFrame):
            self._end(f"connection ended, HTTP/2 error {frame.error_code}")

    def _ended(self, stream: int, verdict: str, delay: float | None = None) -> None:
        if stream in self.open_streams:
            self.open_streams.remove(stream)
            self._ends.add(verdict, delay)

    def _end(self, verdict: str) -> None:
        for stream in list(self.open_streams):
            self._ended(stream, verdict)
        self.closed.set()
        self._window_opened.set()


def tls_context(server: Server) -> ssl.SSLContext | None:
    """For the server, by Python's own TLS; None without."""
    if not (server.tls or server.ca_cert or server.client_cert or server.server_name):
        return None
    context = ssl.create_default_context(cafile=server.ca_cert)
    context.set_alpn_protocols(["h2"])
    if server.client_cert:
        context.load_cert_chain(server.client_cert, server.client_key)
    return context
