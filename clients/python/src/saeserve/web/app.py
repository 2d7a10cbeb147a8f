"""Which path is answered by what."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from saeserve.web import calls, docs, metrics, openapi
from saeserve.web.cors import OtherPages
from saeserve.web.forwarding import scheme
from saeserve.web.gateway import Gateway
from saeserve.web.guard import Errors, Guard
from saeserve.web.neuronpedia import routes as neuronpedia
from saeserve.web.page import Page
from saeserve.web.readiness import Readiness
from saeserve.web.stream import EncodeStream


def build(gateway: Gateway) -> ASGIApp:
    """The ASGI application."""
    routes = [*_calls(gateway), *_about(gateway)]
    if (options := gateway.settings.options.get("neuronpedia")) is not None:
        routes += neuronpedia.routes(gateway, options)
    gateway.metrics.paths.update(route.path for route in routes if isinstance(route, Route))
    # No Starlette around it: its own middleware would answer errors, and log them with the texts that they quote.
    app: ASGIApp = Errors(Router(routes, redirect_slashes=False, default=Page()))
    if gateway.settings.allow_origins:
        app = OtherPages(app, gateway.settings.allow_origins)
    return Guard(app, gateway.settings, gateway.metrics)


def _calls(gateway: Gateway) -> list[BaseRoute]:
    """The RPCs."""
    routes: list[BaseRoute] = [
        Route(calls.path_of(name), calls.Unary(gateway, name), methods=["POST"])
        for name, rpc in calls.RPCS.items()
        if not rpc.client_streaming
    ]
    routes.append(Route(calls.path_of("Contrast"), calls.Contrast(gateway), methods=["POST"]))
    routes.append(Route(calls.path_of("EncodeStream"), EncodeStream(gateway), methods=["POST"]))
    return routes


def _about(gateway: Gateway) -> list[BaseRoute]:
    """What is asked of the gateway itself."""

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def counted(request: Request) -> Response:
        return Response(gateway.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def explained(request: Request) -> Response:
        return HTMLResponse(docs.page(f"{scheme(request.scope, gateway.settings)}://{request.url.netloc}"))

    async def described(request: Request) -> Response:
        return Response(_openapi(), media_type="application/json")

    async def styled(request: Request) -> Response:
        return Response(_css(), media_type="text/css")

    return [
        Route("/docs", explained),
        Route("/docs.css", styled),
        Route("/openapi.json", described),
        Route("/healthz", healthz),
        Route("/readyz", Readiness(gateway).__call__),
        Route("/metrics", counted),
    ]


@cache
def _openapi() -> bytes:
    return json.dumps(openapi.document(), ensure_ascii=False, separators=(",", ":")).encode()


@cache
def _css() -> bytes:
    return Path(__file__).with_name("docs.css").read_bytes()
