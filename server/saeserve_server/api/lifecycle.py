"""A server's process from start to end: its descriptors, its address told, signals, the caller that it ends with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from saeserve_server.api.descriptors import fit_connections
from saeserve_server.api.server import FeatureServer
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError

CALLER_SECONDS = 0.5
"""How often it is looked whether the caller is still there, where its end of standard input does not tell."""
STANDARD_OUTPUT = Path("-")


async def run_server(config: Config, *, end_with_caller: bool = False) -> bool:
    """Serves until SIGTERM or SIGINT; a second one ends it at once. Whether it ended in order. Raises ConfigError.

    With `end_with_caller` it also ends, without waiting for calls, once standard input does or the parent is gone.
    """
    loop = asyncio.get_running_loop()
    asked, hurry = asyncio.Event(), asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, lambda: (hurry if asked.is_set() else asked).set())
    caller = asyncio.ensure_future(_end_of_caller()) if end_with_caller else None
    if caller is not None:
        caller.add_done_callback(lambda _: asked.set())
        caller.add_done_callback(lambda _: hurry.set())
    server = FeatureServer(fit_connections(config))
    starting = asyncio.ensure_future(server.start(lambda address: tell_address(config.port_file, address)))
    stopping = asyncio.ensure_future(asked.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await stopping
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        asked.set()
        await server.stop(hurry)
        take_back(config.port_file, server.address)
    return (caller is not None and caller.done()) or not hurry.is_set()


async def _end_of_caller() -> None:
    """Returns once standard input ends or the parent process does.

    Either alone would not do: a child that the caller forked may hold the other end of standard input, and a caller
    that goes on may have let go of its server.
    """
    parent, loop, ended = os.getppid(), asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        with contextlib.suppress(OSError):  # closed: it has ended
            while os.read(0, 4096):
                pass
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ended first
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, name="standard-input", daemon=True).start()
    while not ended.is_set() and os.getppid() == parent:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CALLER_SECONDS):
                await ended.wait()


def tell_address(place: Path | None, address: str) -> None:
    """Writes the address into the port file, or as a line to standard output for `-`. Raises ConfigError."""
    if place is None:
        return
    try:
        if place == STANDARD_OUTPUT:
            sys.stdout.write(f"{address}\n")
            sys.stdout.flush()
        else:
            _write_whole(place, address)
    except OSError as error:
        raise ConfigError(f"port_file: {place}: {error.strerror}") from error


def take_back(place: Path | None, address: str) -> None:
    """Removes the port file, unless it is that of another server by now."""
    if place is None or place == STANDARD_OUTPUT:
        return
    with contextlib.suppress(OSError):
        if place.read_text() == address:
            place.unlink()


def _write_whole(path: Path, text: str) -> None:
    """Writes a small file so that no reader sees half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
