"""One worker process as the front end holds it: started, written to and read by threads, ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from saeserve_server.config import Config
from saeserve_server.engine import worker

log = logging.getLogger(__name__)


class Link:
    """A worker and its pipe. Threads read and write: a worker that does neither must not hold up the event loop."""

    def __init__(self, process: BaseProcess, connection: Connection) -> None:
        self._process = process
        self._connection = connection
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.ended = asyncio.Event()
        """Set once the worker sends no more: it has died, or was ended."""

    @classmethod
    async def start(cls, config: Config, on_message: Callable[[Any], None]) -> Link:
        """Spawns a worker. `on_message` is called in the event loop with whatever it sends."""
        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")  # never fork: gRPC's threads do not survive it
        ours, theirs = context.Pipe()
        process = context.Process(target=worker.main, args=(theirs, config), name="saeserve-worker", daemon=True)
        starting = loop.run_in_executor(None, process.start)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:  # it starts all the same, and nobody would hold it
            await starting
            process.kill()
            raise
        theirs.close()
        link = cls(process, ours)
        threading.Thread(target=link._read, args=(loop, on_message), name="worker-reader", daemon=True).start()
        threading.Thread(target=link._write, name="worker-writer", daemon=True).start()
        return link

    @property
    def exit_code(self) -> int | None:
        """The worker's exit status; None while it runs."""
        return self._process.exitcode

    def send(self, message: Any) -> None:
        """Sends a message, later. What a worker that is gone does not get is lost."""
        self._outgoing.put(message)

    def kill(self) -> None:
        """Ends the worker as it stands; `ended` follows."""
        self._process.kill()

    async def end(self, patience: float) -> None:
        """Asks the worker to stop, and kills it if it has not after `patience` seconds."""
        self.send(None)

        def wait() -> None:
            self._process.join(patience)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()

        await asyncio.get_running_loop().run_in_executor(None, wait)
        self._outgoing.put(_LAST)

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # the worker is gone
            while (message := self._outgoing.get()) is not _LAST:
                self._connection.send(message)

    def _read(self, loop: asyncio.AbstractEventLoop, on_message: Callable[[Any], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            try:
                while True:
                    loop.call_soon_threadsafe(on_message, self._connection.recv())
            except (EOFError, OSError):
                pass  # the worker is gone
            except Exception:
                log.exception("what the worker sent cannot be read")
                self.kill()
            loop.call_soon_threadsafe(self.ended.set)


_LAST = object()
"""Ends the thread that writes."""
