"""Messages of a stream as they come, until the caller has no more or the server is going away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from saeserve_server.errors import Aborted, Unavailable

T = TypeVar("T")


async def within(seconds: float, requests: AsyncIterator[T], draining: asyncio.Event) -> T | None:
    """The next message, as `following`. Raises Aborted if none comes for so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await following(requests, draining)
    except TimeoutError:
        raise Aborted(f"nothing came for {seconds:g} s (stall_timeout)", reason="STALLED") from None


async def following(requests: AsyncIterator[T], draining: asyncio.Event) -> T | None:
    """The next message; None at the caller's end. Raises Unavailable once the server is draining."""
    request = asyncio.ensure_future(anext(requests, None))
    leaving = asyncio.ensure_future(draining.wait())
    try:
        await asyncio.wait({request, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if request.done():
            return request.result()
        raise Unavailable("the server is going away; what was accepted is answered", reason="DRAINING", retry_after=1)
    finally:
        request.cancel()
        leaving.cancel()
