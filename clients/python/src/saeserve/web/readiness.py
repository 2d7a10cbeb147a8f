"""/readyz: whether a server behind the gateway answers, asked at most once a second whoever asks here."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from saeserve.transport.errors import SaeserveError, Unauthenticated
from saeserve.v1 import feature_service_pb2 as service
from saeserve.web import problems
from saeserve.web.gateway import AT_ONCE, Gateway, over_http

FRESH = 1.0
"""Seconds for which an answer is given again."""
PATIENCE = 2.0
"""Seconds in which a server that is ready answers."""


class Readiness:
    """The endpoint."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._asking: asyncio.Task[SaeserveError | None] | None = None
        self._until = 0.0

    async def __call__(self, request: Request) -> Response:
        """200, or 503 with the reason."""
        error = await self.error()
        if error is None:
            return JSONResponse({"ready": True})
        named = request.scope["state"]["request_id"]
        said: dict[str, Any] = {"ready": False} | problems.body_of(error, named)
        said["error"]["code"] = 503
        return JSONResponse(said, 503, headers={"retry-after": "1", "cache-control": "no-store"})

    async def error(self) -> SaeserveError | None:
        """Why no server answers; None where one does."""
        if self._asking is None or (self._asking.done() and time.monotonic() >= self._until):
            self._asking = asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> SaeserveError | None:
        try:
            with over_http():
                await self._gateway.client.call(
                    "GetServerInfo",
                    service.GetServerInfoRequest(),
                    at_once=(*AT_ONCE, "DRAINING"),
                    timeout=PATIENCE,
                )
        except Unauthenticated:
            return None  # it answers; whoever asks has to bring a token
        except SaeserveError as error:
            return error
        finally:
            self._until = time.monotonic() + FRESH
        return None
