"""Around every request: its id, who may ask, what stands in every head, what is counted, and errors as JSON."""

from __future__ import annotations

import json
import logging
import time

from grpc import StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saeserve.transport.errors import SaeserveError
from saeserve.web import problems
from saeserve.web.forwarding import request_id
from saeserve.web.hosts import Names
from saeserve.web.metrics import Metrics
from saeserve.web.problems import Refused
from saeserve.web.settings import Settings

log = logging.getLogger("saeserve.web")

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
}
_RAW = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
GONE = 499
CLOSED_AFTER = (408, 413)
"""What may leave a body unread: nothing else is read from such a connection."""


class Guard:
    """ASGI middleware: the outermost. What it refuses itself no page of another origin may read."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._names = Names(settings)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        named = request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = named
        status = GONE

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_RAW, (b"x-request-id", named.encode())]
            await send(message)

        try:
            try:
                self._names.check(scope)
            except Refused as error:
                await refuse(error, named, guarded)
                return
            await self._app(scope, receive, guarded)
        except ClientDisconnect:
            status = GONE
        finally:
            self._metrics.answered(scope["path"], status, time.perf_counter() - began)


class Errors:
    """ASGI middleware: what is raised becomes an answer, which other middleware around it still sees."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # so that the router raises what it has no route for
        begun = False

        async def noticed(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        named = scope["state"]["request_id"]
        try:
            await self._app(scope, receive, noticed)
        except (ClientDisconnect, SaeserveError, HTTPException) as error:
            if begun or isinstance(error, ClientDisconnect):
                raise ClientDisconnect from error  # nothing can be said any more: the connection ends
            await refuse(error if isinstance(error, SaeserveError) else _of_router(error, scope), named, send)
        except Exception:
            # The one place where a text may show up in a log, as in that of the server: in what a fault says.
            log.error("request %s to %s failed", named, scope["path"], exc_info=True)
            if begun:
                raise ClientDisconnect from None
            fault = "a fault of the gateway; its log has the rest"
            await refuse(Refused(fault, code=StatusCode.INTERNAL, reason="INTERNAL"), named, send)


def _of_router(error: HTTPException, scope: Scope) -> Refused:
    """No such path, or another method."""
    asked = f"{scope['method']} {scope['path'][:200]}"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        said = f"{asked}: this path takes {allowed}"
        return Refused(said, code=StatusCode.UNIMPLEMENTED, reason="METHOD_NOT_ALLOWED", http=405)
    said = f"{asked}: there is no such path; /docs lists what there is"
    return Refused(said, code=StatusCode.NOT_FOUND, reason="PATH_NOT_FOUND", http=error.status_code)


async def refuse(error: SaeserveError, named: str, send: Send) -> None:
    """Send an error as the whole answer."""
    status = problems.status_of(error)
    body = json.dumps(problems.body_of(error, named), ensure_ascii=False).encode("utf-8", "backslashreplace")
    headers = MutableHeaders(problems.headers_of(error))
    headers["content-type"] = "application/json"
    headers["content-length"] = str(len(body))
    headers["cache-control"] = "no-store"
    if status in CLOSED_AFTER:
        headers["connection"] = "close"
    await send({"type": "http.response.start", "status": status, "headers": headers.raw})
    await send({"type": "http.response.body", "body": body})
