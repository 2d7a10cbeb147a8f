"""The main of the spawned process: loads model and sources, then answers batches until told to stop.

It is a process because a thread cannot be killed and cannot contain a crash. It reads one message at a time; the pipe's
end is the order to stop, so that a worker never outlives its front end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from multiprocessing.connection import Connection

from saeserve_server.config import Config
from saeserve_server.engine.work import BatchDone, Ready, Work
from saeserve_server.errors import ConfigError
from saeserve_server.logs import configure_logging

log = logging.getLogger(__name__)


def main(connection: Connection, config: Config) -> None:
    """Runs the worker. Messages sent: first a `Ready` or a `ConfigError`, then a BatchDone for each batch received."""
    # A group of its own: Ctrl-C and `kill -TERM -GROUP` are for the front end, which drains before it ends the worker.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    configure_logging(config)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(connection, config)
    logging.shutdown()
    os._exit(0)  # nothing is left to save, and taking torch down in order takes seconds


def _serve(connection: Connection, config: Config) -> None:
    # Here, not above: the front end imports this module for its name, and must not import torch.
    from saeserve_server.engine.build import build_runner
    from saeserve_server.engine.runner import run_guarded

    try:
        runner, index = build_runner(config)
    except ConfigError as error:
        connection.send(error)
        return
    except Exception as error:
        log.exception("loading failed")
        connection.send(ConfigError(f"loading failed: {type(error).__name__}: {error}"))
        return
    connection.send(Ready(runner.catalog, index))
    while True:
        batch: tuple[Work, ...] | None = connection.recv()
        if batch is None:
            return
        answer: BatchDone = run_guarded(runner, batch)
        connection.send(answer)
