"""What a request's head says of the call: who asks, with which token, for how long, by which id."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from grpc import StatusCode
from starlette.datastructures import Headers
from starlette.types import Scope

from saeserve.transport.connection import CLIENT_KEY, LONGEST_CLIENT
from saeserve.web.problems import Refused
from saeserve.web.settings import Settings

LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """Of one request."""

    request_id: str
    client: str
    """Callers take turns by it."""
    token: str | None
    """The caller's own."""
    timeout: float

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Beside what the client sends."""
        return ((CLIENT_KEY, self.client),)


def asked(scope: Scope, settings: Settings) -> Asked:
    """Read the head. Raises Refused for what cannot be handed on."""
    headers = Headers(scope=scope)
    return Asked(
        request_id=scope["state"]["request_id"],
        client=_client(headers, scope, settings),
        token=_token(headers),
        timeout=_timeout(headers, settings),
    )


def request_id(headers: Headers) -> str:
    """The caller's, if it can be one; else one made here, as the server would."""
    given = headers.get("x-request-id", "")
    fits = 0 < len(given) <= LONGEST_ID and given.isascii() and given.isprintable()
    return given if fits else os.urandom(16).hex()


def peer(scope: Scope, settings: Settings) -> str:
    """The caller's address; behind a proxy that is trusted the one that it says."""
    if settings.trust_proxy:
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).rpartition(",")[2].strip()
        if forwarded:
            return forwarded
    client = scope.get("client")
    return str(client[0]) if client else "local"


def scheme(scope: Scope, settings: Settings) -> str:
    """`http` or `https`, as the caller wrote it; behind a proxy that is trusted as that says."""
    if settings.trust_proxy:
        forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-proto")).rpartition(",")[2].strip().lower()
        if forwarded in ("http", "https"):
            return forwarded
    return str(scope["scheme"])


def _client(headers: Headers, scope: Scope, settings: Settings) -> str:
    named = headers.get("x-saeserve-client")
    if named:
        if len(named) > LONGEST_CLIENT or not named.isascii() or not named.isprintable():
            raise Refused(
                f"X-Saeserve-Client is not of at most {LONGEST_CLIENT} printable ASCII characters",
                reason="INVALID_REQUEST",
            )
        return named
    address = f"{settings.client_name} {peer(scope, settings)}"
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in address)[:LONGEST_CLIENT]


def _token(headers: Headers) -> str | None:
    given = headers.getlist("authorization")
    if not given:
        return None
    scheme, _, token = given[0].strip().partition(" ")
    token = token.strip()
    if len(given) > 1 or scheme.lower() != "bearer" or not token or not token.isascii() or not token.isprintable():
        raise Refused(
            "Authorization is not `Bearer TOKEN`, once",
            code=StatusCode.UNAUTHENTICATED,
            reason="UNAUTHENTICATED",
        )
    if " " in token:
        raise Refused("the token is not one word", code=StatusCode.UNAUTHENTICATED, reason="UNAUTHENTICATED")
    return token


def _timeout(headers: Headers, settings: Settings) -> float:
    given = headers.get("x-saeserve-timeout")
    if given is None:
        return settings.timeout
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value <= settings.max_timeout:
        raise Refused(
            f"X-Saeserve-Timeout is no number of seconds above 0 and at most {settings.max_timeout:g}",
            reason="INVALID_REQUEST",
        )
    return value
