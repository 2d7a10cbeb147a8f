"""Bodies as they arrive: bounded in size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from saeserve.web.problems import Refused
from saeserve.web.settings import Settings


async def whole(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """The body. Raises Refused (413, 408) and ClientDisconnect."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > settings.max_body:
            raise too_large(settings.max_body)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout):
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(event.get("body", b""))
                size += len(parts[-1])
                if size > settings.max_body:
                    raise too_large(settings.max_body)
                if not event.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise Refused(
            f"the body did not arrive within {settings.body_timeout:g} s", reason="SLOW_REQUEST", http=408
        ) from None


def too_large(most: int) -> Refused:
    """Of a body, or a line of one."""
    return Refused(
        f"the body has more than {most:,} bytes, which is what this gateway takes; send less at a time, or stream "
        "lines to /api/v1/encode-stream",
        reason="REQUEST_TOO_LARGE",
        http=413,
    )
