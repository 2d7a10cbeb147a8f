"""`saeserve vector`: which directions a feature reads and writes."""

from __future__ import annotations

import argparse

import numpy as np

from saeserve.answers.vectors import Direction, Vectors
from saeserve.calls.request import Call
from saeserve.calls.vectors import SIDES
from saeserve.calls.vectors import vectors as build
from saeserve.cli.screen import Screen, facts
from saeserve.cli.values import text

SHOWN = 4
"""Numbers of each direction that are shown."""


def options(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("feature", metavar="FEATURE", type=text, help="for example 0-MLP-OAI:22631 or 2:553")
    command.add_argument(
        "--side", choices=list(SIDES), default="both", help="what it reads, what it writes, or both (default)"
    )


def call(arguments: argparse.Namespace) -> Call[Vectors]:
    """The call that the client makes too."""
    return build(arguments.feature, side=arguments.side)


def show(result: Vectors, screen: Screen) -> None:
    """A line for each direction: where it lies, its norm, its first numbers."""
    screen.line(facts(result.feature), "bold")
    given = {"encoder": result.encoder, "decoder": result.decoder}
    rows = [_row(name, direction) for name, direction in given.items() if direction is not None]
    screen.table(["", "at", "width", "norm", "begins with"], rows, right=(2, 3))
    screen.line("all numbers: --json", "dim")


def _row(name: str, direction: Direction) -> list[str]:
    values = direction.values
    first = "  ".join(f"{value:.4f}" for value in values[:SHOWN])
    more = "  …" if len(values) > SHOWN else ""
    return [name, direction.hook_name, str(len(values)), f"{np.linalg.norm(values):.4f}", first + more]
