"""`saeserve similar`: which features are like one."""

from __future__ import annotations

import argparse

from saeserve.answers.similar import SimilarFeatures
from saeserve.calls.request import Call
from saeserve.calls.similar import BY
from saeserve.calls.similar import similar as build
from saeserve.cli import filters
from saeserve.cli.values import text


def options(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("feature", metavar="FEATURE", type=text, help="for example 0-MLP-OAI:22631 or 2:553")
    command.add_argument(
        "--by",
        choices=list(BY),
        default="decoder",
        help="cosine of what they write (default) or read; overlap of where they fire, or fire most",
    )
    command.add_argument("--limit", metavar="K", type=int, help="how many, 1 to 1000 (default: 10)")
    filters.options(command, "latents and neurons")


def call(arguments: argparse.Namespace) -> Call[SimilarFeatures]:
    """The call that the client makes too."""
    return build(arguments.feature, by=arguments.by, limit=arguments.limit, **filters.asked(arguments))
