"""`saeserve explanations`: which features are explained in some words."""

from __future__ import annotations

import argparse

from saeserve.answers.explanations import ExplanationSearch
from saeserve.calls.explanations import search_explanations
from saeserve.calls.request import Call
from saeserve.cli import filters
from saeserve.cli.values import text


def options(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument(
        "words",
        metavar="WORDS",
        nargs="+",
        type=text,
        help="all of which an explanation must hold, whatever their case or ending; '\"in quotes\"' a phrase",
    )
    command.add_argument("--count", metavar="N", type=int, help="how many, 1 to 100 (default: 10)")
    command.add_argument("--page-token", metavar="TOKEN", type=text, default="", help="go on where a page ended")
    filters.options(command, "latents and neurons")


def call(arguments: argparse.Namespace) -> Call[ExplanationSearch]:
    """The call that the client makes too."""
    return search_explanations(
        " ".join(arguments.words),
        page_size=arguments.count,
        page_token=arguments.page_token,
        **filters.asked(arguments),
    )
