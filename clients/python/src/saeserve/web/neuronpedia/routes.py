"""The paths of Neuronpedia's calls, who may ask, and errors as its web app reads them."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import zlib
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

from grpc import StatusCode
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from saeserve.transport.errors import SaeserveError
from saeserve.web import bodies, parsing, problems
from saeserve.web.forwarding import asked
from saeserve.web.gateway import Gateway, while_there
from saeserve.web.guard import CLOSED_AFTER
from saeserve.web.neuronpedia import answers, calls
from saeserve.web.neuronpedia.options import Options
from saeserve.web.neuronpedia.requests import Unprocessable, Wrong, read, unreadable
from saeserve.web.neuronpedia.served import Knowing
from saeserve.web.problems import Refused
from saeserve.web.readiness import Readiness
from saeserve.web.sending import WORTH_IT, accepts_gzip

log = logging.getLogger("saeserve.web")

PREFIX = "/v1/"
ANY = ("GET", "POST", "PUT", "PATCH", "DELETE")
_BAD = (
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.FAILED_PRECONDITION,
    StatusCode.OUT_OF_RANGE,
)
_WITH_HEADS = (401, 503)
_BUSY = (StatusCode.RESOURCE_EXHAUSTED, StatusCode.DEADLINE_EXCEEDED)

Answering = Callable[[Request, ExitStack], Awaitable[Any]]
"""What is entered on the stack ends when the answer has left."""


def routes(gateway: Gateway, options: Options) -> list[BaseRoute]:
    """All of them: `/v1/…` and `/health`."""
    knowing, readiness = Knowing(gateway), Readiness(gateway)

    def answering(name: str) -> Answering:
        async def answer(request: Request, held: ExitStack) -> Any:
            head = asked(request.scope, gateway.settings)
            held.enter_context(gateway.place())
            data = await bodies.whole(request.scope, request.receive, gateway.settings)
            work = _answer(name, data, lambda: knowing.served(head), gateway, head, options)
            return await while_there(request.receive, work)

        return answer

    async def capabilities(request: Request, held: ExitStack) -> Any:
        served = await knowing.served(asked(request.scope, gateway.settings))
        return calls.capabilities(served, options.token_limit)

    async def health(request: Request, held: ExitStack) -> Any:
        if (error := await readiness.error()) is not None:
            raise error
        return {"status": "healthy"}

    async def unknown(request: Request, held: ExitStack) -> Any:
        raise NoSuchCall

    found: list[BaseRoute] = [
        Route(PREFIX + name, _Endpoint(answering(name), options), methods=["POST"]) for name in calls.CALLS
    ]
    found.append(Route(f"{PREFIX}capabilities", _Endpoint(capabilities, options, renamed=False), methods=["GET"]))
    found.append(Route("/health", _Endpoint(health, Options()), methods=["GET"]))
    found.append(Route(PREFIX + "{rest:path}", _Endpoint(unknown, options), methods=ANY))
    return found


class NoSuchCall(Exception):
    """Of Neuronpedia's calls, one that is not answered here: 404."""


async def _answer(
    name: str, data: bytes, served: Callable[[], Awaitable[Any]], gateway: Gateway, head: Any, options: Options
) -> Any:
    known = await served()  # first: while there is no server every call says so, whatever it holds
    try:
        fields = read(name, parsing.parsed(data))
    except Refused as error:
        raise unreadable(error.message) from error
    return await calls.CALLS[name](calls.Call(gateway, head, known, options.token_limit), fields)


class _Endpoint:
    """As ASGI has it. It answers errors itself, in the shape of Neuronpedia's."""

    def __init__(self, answer: Answering, options: Options, *, renamed: bool = True) -> None:
        self._answer = answer
        self._options = options
        self._snake = renamed and options.snake_case

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        with ExitStack() as held:
            response = await self._response(request, held)
            await response(scope, receive, send)

    async def _response(self, request: Request, held: ExitStack) -> Response:
        zipped = accepts_gzip(request.headers)
        if not _has_secret(request.headers, self._options.secret):
            return _json({"error": "Invalid or missing X-SECRET-KEY header"}, 401, zipped)
        try:
            found = await self._answer(request, held)
            found = answers.snake(found) if self._snake else found
            return await asyncio.to_thread(_json, found, 200, zipped)
        except ClientDisconnect:
            raise
        except NoSuchCall:
            return _json({"detail": "Not Found"}, 404, zipped)
        except Unprocessable as error:
            return _json({"detail": error.details}, 422, zipped)
        except Wrong as error:
            return _json({"error": str(error)}, 400, zipped)
        except SaeserveError as error:
            status, said = _refused(error)
            headers = problems.headers_of(error) if status in _WITH_HEADS else {}
            if status in CLOSED_AFTER:
                headers["connection"] = "close"
            return _json(said, status, zipped, headers)
        except Exception as error:
            log.exception("request %s failed", request.scope["state"]["request_id"])
            return _json(_fault("a fault of the gateway; its log has the rest", type(error).__name__), 500, zipped)


def _refused(error: SaeserveError) -> tuple[int, dict[str, Any]]:
    """Status and body of what the server, or the gateway itself, refuses."""
    if isinstance(error, Refused):
        return problems.status_of(error), {"error": error.message}
    if error.code in _BAD:
        return 400, {"error": error.message}
    if error.code in _BUSY or error.reason == "OUT_OF_MEMORY":
        return 503, {"error": error.message}
    if error.code is StatusCode.UNAVAILABLE:
        return 500, _fault(f"Server not initialized. {error.message}", error.reason or "Unavailable")
    return 500, _fault(error.message, error.reason or type(error).__name__)


def _fault(message: str, kind: str) -> dict[str, Any]:
    return {"error": message, "type": kind, "traceback": None}


def _has_secret(headers: Headers, secret: str | None) -> bool:
    given = headers.get("x-secret-key", "")
    return secret is None or hmac.compare_digest(given.encode(), secret.encode())


def _json(body: Any, status: int, zipped: bool, headers: dict[str, str] | None = None) -> Response:
    data = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
    more = {"vary": "Accept-Encoding", "cache-control": "no-store"} | (headers or {})
    if zipped and len(data) >= WORTH_IT:
        compress = zlib.compressobj(1, zlib.DEFLATED, 31)
        data = compress.compress(data) + compress.flush()
        more["content-encoding"] = "gzip"
    return Response(data, status, more, "application/json")
