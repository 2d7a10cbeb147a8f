"""Under which names a gateway answers, and for whose pages.

A page of another site whose owner points its name at 127.0.0.1 (DNS rebinding) could read all answers: it is known
by that name in Host. What a page of another site sends without that is known by its Origin.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from grpc import StatusCode
from starlette.datastructures import Headers
from starlette.types import Scope

from saeserve.transport.target import this_machine
from saeserve.web.problems import Refused
from saeserve.web.settings import Settings


class Names:
    """Those of one gateway."""

    def __init__(self, settings: Settings) -> None:
        self._any_host = "*" in settings.allow_hosts
        self._hosts = {name.lower().rstrip(".") for name in (*settings.allow_hosts, settings.host)}
        self._any_origin = "*" in settings.allow_origins
        self._origins = frozenset(settings.allow_origins)
        self.known = lru_cache(maxsize=256)(self._known)

    def check(self, scope: Scope) -> None:
        """Raises Refused for another name, and for what a page of another site sends."""
        headers = Headers(scope=scope)
        given = headers.getlist("host")
        if len(given) != 1 or not self.known(given[0]):
            name = _name(given[0]) if given else ""
            raise Refused(
                f"this gateway does not answer under the name {name[:100]!r}: start it with --allow-host {name[:100]}"
                if name
                else "the request has no Host",
                code=StatusCode.PERMISSION_DENIED,
                reason="HOST_NOT_ALLOWED",
                http=421,
            )
        asks_first = scope["method"] == "OPTIONS" and "access-control-request-method" in headers
        if asks_first or scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._check_origin(headers, given[0])

    def _check_origin(self, headers: Headers, host: str) -> None:
        origin = headers.get("origin")
        if origin is None:
            foreign = headers.get("sec-fetch-site") == "cross-site" and not self._any_origin
        else:
            own = origin.lower().partition("://")[2] == host.lower()
            foreign = not (own or self._any_origin or origin.lower() in self._origins)
        if foreign:
            raise Refused(
                f"a page of {(origin or 'another site')[:100]} asks, which is not this gateway's own: start it with "
                "--allow-origin to let it",
                code=StatusCode.PERMISSION_DENIED,
                reason="ORIGIN_NOT_ALLOWED",
            )

    def _known(self, host: str) -> bool:
        name = _name(host)
        if self._any_host or name in self._hosts or this_machine(name) is not None:
            return True
        try:  # an address stands for itself: nobody can point it elsewhere
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _name(host: str) -> str:
    """Without the port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
