"""What `saeserve top` draws."""

from __future__ import annotations

import argparse
import shlex

from saeserve.answers.results import TopActivations
from saeserve.answers.types import Record, RecordOrigin, Statistics
from saeserve.cli.screen import Screen, facts, number, percent

_INDENT = 15


def top(result: TopActivations, screen: Screen, arguments: argparse.Namespace) -> None:
    """A feature's records, and below each what it stands for."""
    screen.line(facts(result.feature), "bold")
    if result.statistics.tokens:  # without an index there are only imported records
        screen.wrapped(fires(result.statistics))
    if not result.records:
        never = result.statistics.tokens and not result.statistics.fires
        screen.line("it never fired over the index" if never else "no records")
    for rank, record in enumerate(result.records, 1):
        prefix = f"{rank:>3}  {number(record.max_activation):>8}  "
        scale = max(result.statistics.max_activation, record.max_activation)
        screen.tokens(record.tokens, record.activations, scale, record.max_position, prefix=prefix)
        _counts(record, screen, arguments)
    if result.next_page_token:
        screen.line(f"more: {_again(result, arguments)}", "dim")


def fires(statistics: Statistics) -> str:
    """How often and how strongly a feature fires, in a sentence."""
    return (
        f"fires on {statistics.fires:,} of {statistics.tokens:,} tokens ({percent(statistics.density)}), "
        f"mean {number(statistics.mean_activation)}, max {number(statistics.max_activation)}"
    )


def _counts(record: Record, screen: Screen, arguments: argparse.Namespace) -> None:
    said = []
    if arguments.diversity != "none" or arguments.group in ("quantiles", "random"):
        count = f"{record.stands_for:,.1f}".removesuffix(".0")
        least = "at least " if record.is_lower_bound else ""
        said.append(f"stands for {least}{count} {'block' if count == '1' else 'blocks'}")
        if count != "1":
            said[0] += f", {number(record.least_activation)} to {number(record.most_activation)}"
    if arguments.group == "near-misses":
        said.append(f"does not fire there; in the block at most {number(record.max_activation)}")
    if record.origin is RecordOrigin.IMPORT:
        said.append(f"from import {record.import_name}")
    if said:
        screen.wrapped("; ".join(said), "dim", indent=_INDENT)
    for example in record.examples:
        screen.wrapped(f"also {number(example.activation)} …{example.text}…", "dim", indent=_INDENT)


def _again(result: TopActivations, arguments: argparse.Namespace) -> str:
    """The command of the next page, to be copied into a shell: what a server calls a token must not be a command."""
    words = ["saeserve", "top", shlex.quote(str(result.feature))]
    for option, usual in (("group", "top"), ("diversity", "none"), ("threshold", None), ("origin", None)):
        value = getattr(arguments, option)
        if value != usual:
            words += [f"--{option}", str(value)]
    return " ".join([*words, "--page-token", shlex.quote(result.next_page_token)])
