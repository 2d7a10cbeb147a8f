"""Bodies as they arrive: bounded in size and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from saeserve.web.problems import Refused
from saeserve.web.settings import Settings

_READ_ON = 4
"""Bodies up to so many times too large are taken to their end: else their caller would write into a closed connection,
and never read why."""


async def whole(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """The body. Raises Refused (413, 408) and ClientDisconnect."""
    most = settings.max_body
    told = _told(scope)
    if told > most and (told > _READ_ON * most or _waits(scope)):
        raise too_large(most)
    parts: list[bytes] = []
    size = 0
    async for part in parts_of(receive, settings):
        size += len(part)
        if size > _READ_ON * most:
            raise too_large(most)
        if size <= most:
            parts.append(part)
    if size > most:
        raise too_large(most)
    return b"".join(parts)


async def parts_of(receive: Receive, settings: Settings) -> AsyncIterator[bytes]:
    """The parts of a body, each of which arrives within the patience, and 64 KiB with each turn of it."""
    loop = asyncio.get_running_loop()
    begun, size = loop.time(), 0
    while True:
        event = await _next(receive, settings)
        part = event.get("body", b"")
        yield part
        if not event.get("more_body", False):
            return
        size += len(part)
        if size < 65_536 and loop.time() - begun > settings.patience:
            raise too_slow(settings)
        if size >= 65_536:
            begun, size = loop.time(), 0


async def _next(receive: Receive, settings: Settings) -> Message:
    """What arrives next of a body, within the patience. Raises Refused (408) and ClientDisconnect."""
    try:
        async with asyncio.timeout(settings.patience):
            event = await receive()
    except TimeoutError:
        raise too_slow(settings) from None
    if event["type"] == "http.disconnect":
        raise ClientDisconnect
    return event


async def lines(receive: Receive, settings: Settings) -> AsyncIterator[bytes]:
    """The lines of a body that are not blank, as they arrive. Raises Refused for one that is too long."""
    rest = bytearray()
    while True:
        event = await _next(receive, settings)
        searched = len(rest)
        rest += event.get("body", b"")
        end = rest.find(b"\n", searched)
        if end >= 0:
            *ended, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in ended:
                if len(line) > settings.max_body:
                    raise too_large(settings.max_body, "a line of the body")
                if line.strip():
                    yield line
        if len(rest) > settings.max_body:
            raise too_large(settings.max_body, "a line of the body")
        if not event.get("more_body", False):
            if rest.strip():
                yield bytes(rest)
            return


def too_large(most: int, what: str = "the body") -> Refused:
    """Of a body, or a line of one."""
    return Refused(
        f"{what} has more than {most:,} bytes, which is what this gateway takes: send less at a time, or lines to "
        "/api/v1/encode-stream",
        reason="REQUEST_TOO_LARGE",
        http=413,
    )


def too_slow(settings: Settings) -> Refused:
    """Of a body that does not come."""
    return Refused(f"the body did not arrive within {settings.patience:g} s", reason="SLOW_REQUEST", http=408)


def _told(scope: Scope) -> int:
    """Bytes that the head tells of; 0 where it does not."""
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0


def _waits(scope: Scope) -> bool:
    """Whether the caller sends his body when he is told to."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])
