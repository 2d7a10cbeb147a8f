"""Around every request: its id, who may ask, what stands in every head, and errors as JSON."""

from __future__ import annotations

import json
import logging

from grpc import StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saeserve.transport.errors import SaeserveError
from saeserve.web import problems
from saeserve.web.forwarding import request_id
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


class Guard:
    """ASGI middleware: the outermost."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # so that the router raises what it has no route for
        named = request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = named
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = named
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        except ClientDisconnect:
            return
        except SaeserveError as error:
            await _refuse(error, named, guarded)
        except HTTPException as error:
            await _refuse(_of_router(error, scope), named, guarded)
        except Exception:
            log.exception("request %s failed", named)
            if begun:
                raise
            fault = SaeserveError(
                "a fault of the gateway; its log has the rest", code=StatusCode.INTERNAL, reason="INTERNAL"
            )
            await _refuse(fault, named, guarded)


def _of_router(error: HTTPException, scope: Scope) -> Refused:
    """No such path, or another method."""
    asked = f"{scope['method']} {scope['path']}"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        said = f"{asked}: this path takes {allowed}"
        return Refused(said, code=StatusCode.UNIMPLEMENTED, reason="METHOD_NOT_ALLOWED", http=405)
    said = f"{asked}: there is no such path; /docs lists what there is"
    return Refused(said, code=StatusCode.NOT_FOUND, reason="PATH_NOT_FOUND", http=error.status_code)


async def _refuse(error: SaeserveError, named: str, send: Send) -> None:
    body = json.dumps(problems.body_of(error, named), ensure_ascii=False).encode("utf-8", "backslashreplace")
    headers = {"content-type": "application/json", "content-length": str(len(body)), "cache-control": "no-store"}
    headers |= problems.headers_of(error)
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problems.status_of(error), "headers": raw})
    await send({"type": "http.response.body", "body": body})
