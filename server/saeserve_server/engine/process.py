"""The engine as the front end sees it: a spawned worker behind one call, restarted when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Protocol

from saeserve_server.config import Config
from saeserve_server.engine.link import Link
from saeserve_server.engine.work import Abandon, Batch, BatchDone, Kernels, Ready
from saeserve_server.errors import ConfigError, Unavailable

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.5
MOST_BACKOFF = 30.0
STEADY_SECONDS = 60.0
"""After a life this long the back-off begins anew."""
STOP_SECONDS = 5.0
LEAST_RETRY, MOST_RETRY = 1.0, 10.0
"""Seconds after which callers are told to come again: about what loading took, within what callers put up with."""


class WorkerLost(Unavailable):
    """The worker died over this very batch."""


class Engine(Protocol):
    """What the scheduler needs of an engine."""

    async def run(self, batch: Batch) -> BatchDone:
        """The answers to a batch, in its order. One call at a time.

        Raises WorkerLost if the engine died of it or over it, Unavailable if it was not up to begin with.
        """

    def abandon(self, place: int) -> None:
        """Nobody waits for that item of the batch in progress any more."""


class ProcessEngine:
    """A worker process, and whoever keeps it alive."""

    def __init__(
        self, config: Config, on_state: Callable[[Ready | None], None], on_kernels: Callable[[Kernels], None]
    ) -> None:
        """`on_state` is called in the event loop with Ready when the worker is up, with None when it is not, and
        `on_kernels` when it has come to compute sources in other ways."""
        self._config = config
        self._on_state = on_state
        self._on_kernels = on_kernels
        self._link: Link | None = None
        self._up = False
        self._first: asyncio.Future[Ready] | None = None
        self._batch: Batch | None = None
        self._answer: asyncio.Future[BatchDone] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._load_seconds = LEAST_RETRY
        self._backoff = FIRST_BACKOFF

    async def start(self) -> None:
        """Starts the worker and waits until it is up. Raises ConfigError if it cannot be started."""
        await self._launch()
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")

    async def run(self, batch: Batch) -> BatchDone:
        """See Engine."""
        if not self._up or self._link is None:
            raise Unavailable("the worker is restarting", reason="WORKER_RESTARTING", retry_after=self._retry_after())
        self._batch, self._answer = batch, asyncio.get_running_loop().create_future()
        try:
            self._link.send(batch)
            async with asyncio.timeout(self._config.batch_timeout):
                return await self._answer
        except TimeoutError:
            log.error("the worker has not answered for %.0f s and is replaced", self._config.batch_timeout)
            self._up = False  # else the next batch would go to the worker that is being killed
            self._link.kill()
            raise self._lost() from None
        finally:
            self._batch = self._answer = None

    def abandon(self, place: int) -> None:
        """See Engine."""
        if self._batch is not None and self._link is not None:
            self._link.send(Abandon(self._batch.number, frozenset([place])))

    async def stop(self, patience: float = STOP_SECONDS) -> None:
        """Ends the worker: it is let go of, and killed if it has not ended after `patience` seconds."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        self._up = False
        if self._link is not None:
            await self._link.end(patience)

    async def _launch(self) -> None:
        began = time.monotonic()
        self._first = asyncio.get_running_loop().create_future()
        link = self._link = await Link.start(self._config, self._on_message)
        ended = asyncio.ensure_future(link.ended.wait())
        try:
            either: set[asyncio.Future[Any]] = {self._first, ended}
            await asyncio.wait(either, timeout=self._config.start_timeout, return_when=asyncio.FIRST_COMPLETED)
            if not self._first.done():
                raise ConfigError(
                    "the worker died while it was starting; its log says why"
                    if ended.done()
                    else f"the worker was not ready after {self._config.start_timeout:g} s (start_timeout)"
                )
            self._on_state(self._first.result())
        except BaseException:
            await link.end(0.0)
            raise
        finally:
            ended.cancel()
        self._load_seconds = time.monotonic() - began
        self._up = True

    def _on_message(self, message: Any) -> None:
        if isinstance(message, BatchDone):
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(message)
        elif isinstance(message, Kernels):
            self._on_kernels(message)
        elif self._first is not None and not self._first.done():
            if isinstance(message, ConfigError):
                self._first.set_exception(message)
            else:
                self._first.set_result(message)

    async def _supervise(self) -> None:
        while True:
            started = time.monotonic()
            if self._link is not None:
                await self._link.ended.wait()
                self._up = False
                if self._answer is not None and not self._answer.done():
                    self._answer.set_exception(self._lost())
                self._on_state(None)
                await self._link.end(0.0)
            if time.monotonic() - started > STEADY_SECONDS:
                self._backoff = FIRST_BACKOFF
            log.error(
                "the worker died (exit code %s); restarting in %.1f s",
                self._link.exit_code if self._link else None,
                self._backoff,
            )
            await asyncio.sleep(self._backoff)
            self._backoff = min(self._backoff * 2, MOST_BACKOFF)
            try:
                await self._launch()
            except Exception as error:  # noqa: BLE001 (whatever it is: nobody else would try again)
                log.error("the worker could not be restarted: %s", error)

    def _retry_after(self) -> float:
        """About when the worker is back, for each caller a little different: not all are to return at once."""
        delay = (self._backoff + self._load_seconds) * random.uniform(1.0, 1.25)  # noqa: S311
        return min(max(delay, LEAST_RETRY), MOST_RETRY)

    def _lost(self) -> WorkerLost:
        return WorkerLost("the worker is restarting", reason="WORKER_RESTARTING", retry_after=self._retry_after())
