"""The command `saeserve-server`: the parser, and the dispatch to the module of each command."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import saeserve_server
from saeserve.cli import streams
from saeserve_server.commands import check, completion, records, sources, start
from saeserve_server.commands.fetch import command as fetch
from saeserve_server.commands.index import command as index
from saeserve_server.commands.signals import cleared_up
from saeserve_server.errors import ConfigError, printable

CONFIG_ERROR = 2
"""Exit status for a configuration that cannot be served, as for wrong usage."""

FAILED = 1
INTERRUPTED = 130
BROKEN_PIPE = 141
NOT_WRITTEN = (errno.ENOSPC, errno.EIO, errno.EBADF)
"""Why output cannot be written: a full disk, a terminal that is gone, a closed descriptor."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    # Before anything loads torch, and inherited by the worker: its threads sleep while they wait for each other. By
    # default they spin, which starves whatever shares their cores: the front end, to begin with.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Batches differ in size, and fixed segments of GPU memory that fit none of them add up. The older name is read too.
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    streams.prepare()
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough
        streams.drop(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is not None or error.errno not in NOT_WRITTEN:
            raise
        streams.drop(sys.stdout)
        streams.complain(f"saeserve-server: error: what it says cannot be written: {error.strerror}")
        return FAILED
    return status


def _run(arguments: Sequence[str]) -> int:
    if not arguments:
        make_parser().print_help()
        return 0
    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        with cleared_up():
            return command(options)
    except ConfigError as error:
        for line in str(error).splitlines():
            streams.complain(f"saeserve-server: error: {line}")
        return CONFIG_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, like every other error; the usage is one `--help` away."""
        self.exit(CONFIG_ERROR, f"saeserve-server: error: {printable(message)} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="saeserve-server",
        description="Serves what a language model's features respond to, over gRPC.",
        epilog="Every setting is a flag, an environment variable, and a key of the TOML file, in falling precedence. "
        "Without any, the demo model that ships with the package is served. Exit codes: 0 done, or help alone; 1 what "
        "was asked could not be done; 2 wrong usage, or a configuration that cannot be served; 130 interrupted; 143 "
        "ended at once by a second signal.",
    )
    parser.add_argument("--version", action="version", version=f"saeserve-server {saeserve_server.__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    for module in (start, sources, check, fetch, index, records, completion):
        module.add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
