"""`saeserve-server start`: the server, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from typing import TYPE_CHECKING

from saeserve_server.commands.preflight import check_serving
from saeserve_server.commands.settings import add_settings, read_config, unknown_variables

if TYPE_CHECKING:
    from saeserve_server.commands.settings import Commands

log = logging.getLogger(__name__)

ENDED_BY_SIGNAL = 128 + signal.SIGTERM
"""Exit status after a second SIGTERM or Ctrl-C, which waits for nothing."""


def add_command(commands: Commands) -> None:
    """Adds the command to the parser."""
    start = commands.add_parser(
        "start",
        help="run the server",
        description="Runs the server until SIGTERM or Ctrl-C.",
        allow_abbrev=False,  # a name that is cut short is a typo, as it is in the file
    )
    start.add_argument(
        "--end-with-caller",
        action="store_true",
        help="end at once, in order, when standard input ends or the process that started the server does",
    )
    add_settings(start)
    start.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves; returns the exit status. Raises ConfigError."""
    config = read_config(options)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said by us, in a line
    check_serving(config)
    from saeserve_server.api.lifecycle import run_server
    from saeserve_server.logs import configure_logging

    configure_logging(config)
    for line in unknown_variables():
        log.warning("%s", line)
    serving = run_server(config, end_with_caller=options.end_with_caller)
    try:
        import uvloop
    except ImportError:  # not built for this platform
        in_order = asyncio.run(serving)
    else:
        in_order = uvloop.run(serving)
    return 0 if in_order else ENDED_BY_SIGNAL
