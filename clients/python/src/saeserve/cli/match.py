"""`saeserve match`: how many of the features that fire most do so on a token on which they usually fire."""

from __future__ import annotations

import argparse
import importlib.util

from saeserve.answers.match_table import MatchTable
from saeserve.arguments.examples import EXAMPLES
from saeserve.calls.match_table import match_table
from saeserve.calls.steps import Steps
from saeserve.cli.values import listed, read_texts, text
from saeserve.plots.match import MISSING

RANKINGS = ("raw", "relative", "surprisal")


def options(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("text", metavar="TEXT", nargs="*", type=text, help="one text or more, or - for standard input")
    command.add_argument(
        "--example", choices=list(EXAMPLES), action="append", default=[], help="a text that comes with saeserve; repeat"
    )
    which = command.add_argument_group("which features (all that is given must hold)")
    which.add_argument("--kind", choices=["latent", "neuron", "all"], default="all", help="default: all")
    which.add_argument("--layers", metavar="1-3,5", action="append", type=text, help="only these layers")
    which.add_argument("--sets", metavar="mlp-oai,...", action="append", type=text, help="only these sets")
    which.add_argument("--min-density", metavar="SHARE", type=float, help="fire on at least this share of tokens, 0-1")
    which.add_argument("--max-density", metavar="SHARE", type=float, help="fire on at most this share of tokens, 0-1")
    command.add_argument("--ranking", choices=RANKINGS, default="raw", help="as of search (default: raw)")
    command.add_argument("--min-fires", metavar="N", type=int, help="as of search")
    command.add_argument("--limit", metavar="K", type=int, default=25, help="features of each layer and kind (25)")
    command.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    command.add_argument("--plot", metavar="FILE", help="draw the shares by layer into a .png, .svg or .pdf")


def steps(arguments: argparse.Namespace) -> Steps[MatchTable]:
    """The calls that the client makes too."""
    texts = {given: given for given in read_texts(arguments.text)}
    texts |= {name: EXAMPLES[name] for name in arguments.example}
    if arguments.plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"--plot: {MISSING}")
    if not texts:
        raise ValueError("match needs a TEXT, or --example (see saeserve match --help)")
    return match_table(
        texts,
        kinds=arguments.kind,
        sets=listed(arguments.sets),
        layers=listed(arguments.layers),
        min_density=arguments.min_density,
        max_density=arguments.max_density,
        ranking=arguments.ranking,
        min_fires=arguments.min_fires,
        limit=arguments.limit,
        truncate=arguments.truncate,
    )
