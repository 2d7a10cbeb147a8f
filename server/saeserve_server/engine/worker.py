"""The main of the spawned process: loads model and sources, then answers batches until its front end lets go of it.

It is a process because a thread cannot be killed and cannot contain a crash. It computes one batch at a time, and never
outlives its front end (see lifeline).
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from saeserve_server.config import Config
from saeserve_server.engine.lifeline import leave, tie
from saeserve_server.engine.work import Abandon, Batch, Kernels, Ready
from saeserve_server.errors import ConfigError
from saeserve_server.logs import configure_logging
from saeserve_server.records.unfinished import is_passing, remove_unfinished

log = logging.getLogger(__name__)

BUSY_BATCHES = 8
"""After so many batches a step towards better kernels is taken even if others wait."""
PAUSE_SECONDS = 0.005
"""With nothing to compute for so long, such a step is taken."""
NICENESS = 10
"""A worker that computes on the CPU yields to the front end, which needs little of it but soon."""


def main(connection: Connection, lifeline: Connection, config: Config) -> None:
    """Runs the worker. Messages sent: first a `Ready` or a `ConfigError`, then a BatchDone for each Batch received.

    Nothing comes through `lifeline`: the worker ends where that does.
    """
    tie(lifeline, remove_unfinished)
    # Signals are for the front end, which drains before it ends the worker. A group of its own spares the worker
    # those of a terminal; ignoring them, those of a process manager that signals every process of the service.
    os.setpgrp()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    configure_logging(config)
    status = 0
    try:
        _serve(connection, config)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the front end is gone
        remove_unfinished()
    except BaseException:
        log.exception("the worker ends: what failed would fail again in this process")
        remove_unfinished()
        status = 1
    leave(status)


def _serve(connection: Connection, config: Config) -> None:
    # Nothing is downloaded behind the operator's back, whatever a library would look up: read when it is imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Here, not above: the front end imports this module for its name, and must not import torch.
    from saeserve_server.engine.build import build_runner, make_chooser, pick_device
    from saeserve_server.engine.memory import return_freed
    from saeserve_server.engine.recovery import GuardedRunner
    from saeserve_server.engine.warmup import warm_up

    try:
        device = pick_device(config)
        if device.type == "cpu":  # before torch has threads of its own, which inherit it
            os.nice(NICENESS)
        runner, index = build_runner(config)
        chooser = make_chooser(config, runner)
        chooser.begin()
        return_freed()
        capacity = None
        if device.type == "cuda":  # what is measured is what will be served with, and its memory
            chooser.finish()
            capacity = warm_up(runner, config)
    except ConfigError as error:
        connection.send(error)
        return
    except Exception as error:
        log.exception("loading failed")
        connection.send(ConfigError(f"loading failed: {type(error).__name__}: {error}"))
        return
    guarded = GuardedRunner(runner)
    mailbox = Mailbox(connection)
    told = chooser.names
    connection.send(Ready(runner.catalog, index, told, is_passing(index), capacity, runner.imported))

    def choose() -> bool:
        nonlocal told
        more = chooser.step()
        if chooser.names != told:
            told = chooser.names
            return_freed()
            connection.send(Kernels(told, chooser.fallbacks))
        return more

    computed: float | None = None
    while True:
        batch = mailbox.next_batch(meanwhile=choose)
        idle = 0.0 if computed is None else time.perf_counter() - computed
        answer = guarded.run(batch, mailbox.abandoned)
        computed = time.perf_counter()
        answer.spent.idle_seconds = idle
        connection.send(answer)
        chooser.judge()
        if batch.number % BUSY_BATCHES == 0:  # one that never has nothing to do gets there too
            choose()


class Mailbox:
    """What the front end sends. Raises EOFError, also in the midst of a batch, when the front end is gone."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._number = -1
        self._abandoned: set[int] = set()

    def next_batch(self, meanwhile: Callable[[], bool] = lambda: False) -> Batch:
        """Waits for a batch; until one comes `meanwhile` is called, as long as it says that it has more to do."""
        while not self._connection.poll(PAUSE_SECONDS) and meanwhile():
            pass
        while not isinstance(message := self._receive(), Batch):
            pass  # about a batch that is done
        self._number, self._abandoned = message.number, set()
        return message

    def abandoned(self) -> set[int]:
        """Places of the batch in progress that nobody waits for any more, as far as is known now."""
        while self._connection.poll():
            message = self._receive()
            if isinstance(message, Abandon) and message.batch == self._number:
                self._abandoned |= message.places
        return self._abandoned

    def _receive(self) -> Batch | Abandon:
        message: Batch | Abandon = self._connection.recv()
        return message
