"""HTTP as uvicorn speaks it, and what it leaves open: callers who take their time, or too many connections."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from saeserve.web import problems
from saeserve.web.metrics import Metrics
from saeserve.web.problems import Refused, busy
from saeserve.web.settings import Settings

LONGEST_HEAD = 64 * 1024
"""Bytes of a request's head."""

_READ_ON = 5.0
"""Seconds for the rest of a body whose request was answered before."""
_AT_A_TIME = 16 * 1024
"""Bytes that are read between two looks at how long a head has become."""
_TAKEN = 16 * 1024
"""Bytes of an answer that a caller takes at least in each turn of the patience."""


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
        self._unwritten = 0
        """Bytes that waited for the caller when that began."""
        self._reading_on: asyncio.TimerHandle | None = None
        """Until when the rest of a body must be there whose request is answered."""
        self._deaf = False
        """Whether nothing is read any more: what is being answered gets out, then the connection ends."""

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
        self._forget_rest()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _AT_A_TIME):
            if self._deaf or self.transport.is_closing():
                return
            part = data[start : start + _AT_A_TIME]
            head = self._head
            super().data_received(part)
            # Of the part in which it begins nothing counts: the end of another body may be in it.
            if head is not None and self._head is head:
                self._head_bytes += len(part)
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
        self._end("slow", Refused(said, reason="SLOW_REQUEST", http=408))

    def on_message_complete(self) -> None:
        self._forget_rest()
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_writing()

    def _await_taking(self) -> None:
        self._forget_writing()
        self._unwritten = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self.settings.patience, self._look_at_taking)

    def _look_at_taking(self) -> None:
        """Who takes little by little is waited for: one write may be megabytes."""
        self._writing = None
        left = self.transport.get_write_buffer_size()
        if left > max(0, self._unwritten - _TAKEN):
            self.metrics.refused.labels("unread").inc()
            self.transport.abort()
        elif left:
            self._await_taking()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Of a request that was refused the body may come for a while, and nobody reads it. (With requests that were
        # sent ahead the cycle is the last of them, not the one that is complete.)
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._forget_rest()
            self._reading_on = self.loop.call_later(_READ_ON, self.transport.close)

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's would not wait for the last of an answer to be taken."""
        if not self.transport.get_write_buffer_size():
            super().timeout_keep_alive_handler()
            return
        if self._writing is None:
            self._await_taking()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _end(self, why: str, error: Refused) -> None:
        """Say why, and close: there is no request that could be answered."""
        self.metrics.refused.labels(why).inc()
        self._forget_head()
        before: Any = self.cycle
        if before is not None and not before.response_complete:  # that request is being answered: nothing in between
            self._deaf = True
            before.keep_alive = False
            return
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

    def _forget_rest(self) -> None:
        if self._reading_on is not None:
            self._reading_on.cancel()
            self._reading_on = None
