"""Pages of other sites that may ask (CORS): what their browsers are told."""

from __future__ import annotations

import json

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from saeserve.web.problems import Refused, body_of

METHODS = ("GET", "POST")
HEADS = ("authorization", "content-type", "x-request-id", "x-saeserve-client", "x-saeserve-timeout")


class OtherPages(CORSMiddleware):
    """ASGI middleware. `origins` as browsers write them; pages of others were refused before."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=HEADS,
            expose_headers=["retry-after", "x-request-id"],
            max_age=600,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """As of CORSMiddleware; a refusal says what may be asked, in the shape of all errors."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        said = f"pages of other sites may ask by {' and '.join(METHODS)} with the heads {', '.join(HEADS)} alone"
        body = json.dumps(body_of(Refused(said, reason="ORIGIN_NOT_ALLOWED"), "")).encode()
        kept = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        return Response(body, answer.status_code, kept, "application/json")
