"""One gateway: the client that it asks by, and the way of one RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from saeserve.aio import AsyncClient
from saeserve.web.forwarding import Asked
from saeserve.web.problems import Refused
from saeserve.web.settings import Settings

T = TypeVar("T")

AT_ONCE = ("CONNECTION_REFUSED", "TARGET_NOT_FOUND", "SOCKET_MISSING", "HOST_UNREACHABLE", "LOADING")
"""Reasons that waiting a second does not mend: whoever asks is told, and when to come again."""


class Gateway:
    """What every request shares."""

    def __init__(self, client: AsyncClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings

    async def ask(self, asked: Asked, method: str, message: Message | Sequence[Message]) -> Any:
        """The answer to an RPC, as a message. Raises SaeserveError."""
        try:
            return await self.client.call(
                method,
                message,
                token=asked.token,
                at_once=AT_ONCE,
                timeout=asked.timeout,
                metadata=asked.metadata,
                request_id=asked.request_id,
            )
        except ValueError as error:  # the one thing that is left to refuse here: a token that could be read on the way
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
