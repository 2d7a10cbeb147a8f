"""A gateway as a process: its socket, uvicorn, its end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import uvicorn

from saeserve.aio import AsyncClient
from saeserve.web.app import build
from saeserve.web.gateway import Gateway
from saeserve.web.protocol import protocol
from saeserve.web.settings import Settings

_KEEP_ALIVE = 60
"""Seconds that a connection may be idle: longer than proxies and browsers leave theirs."""
_BACKLOG = 2048
"""Connections that may wait to be taken."""
_HELD = 128 * 1024
"""Bytes of an answer that the system keeps, beside what is on its way: else it is not seen who takes none."""


def listen(settings: Settings) -> socket.socket:
    """The socket, listening: who comes before the gateway answers waits. Raises OSError where another listens there."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # By its protocol asyncio knows that it may switch Nagle's algorithm off, which would cost 40 ms an answer.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError, AttributeError):  # not every system has it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _HELD)
        sock.bind((settings.host, settings.port))
        # At once: so far others could be bound there too, and it would be known only when all has been loaded.
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def serve(sock: socket.socket, connection: dict[str, Any], settings: Settings, ready: Callable[[str], None]) -> int:
    """Answer until told to end; returns the signal that did. `ready` is told the page's address."""

    async def run() -> int:
        async with made(sock, connection, settings) as server:
            server.when_ready(lambda: ready(address(sock, settings)))
            await server.serve([sock])
            return server.signal

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def made(sock: socket.socket, connection: dict[str, Any], settings: Settings) -> AsyncIterator[Server]:
    """A server that is not started yet, and its client. `connection`: what an AsyncClient takes."""
    async with AsyncClient(**connection) as client:
        gateway = Gateway(client, settings)
        config = uvicorn.Config(
            build(gateway),
            http=protocol(settings, gateway.metrics),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(1, int(settings.grace)),
        )
        yield Server(config)


def address(sock: socket.socket, settings: Settings) -> str:
    """The URL of the page."""
    host = settings.host
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 (a name for a reader, nothing is bound)
        host = "127.0.0.1"
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}/"


class Server(uvicorn.Server):
    """Says when it listens, and ends in order, without the signal that ended it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ready: list[Callable[[], None]] = []
        self.signal = 0
        """By which it was told to end."""

    def when_ready(self, tell: Callable[[], None]) -> None:
        """Called once it answers."""
        self._ready.append(tell)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for tell in self._ready:
            tell()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's, which raises the signal anew when all is over."""
        numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        loop = asyncio.get_running_loop()
        for number in numbers:
            loop.add_signal_handler(number, self.told, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def told(self, number: int) -> None:
        """To end: no new connections, what is being answered gets out. Told twice it waits for nothing."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.signal = self.signal or number
