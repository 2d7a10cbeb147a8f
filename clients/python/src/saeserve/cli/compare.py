"""`saeserve compare`: variants of a text side by side."""

from __future__ import annotations

import argparse

from saeserve.answers.compare import Comparison
from saeserve.calls.compare import compare as build
from saeserve.calls.steps import Steps, once
from saeserve.cli.values import listed, read_texts, text


def options(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("features", metavar="FEATURE,...", type=text, help="features, with commas between")
    command.add_argument("texts", metavar="TEXT", nargs="+", type=text, help="two texts or more, or - for one")
    command.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    command.add_argument("--full", action="store_true", help="show every token of long texts")


def steps(arguments: argparse.Namespace) -> Steps[Comparison]:
    """The call that the client makes too."""
    if len(arguments.texts) < 2:
        raise ValueError("compare needs at least two texts (see saeserve compare --help)")
    return once(build(listed([arguments.features]), read_texts(arguments.texts), truncate=arguments.truncate))
