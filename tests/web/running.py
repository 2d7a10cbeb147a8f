"""A gateway inside the tests' own process: its loop in a thread, everything else as the command has it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from saeserve.web import serving
from saeserve.web.settings import Settings

PATIENCE = 30.0


@dataclass(frozen=True)
class Running:
    """One that answers."""

    url: str
    """Without a slash at its end: `http://127.0.0.1:40123`."""
    port: int
    settings: Settings
    server: Any
    """uvicorn's."""
    loop: asyncio.AbstractEventLoop


@contextmanager
def gateway_before(target: str, *, connection: dict[str, Any] | None = None, **settings: Any) -> Iterator[Running]:
    """A gateway on a free port before the server at `target`. `connection`: more arguments of its AsyncClient."""
    chosen = Settings(**{"port": 0, "grace": 2.0} | settings)
    ready: Future[Running] = Future()

    async def live() -> None:
        try:
            async with serving.made(sock, {"target": target} | (connection or {}), chosen) as server:
                url = serving.address(sock, chosen).rstrip("/")
                running = Running(url, sock.getsockname()[1], chosen, server, asyncio.get_running_loop())
                server.when_ready(lambda: ready.set_result(running))
                await server.serve([sock])
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    sock = serving.listen(chosen)
    thread = threading.Thread(target=asyncio.run, args=(live(),), name="gateway")
    thread.start()
    try:
        running = ready.result(PATIENCE)
        try:
            yield running
        finally:
            running.loop.call_soon_threadsafe(running.server.told, 0)
    finally:
        thread.join(PATIENCE)
        sock.close()
        assert not thread.is_alive(), "the gateway did not end"
