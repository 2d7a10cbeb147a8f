"""Which path is answered by what."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from saeserve.web import calls
from saeserve.web.gateway import Gateway
from saeserve.web.guard import Guard
from saeserve.web.page import Page


def build(gateway: Gateway) -> ASGIApp:
    """The ASGI application."""
    routes = [
        Route(calls.path_of(name), calls.unary(gateway, name), methods=["POST"])
        for name, rpc in calls.RPCS.items()
        if not rpc.client_streaming
    ]
    routes += [
        Route(calls.path_of("Contrast"), calls.contrast(gateway), methods=["POST"]),
        Route("/healthz", _alive),
    ]
    # No Starlette around it: its own middleware would answer errors, and log them with the texts that they quote.
    return Guard(Router(routes, redirect_slashes=False, default=Page()), gateway.settings)


async def _alive(request: Request) -> Response:
    return PlainTextResponse("ok\n")
