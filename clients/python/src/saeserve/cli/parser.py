"""A parser of command lines that says what to do about a text that looks like an option."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from saeserve.cli.printing import sentence


class UsageError(Exception):
    """The command line is wrong: one line for standard error."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print two lines and leave."""

    _given: Sequence[str] = ()

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Raises UsageError."""
        known, rest = self.parse_known_args(args, namespace)
        if rest:
            self._given = rest
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return known

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Called with its own part of the line for a command too."""
        self._given = args or ()
        for given in () if self._subparsers else self._given:
            if given == "--":
                break
            if given.startswith("-h") and given != "-h":  # of which argparse from 3.13 on would take the -h, and help
                self.error(f"argument -h/--help: ignored explicit argument {given[2:]!r}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """One line, like every other error; the usage is one `--help` away."""
        raise UsageError(sentence(f"{message}{self._hint(message)} (see {self.prog} --help)"))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help and version. argparse would say nothing where they cannot be written."""
        (file or sys.stdout).write(message)

    def _hint(self, message: str) -> str:
        """What to do about an argument that begins with - and is none of the options."""
        for place, given in enumerate(self._given):
            if given == "--":
                return ""
            if not given.startswith("-") or given == "-" or self._is_option(given):
                continue
            if "expected one argument" in message and place:
                return f"; one that begins with - is joined by =: {self._given[place - 1]}={shlex.quote(given)}"
            return f"; what begins with - and is no option stands after --: {self.prog} … -- {shlex.quote(given)}"
        return ""

    def _is_option(self, given: str) -> bool:
        name = given.partition("=")[0]
        known = self._option_string_actions
        return name in known or (name.startswith("--") and any(option.startswith(name) for option in known))


def with_seconds(argv: Sequence[str], option: str, default: float) -> list[str]:
    """The command line with the default after an option that is followed by no number: argparse would take a TEXT."""
    made = list(argv)
    for place, given in enumerate(made):
        if given == "--":
            break
        following = made[place + 1] if place + 1 < len(made) else ""
        if given == option and not re.fullmatch(r"\d+(\.\d*)?|\.\d+|inf", following):
            made[place] = f"{option}={default:g}"
    return made
