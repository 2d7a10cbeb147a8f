"""Options that say which features take part, and what a client makes of them."""

from __future__ import annotations

import argparse
from typing import Any

from saeserve.cli.values import listed, text


def options(command: argparse.ArgumentParser, kinds: str) -> None:
    """Adds them; `kinds` says what is meant where no kind is given."""
    which = command.add_argument_group("which features (all that is given must hold)")
    which.add_argument("--kind", choices=["latent", "neuron", "all"], help=f"default: {kinds}")
    for option, example in (
        ("layers", "1-3,5"),
        ("sources", "0-MLP-OAI,..."),
        ("sets", "mlp-oai,..."),
        ("features", "FEATURE,..."),
    ):
        for prefix, only in (("", "only"), ("exclude-", "leave out")):
            which.add_argument(
                f"--{prefix}{option}", metavar=example, action="append", type=text, help=f"{only} these {option}"
            )
    which.add_argument("--min-density", metavar="SHARE", type=float, help="fire on at least this share of tokens, 0-1")
    which.add_argument("--max-density", metavar="SHARE", type=float, help="fire on at most this share of tokens, 0-1")


def asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given, as arguments of a client's call."""
    return {
        "kinds": arguments.kind,
        "sets": listed(arguments.sets),
        "sources": listed(arguments.sources),
        "layers": listed(arguments.layers),
        "features": listed(arguments.features),
        "exclude_sets": listed(arguments.exclude_sets),
        "exclude_sources": listed(arguments.exclude_sources),
        "exclude_layers": listed(arguments.exclude_layers),
        "exclude_features": listed(arguments.exclude_features),
        "min_density": arguments.min_density,
        "max_density": arguments.max_density,
    }
