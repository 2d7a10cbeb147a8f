"""The engine as the front end sees it: a spawned worker behind one call, restarted when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from saeserve_server.config import Config
from saeserve_server.engine import worker
from saeserve_server.engine.work import BatchDone, Ready, Work
from saeserve_server.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.5
MOST_BACKOFF = 30.0
STEADY_SECONDS = 60.0
"""After a life this long the back-off begins anew."""
STOP_SECONDS = 5.0
RESTART_SECONDS = 3.0
"""About what loading a small model takes. With gRPC's few retries, a delay much shorter would give up before."""


class Engine(Protocol):
    """What the scheduler needs of an engine."""

    async def run(self, batch: Sequence[Work]) -> BatchDone:
        """The answers to a batch, in its order. One call at a time. Raises Unavailable if the engine is not up."""


class ProcessEngine:
    """A worker process, its pipe, and the thread that reads it."""

    def __init__(self, config: Config, on_state: Callable[[Ready | None], None]) -> None:
        """`on_state` is called in the event loop with Ready when the worker is up, with None when it is not."""
        self._config = config
        self._on_state = on_state
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._answer: asyncio.Future[BatchDone] | None = None
        self._died: asyncio.Event = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._up = False

    async def start(self) -> Ready:
        """Starts the worker and waits until it is up. Raises ConfigError if it cannot be started."""
        ready = await self._launch()
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")
        return ready

    async def run(self, batch: Sequence[Work]) -> BatchDone:
        """See Engine."""
        if not self._up or self._connection is None:
            raise _restarting()
        self._answer = asyncio.get_running_loop().create_future()
        try:
            # In a thread: a worker that has stopped reading must not stop the loop with it.
            await asyncio.to_thread(self._connection.send, tuple(batch))
            return await self._answer
        except OSError as error:  # the pipe broke, or was closed because the worker died
            raise _restarting() from error
        finally:
            self._answer = None

    async def stop(self) -> None:
        """Ends the worker: its pipe closes, then it is terminated, then killed."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        patience = STOP_SECONDS if self._up else 0.0  # a worker that is still loading does not listen
        self._up = False
        await self._end_process(patience)

    async def _launch(self) -> Ready:
        loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")  # never fork: gRPC's threads do not survive it
        ours, theirs = context.Pipe()
        process = context.Process(target=worker.main, args=(theirs, self._config), name="saeserve-worker", daemon=True)
        await loop.run_in_executor(None, process.start)
        theirs.close()
        self._process, self._connection, self._died = process, ours, asyncio.Event()
        first: asyncio.Future[Ready] = loop.create_future()
        threading.Thread(target=self._read, args=(loop, ours, first, self._died), daemon=True).start()
        try:
            ready = await asyncio.wait_for(first, self._config.start_timeout)
        except TimeoutError:
            await self._end_process()
            raise ConfigError(
                f"the worker was not ready after {self._config.start_timeout:g} s (start_timeout)"
            ) from None
        self._up = True
        self._on_state(ready)
        return ready

    def _read(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        first: asyncio.Future[Ready],
        died: asyncio.Event,
    ) -> None:
        """Runs in a thread of its own for each worker: hands its messages to the loop until its pipe ends."""

        def deliver(message: Any) -> None:
            if isinstance(message, Ready):
                _settle(first, message)
            elif isinstance(message, ConfigError):
                _fail(first, message)
            elif self._answer is not None:
                _settle(self._answer, message)

        def ended() -> None:
            self._up = False
            _fail(first, ConfigError("the worker died while it was starting; its log says why"))
            if self._answer is not None:
                _fail(self._answer, _restarting())
            died.set()

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            try:
                while True:
                    loop.call_soon_threadsafe(deliver, connection.recv())
            except (EOFError, OSError):
                pass  # the worker is gone
            except Exception:
                log.exception("what the worker sent cannot be read")
            loop.call_soon_threadsafe(ended)

    async def _supervise(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            started = time.monotonic()
            await self._died.wait()
            self._on_state(None)
            await self._end_process()
            if time.monotonic() - started > STEADY_SECONDS:
                backoff = FIRST_BACKOFF
            log.error("the worker died (exit code %s); restarting in %.1f s", self._exit_code(), backoff)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, MOST_BACKOFF)
            try:
                await self._launch()
            except Exception as error:  # noqa: BLE001 (whatever it is: nobody else would try again)
                log.error("the worker could not be restarted: %s", error)
                self._died.set()

    async def _end_process(self, patience: float = 0.0) -> None:
        process, connection = self._process, self._connection
        if process is None:
            return
        self._connection = None
        loop = asyncio.get_running_loop()

        def end() -> None:
            # Closing our end would not do: the thread that reads it keeps the pipe open. So the worker is told.
            with contextlib.suppress(OSError):
                if connection is not None:
                    connection.send(None)
            process.join(patience)
            if process.is_alive():
                process.terminate()
                process.join(STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            if connection is not None:
                connection.close()

        await loop.run_in_executor(None, end)

    def _exit_code(self) -> int | None:
        return self._process.exitcode if self._process else None


def _restarting() -> Unavailable:
    return Unavailable("the worker is restarting", reason="WORKER_RESTARTING", retry_after=RESTART_SECONDS)


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
