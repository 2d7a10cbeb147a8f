"""One gateway: the client that it asks by, and the way of one RPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from saeserve.aio import AsyncClient
from saeserve.calls.forwarded import StreamAnswer
from saeserve.transport.attempts import LOADING
from saeserve.transport.errors import SaeserveError
from saeserve.v1 import feature_service_pb2 as service
from saeserve.web.forwarding import Asked
from saeserve.web.metrics import Metrics
from saeserve.web.problems import Refused, busy
from saeserve.web.settings import Settings

T = TypeVar("T")

AT_ONCE = ("CONNECTION_REFUSED", "TARGET_NOT_FOUND", "SOCKET_MISSING", "HOST_UNREACHABLE", "LOADING")
"""Reasons that waiting a second does not mend: whoever asks is told, and when to come again."""


class Gateway:
    """What every request shares."""

    def __init__(self, client: AsyncClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.metrics = Metrics()
        self._requests = 0
        self._streams = 0

    @contextmanager
    def place(self, stream: bool = False) -> Iterator[None]:
        """A place among the calls that are answered. Raises Refused where none is left."""
        if self._requests >= self.settings.max_requests:
            raise busy(f"this gateway answers {self._requests} calls, as many as it may")
        if stream and self._streams >= self.settings.max_streams:
            raise busy(f"this gateway answers {self._streams} streams, as many as it may")
        self._count(1, stream)
        try:
            yield
        finally:
            self._count(-1, stream)

    def _count(self, change: int, stream: bool) -> None:
        self._requests += change
        self._streams += change * stream
        self.metrics.in_flight.set(self._requests)
        self.metrics.streams.set(self._streams)

    async def ask(self, asked: Asked, method: str, message: Message | Sequence[Message]) -> Any:
        """The answer to an RPC, as a message. Raises SaeserveError."""
        with over_http():
            return await self.client.call(
                method,
                message,
                token=asked.token,
                at_once=AT_ONCE,
                timeout=asked.timeout,
                metadata=asked.metadata,
                request_id=asked.request_id,
            )

    async def stream(
        self,
        asked: Asked,
        config: service.EncodeStreamConfig,
        items: AsyncIterator[service.EncodeStreamItem],
    ) -> AsyncGenerator[StreamAnswer, None]:
        """The answers to items, in any order. Raises SaeserveError, and what `items` raises."""
        with over_http():
            answers = self.client.call_stream(
                config,
                items,
                token=asked.token,
                at_once=AT_ONCE,
                timeout=asked.timeout,
                metadata=asked.metadata,
                request_id=asked.request_id,
            )
            async with aclosing(answers):
                async for answer in answers:
                    yield answer


@contextmanager
def over_http() -> Iterator[None]:
    """What the client raises, in words for who asks by HTTP.

    Raises Refused for the one thing that is left to refuse in a request's head: a token that could be read on the way.
    """
    try:
        yield
    except SaeserveError as error:
        if error.reason == "LOADING":
            error.message = error.message.removesuffix(LOADING) + "; GET /readyz says when it has loaded"
        raise
    except ValueError as error:
        raise Refused(f"Authorization cannot be handed on: {error}", reason="INSECURE_TOKEN") from error


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result, unless the caller goes away: then the work is cancelled, and ClientDisconnect raised.

    The body must have been read: what `receive` gives next is that the caller is gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
