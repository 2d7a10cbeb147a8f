"""HTTP as uvicorn speaks it, and what it leaves open: callers who take their time, or too many connections."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from grpc import StatusCode
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from saeserve.web import problems
from saeserve.web.metrics import Metrics
from saeserve.web.problems import Refused, busy
from saeserve.web.settings import Settings

LONGEST_HEAD = 64 * 1024
"""Bytes of a request's head."""

_READ_ON = 5.0
"""Seconds for the rest of a body whose request was answered before."""


def protocol(settings: Settings, metrics: Metrics) -> type[asyncio.Protocol]:
    """The class of which each connection is one."""
    return type("Protocol", (_Protocol,), {"settings": settings, "metrics": metrics})


class _Protocol(HttpToolsProtocol):
    settings: Settings
    metrics: Metrics

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: asyncio.TimerHandle | None = None
        """Until when the head must be there, while it is not."""
        self._head_bytes = 0
        self._writing: asyncio.TimerHandle | None = None
        """Until when something of what was written must be taken."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.metrics.connections.set(len(self.connections))
        if len(self.connections) > self.settings.max_connections:
            self._end("connections", busy(f"this gateway has {self.settings.max_connections} connections"))
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.metrics.connections.set(len(self.connections))
        self._forget_head()
        self._forget_writing()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head is None or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > LONGEST_HEAD:
            said = f"the head of the request has more than {LONGEST_HEAD:,} bytes"
            self._end("head", Refused(said, reason="REQUEST_TOO_LARGE", http=431))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()

    def on_headers_complete(self) -> None:
        self._forget_head()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._forget_head()
        self._head_bytes = 0
        self._head = self.loop.call_later(self.settings.patience, self._slow)

    def _slow(self) -> None:
        self._head = None
        said = f"the head of the request did not arrive within {self.settings.patience:g} s"
        self._end("slow", Refused(said, code=StatusCode.DEADLINE_EXCEEDED, reason="SLOW_REQUEST", http=408))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self.settings.patience, self._unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_writing()

    def _unread(self) -> None:
        self._writing = None
        self.metrics.refused.labels("unread").inc()
        self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body:  # of a request that was refused: it may come for a while, and nobody reads it
            self.loop.call_later(_READ_ON, self.transport.close)

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's would wait for the last of an answer to be taken."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _end(self, why: str, error: Refused) -> None:
        """Say why, and close: there is no request that could be answered."""
        self.metrics.refused.labels(why).inc()
        self._forget_head()
        body = json.dumps(problems.body_of(error, "")).encode()
        head = f"HTTP/1.1 {problems.status_of(error)} \r\ncontent-type: application/json\r\nconnection: close\r\n"
        head += f"content-length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in problems.headers_of(error).items())
        self.transport.write(f"{head}\r\n".encode() + body)
        self.transport.close()

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _forget_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
