"""`saeserve contrast`: which features tell two sets of texts apart, each set a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from saeserve.answers.contrast import Contrast
from saeserve.calls.contrast import contrast as build
from saeserve.calls.request import Call
from saeserve.cli import filters, streams
from saeserve.cli.values import text

MOST_BYTES = 2**28
"""Of a file: many times what a server takes."""
SUFFIXES = (".jsonl", ".ndjson")
"""Of files whose lines are JSON."""


def options(command: argparse.ArgumentParser) -> None:
    """What it takes."""
    command.add_argument("a", metavar="A", type=text, help="file of side A: a text a line, or JSON lines; - for stdin")
    command.add_argument("b", metavar="B", type=text, help="file of side B")
    command.add_argument(
        "--field", metavar="NAME", type=text, help="lines are JSON objects, and this field the text (of .jsonl: text)"
    )
    command.add_argument("--limit", metavar="K", type=int, help="how many of each side, 1 to 1000 (default: 25)")
    command.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    filters.options(command, "latents, or neurons if none are")


def call(arguments: argparse.Namespace) -> Call[Contrast]:
    """The call that the client makes too. Raises ValueError for a file that cannot be read as texts."""
    if arguments.a == arguments.b == "-":
        raise ValueError("standard input can be read once only, and - stands for both sides")
    sides = [_texts(name, arguments.field) for name in (arguments.a, arguments.b)]
    return build(*sides, limit=arguments.limit, truncate=arguments.truncate, **filters.asked(arguments))


def _texts(name: str, field: str | None) -> list[str]:
    """The texts of a file: its lines that are not blank."""
    lines = [(number, line) for number, line in enumerate(_read(name).splitlines(), 1) if line.strip()]
    if field is None and not name.endswith(SUFFIXES):
        return [line for _, line in lines]
    return [_text_of(line, field or "text", f"{name}, line {number}") for number, line in lines]


def _read(name: str) -> str:
    if name == "-":
        return streams.read_input(MOST_BYTES)
    try:
        with Path(name).open("rb") as file:
            given = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from error
    if len(given) > MOST_BYTES:
        raise ValueError(f"{name} has more than {MOST_BYTES:,} bytes")
    return streams.decoded(given, "utf-8", name)


def _text_of(line: str, field: str, place: str) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not valid JSON: {error}") from None
    given = found.get(field) if isinstance(found, dict) else None
    if not isinstance(given, str):
        raise ValueError(f"{place}: expected an object with a text in {field!r} (--field names another)")
    return given
