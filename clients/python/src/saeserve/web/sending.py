"""Answers on their way out: written and compressed at once where they are small, else piece by piece in a thread."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

from google.protobuf.message import Message
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from saeserve.answers import json_writer

SMALL = 96 * 1024
"""Bytes of a message up to which its JSON is written on the event loop, in a few milliseconds."""
WORTH_IT = 1024
"""Bytes of JSON from which on it is compressed."""
BLOCK = 256 * 1024
"""Characters of JSON that leave together."""
_LEVEL = 1
"""Of gzip: four fifths of what the best level saves, in a third of its time."""


class Answer(Response):
    """A message as the body of an answer."""

    media_type = "application/json"

    def __init__(self, message: Message) -> None:
        self._message = message
        super().__init__()
        del self.headers["content-length"]
        self.headers["vary"] = "Accept-Encoding"
        self.headers["cache-control"] = "no-store"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        zipped = accepts_gzip(Headers(scope=scope))
        if self._message.ByteSize() <= SMALL:
            body = json_writer.json_text(self._message).encode()
            if zipped and len(body) >= WORTH_IT:
                body = _compressed(body)
                self.headers["content-encoding"] = "gzip"
            self.headers["content-length"] = str(len(body))
            await self._begin(send)
            await send({"type": "http.response.body", "body": body})
            return
        if zipped:
            self.headers["content-encoding"] = "gzip"
        await self._begin(send)
        blocks = _blocks(self._message, zipped)
        gone = asyncio.ensure_future(receive())  # the body was read: what comes next is that the caller is gone
        try:
            while not gone.done() and (block := await asyncio.to_thread(next, blocks, None)) is not None:
                await send({"type": "http.response.body", "body": block, "more_body": True})
        finally:
            gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _begin(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


def accepts_gzip(headers: Headers) -> bool:
    """Whether the caller takes it."""
    for one in headers.get("accept-encoding", "").lower().split(","):
        name, _, quality = one.replace(" ", "").partition(";")
        if name in ("gzip", "*"):
            return quality not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _compressed(body: bytes) -> bytes:
    gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    return gzip.compress(body) + gzip.flush()


def _blocks(message: Message, zipped: bool) -> Iterator[bytes]:
    gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31) if zipped else None
    for block in _joined(json_writer.pieces(message)):
        data = block.encode()
        data = data if gzip is None else gzip.compress(data)
        if data:
            yield data
    if gzip is not None:
        yield gzip.flush()


def _joined(pieces: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= BLOCK:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)
