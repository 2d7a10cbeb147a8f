"""What shells complete the command line by, written by shtab from the parser."""

from __future__ import annotations

import argparse

from saeserve.cli.options import parser


def script(shell: str, of: argparse.ArgumentParser | None = None) -> str:
    """The script for `bash`, `zsh` or `fish`. Raises ValueError where shtab is not installed."""
    try:
        import shtab
    except ImportError:
        raise ValueError("completion is written by shtab: pip install shtab") from None
    of = of or parser()
    _mark_files(of, shtab.FILE)
    written: str = shtab.complete(of, shell=shell)
    return written if written.endswith("\n") else written + "\n"


def _mark_files(parser: argparse.ArgumentParser, file: object) -> None:
    """Files are completed where a file is meant."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_files(command, file)
        elif action.metavar == "FILE":
            action.complete = file  # type: ignore[attr-defined]
