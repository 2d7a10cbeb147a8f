"""`saeserve-server completion SHELL`: what a shell completes commands and settings by."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from saeserve_server.errors import ConfigError

if TYPE_CHECKING:
    from saeserve_server.commands.settings import Commands


def add_command(commands: Commands) -> None:
    """Adds the command to the parser."""
    completion = commands.add_parser(
        "completion",
        help="print what a shell completes by",
        description="Prints what a shell completes commands and settings by. For bash and zsh: eval "
        '"$(saeserve-server completion bash)"; for fish: saeserve-server completion fish | source',
    )
    completion.add_argument("shell", choices=["bash", "zsh", "fish"], metavar="SHELL", help="bash, zsh or fish")
    completion.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the script. Raises ConfigError."""
    from saeserve.cli.completion import script
    from saeserve_server.commands.main import make_parser

    try:
        sys.stdout.write(script(options.shell, make_parser()))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return 0
