"""The command `saeserve-server`: the parser, and the dispatch to the module of each command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import saeserve_server
from saeserve_server.commands import check, index, sources, start
from saeserve_server.commands.fetch import command as fetch
from saeserve_server.commands.signals import cleared_up
from saeserve_server.errors import ConfigError

CONFIG_ERROR = 2
"""Exit status for a configuration that cannot be served, as for wrong usage."""

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    # Before anything loads torch, and inherited by the worker: its threads sleep while they wait for each other. By
    # default they spin, which starves whatever shares their cores: the front end, to begin with.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    try:
        with cleared_up():
            return command(options)
    except ConfigError as error:
        for line in str(error).splitlines():
            print(f"saeserve-server: error: {line}", file=sys.stderr)
        return CONFIG_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saeserve-server",
        description="Serves what a language model's features respond to, over gRPC.",
        epilog="Every setting is a flag, an environment variable, and a key of the TOML file, in falling precedence. "
        "Without any, the demo model that ships with the package is served.",
    )
    parser.add_argument("--version", action="version", version=saeserve_server.__version__)
    commands = parser.add_subparsers(metavar="command", required=True)
    for module in (start, sources, check, fetch, index):
        module.add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
