"""The HTTP port for those who watch the server: `/metrics` for Prometheus, `/livez` and `/readyz` for HTTP probes.

It is answered in the event loop, so that `/livez` says that this one runs, and bounded in all that a caller can spend:
connections, bytes and seconds of each, and how often the metrics are gathered. Whoever connects and says nothing makes
way for whoever comes after, so that a probe gets through between any number of silent connections.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry, make_wsgi_app

from saeserve_server.addresses import host_and_port

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 8
"""That have not asked yet, and as many that are being answered."""
CONNECTION_SECONDS = 5.0
"""Within which a connection has asked and has its answer, or is cut."""
REQUEST_BYTES = 8192
GAP_SECONDS = 0.02
"""Least time between two gatherings of the metrics, which take the event loop a millisecond or two."""

Answer = tuple[HTTPStatus, list[tuple[str, str]], bytes]


class WatchPort:
    """The port, once `listen` has been called."""

    def __init__(self, registry: CollectorRegistry, is_ready: Callable[[], bool]) -> None:
        self._metrics = make_wsgi_app(registry)
        self._is_ready = is_ready
        self._server: asyncio.Server | None = None
        self._asking: dict[asyncio.WriteTransport, None] = {}
        self._answering: set[asyncio.WriteTransport] = set()
        self._gathering = asyncio.Lock()
        self._gathered = 0.0

    async def listen(self, address: str) -> int:
        """Listens on a checked HOST:PORT; returns the port. Raises OSError."""
        host, port = host_and_port(address)
        family, _, _, _, place = (await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        both = family == socket.AF_INET6 and place[0] == "::" and socket.has_dualstack_ipv6()
        listening = socket.create_server(
            (place[0], place[1]), family=family, backlog=MOST_CONNECTIONS, dualstack_ipv6=both
        )
        self._server = await asyncio.start_server(
            self._serve, sock=listening, limit=REQUEST_BYTES, backlog=MOST_CONNECTIONS
        )
        bound: int = listening.getsockname()[1]
        return bound

    def close(self) -> None:
        """Stops listening and cuts all connections."""
        if self._server is not None:
            self._server.close()
        for transport in (*self._asking, *self._answering):
            transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        transport.set_write_buffer_limits(high=0)  # so that `drain` waits until all is written
        self._asking[transport] = None
        if len(self._asking) > MOST_CONNECTIONS:
            oldest = next(iter(self._asking))
            del self._asking[oldest]
            oldest.abort()
        try:
            async with asyncio.timeout(CONNECTION_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                self._asking.pop(transport, None)
                self._answering.add(transport)
                writer.write(await self._answer(head))
                await writer.drain()
                writer.close()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            transport.abort()
        finally:
            self._asking.pop(transport, None)
            self._answering.discard(transport)

    async def _answer(self, head: bytes) -> bytes:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            status, headers, body = _say(HTTPStatus.BAD_REQUEST, "expected a request of HTTP/1.1")
        elif method not in ("GET", "HEAD"):
            status, headers, body = _say(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only")
            headers.append(("Allow", "GET, HEAD"))
        else:
            status, headers, body = await self._found(target, lines)
        headers += [("Content-Length", str(len(body))), ("Cache-Control", "no-store"), ("Connection", "close")]
        top = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(top).encode("latin-1") + (b"" if method == "HEAD" else body)

    async def _found(self, target: str, lines: list[str]) -> Answer:
        path, _, query = target.partition("?")
        match path:
            case "/livez":
                return _say(HTTPStatus.OK, "alive")
            case "/readyz" if self._is_ready():
                return _say(HTTPStatus.OK, "ready")
            case "/readyz":
                return _say(HTTPStatus.SERVICE_UNAVAILABLE, "not ready: loading or draining")
            case "/metrics" if len(self._answering) <= MOST_CONNECTIONS:
                async with self._gathering:
                    await asyncio.sleep(self._gathered + GAP_SECONDS - time.monotonic())
                    self._gathered = time.monotonic()
                    return self._gather(query, lines)
            case "/metrics":
                return _say(HTTPStatus.SERVICE_UNAVAILABLE, "too many ask")
        return _say(HTTPStatus.NOT_FOUND, "there are /metrics, /livez and /readyz")

    def _gather(self, query: str, lines: list[str]) -> Answer:
        """The page in the form that the headers ask for, as Prometheus' own library makes it."""
        environment = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "QUERY_STRING": query}
        for line in lines:
            name, _, value = line.partition(":")
            environment["HTTP_" + name.strip().upper().replace("-", "_")] = value.strip()
        headers: list[tuple[str, str]] = []
        try:
            body = b"".join(self._metrics(environment, lambda _, given: headers.extend(given)))
        except Exception:
            log.exception("the metrics cannot be gathered")
            return _say(HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics cannot be gathered; the log says why")
        return HTTPStatus.OK, headers, body


def _say(status: HTTPStatus, text: str) -> Answer:
    return status, [("Content-Type", "text/plain; charset=utf-8")], text.encode() + b"\n"
