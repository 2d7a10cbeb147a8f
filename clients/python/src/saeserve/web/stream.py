"""POST /api/v1/encode-stream: items in a body, or line by line; answers as server-sent events while they come.

Events: `item`, part of an item's answer, an EncodeStreamResponse, or its `error` as other answers have it; `end`, when
all items are answered; `error`, when the stream failed. Memory is bounded by the window, not by the stream.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Receive, Scope, Send

from saeserve.answers import json_writer
from saeserve.calls.forwarded import StreamAnswer
from saeserve.transport.errors import SaeserveError, from_status
from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import parsing, problems
from saeserve.web.forwarding import asked
from saeserve.web.gateway import Gateway
from saeserve.web.items import BadItem, Items
from saeserve.web.sending import SMALL

PULSE = 15.0
"""Seconds without an event after which a comment is sent: proxies cut connections on which nothing happens."""
FIRST = 1.0
"""Seconds in which a stream that cannot begin is still answered with a status of its own."""
_AHEAD = 4
"""Answers that wait for a caller who reads slowly; then the server waits too."""

Event = StreamAnswer | Exception | None
"""What became of an item; why the stream failed, or an item is none; the end."""


class EncodeStream:
    """The endpoint, as ASGI has it: it reads while it writes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._gateway.place(stream=True):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = asked(scope, self._gateway.settings)
        events: asyncio.Queue[Event] = asyncio.Queue(_AHEAD)
        items = Items(scope, receive, self._gateway.settings)
        config = parsing.message(await items.config(), service.EncodeStreamConfig(), "config")

        async def work() -> None:
            try:
                async for answer in self._gateway.stream(head, config, items.read(events.put)):
                    await events.put(answer)
                await events.put(None)
            except Exception as error:  # noqa: BLE001 (whoever waits for events raises it)
                await events.put(error)

        tasks = [asyncio.ensure_future(work()), asyncio.ensure_future(items.gone(events.put))]
        try:
            await _Sender(send, head.request_id).run(events)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Sender:
    """Writes events."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._items = self._failed = 0

    async def run(self, events: asyncio.Queue[Event]) -> None:
        """Until the end. Raises SaeserveError while nothing is sent, ClientDisconnect once the caller is gone."""
        event = await _within(events, FIRST)
        if isinstance(event, SaeserveError) and not isinstance(event, BadItem):
            raise event
        await self._begin()
        while True:
            if isinstance(event, Exception) and not isinstance(event, SaeserveError):
                raise event
            if event is _NOTHING:
                await self._write(": \n\n")
            elif isinstance(event, BadItem):
                await self._refused(event.sequence, event)
            elif isinstance(event, StreamAnswer):
                await self._item(event)
            else:
                break
            event = await _within(events, PULSE)
        if isinstance(event, SaeserveError):
            said = json.dumps(problems.body_of(event, self._request_id), ensure_ascii=False)
            await self._write(f"event: error\ndata: {said}\n\n")
        else:
            await self._write(f'event: end\ndata: {{"items":{self._items},"failed":{self._failed}}}\n\n')
        await self._send({"type": "http.response.body", "body": b""})

    async def _item(self, answer: StreamAnswer) -> None:
        if answer.error is not None:
            await self._refused(answer.sequence, answer.error)
            return
        for message in answer.messages:
            if message.HasField("error"):
                await self._refused(answer.sequence, from_status(message.error, message.call_info.request_id))
                return
            write = "".join
            pieces = json_writer.pieces(message)
            data = await asyncio.to_thread(write, pieces) if message.ByteSize() > SMALL else write(pieces)
            await self._write(f"event: item\nid: {answer.sequence}\ndata: {data}\n\n")
        self._items += 1

    async def _refused(self, sequence: int, error: SaeserveError) -> None:
        self._items += 1
        self._failed += 1
        body = {"sequence": str(sequence)} | problems.body_of(error, self._request_id)
        await self._write(f"event: item\nid: {sequence}\ndata: {json.dumps(body, ensure_ascii=False)}\n\n")

    async def _begin(self) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # nginx would keep events until it has many
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self, text: str) -> None:
        body = text.encode("utf-8", "backslashreplace")
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


_NOTHING = object()


async def _within(events: asyncio.Queue[Any], seconds: float) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await events.get()
    except TimeoutError:
        return _NOTHING
