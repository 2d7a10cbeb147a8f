"""One worker process as the front end holds it: started, written to and read by threads, ended and closed."""

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

TIDY_SECONDS = 0.5
"""A worker that is let go of has at least so long to remove what it has half written."""


class Link:
    """A worker and its pipe. Threads read and write: a worker that does neither must not hold up the event loop.

    `end` gives everything back, descriptors and threads too: a garbage collection may be long in coming.
    """

    def __init__(self, process: BaseProcess, connection: Connection, lifeline: Connection) -> None:
        self._process = process
        self._connection = connection
        self._lifeline = lifeline
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Lock()
        self._closed = False
        self.exit_code: int | None = None
        """The worker's exit status, once it has been ended; negative for a signal."""
        self.ended = asyncio.Event()
        """Set once the worker sends no more: it has died, or was ended."""

    @classmethod
    async def start(cls, config: Config, on_message: Callable[[Any], None]) -> Link:
        """Spawns a worker. `on_message` is called in the event loop with whatever it sends.

        Raises OSError where there are no descriptors or processes to be had.
        """
        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")  # never fork: gRPC's threads do not survive it
        ours, theirs = context.Pipe()
        try:
            tied, lifeline = context.Pipe(duplex=False)
        except OSError:
            ours.close()
            theirs.close()
            raise
        process = context.Process(target=worker.main, args=(theirs, tied, config), name="saeserve-worker", daemon=True)
        link = cls(process, ours, lifeline)
        started: asyncio.Future[None] = loop.create_future()
        link._spawn(link._start_and_read, (theirs, tied), loop, started, on_message)
        try:
            await asyncio.shield(started)
        except asyncio.CancelledError:  # it starts all the same, and nobody would hold it
            with contextlib.suppress(OSError):
                await started
                await link.end(0.0)
            raise
        link._spawn(link._write)
        return link

    def send(self, message: Any) -> None:
        """Sends a message, later. What a worker that is gone does not get is lost."""
        self._outgoing.put(message)

    def kill(self) -> None:
        """Ends the worker as it stands; `ended` follows."""
        with contextlib.suppress(ValueError):  # it was closed, and so has ended
            self._process.kill()

    async def end(self, patience: float) -> None:
        """Lets go of the worker, kills it if it has not ended after `patience` seconds, and closes all that it took."""
        await asyncio.get_running_loop().run_in_executor(None, self._end, max(patience, TIDY_SECONDS))

    def _end(self, patience: float) -> None:
        with self._closing:
            if self._closed:
                return
            self._lifeline.close()
            self._process.join(patience)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._outgoing.put(_LAST)
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            self._connection.close()
            self.exit_code = self._process.exitcode
            self._process.close()
            self._closed = True

    def _spawn(self, run: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, name=f"worker{run.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # the worker is gone
            while (message := self._outgoing.get()) is not _LAST:
                self._connection.send(message)

    def _start_and_read(
        self,
        theirs: tuple[Connection, ...],
        loop: asyncio.AbstractEventLoop,
        started: asyncio.Future[None],
        on_message: Callable[[Any], None],
    ) -> None:
        """One thread for both: the worker ends with the thread that started it (see lifeline)."""
        failure: Exception | None = None
        try:
            self._process.start()
        except Exception as error:  # noqa: BLE001 (whatever it is: it is raised by `start`)
            failure = error
            for connection in (self._connection, self._lifeline):
                connection.close()
        for connection in theirs:
            connection.close()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(_settle, started, failure)
            if failure is None:
                self._read(loop, on_message)

    def _read(self, loop: asyncio.AbstractEventLoop, on_message: Callable[[Any], None]) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):  # the worker is gone
                break
            except Exception:
                log.exception("what the worker sent cannot be read")
                self.kill()
                break
            loop.call_soon_threadsafe(on_message, message)
        loop.call_soon_threadsafe(self.ended.set)


def _settle(started: asyncio.Future[None], failure: Exception | None) -> None:
    if failure is None:
        started.set_result(None)
    else:
        started.set_exception(failure)


_LAST = object()
"""Ends the thread that writes."""
