"""What stands behind an option: texts, numbers, names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from saeserve.cli import streams
from saeserve.transport.channel import DEFAULT_MAX_MESSAGE_BYTES


def text(given: str) -> str:
    """A text, which goes to the server: so it must be one."""
    try:
        return streams.argument(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def integers(given: str) -> list[int]:
    """Token ids, with commas or spaces between."""
    try:
        return [int(part) for part in given.replace(",", " ").split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{given!r} are no token ids: expected numbers like 464,2266") from None


def seconds(given: str) -> float:
    """A time above 0."""
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{given!r} is no number of seconds above 0")
    return value


def listed(values: list[str] | None) -> list[str] | None:
    """Names from options that may be repeated and hold commas; None where none was given."""
    if values is None:
        return None
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def read_texts(given: Sequence[str]) -> list[str]:
    """The texts, with standard input for `-`. Raises ValueError."""
    if given.count("-") > 1:
        raise ValueError("standard input can be read once only, and - stands for it more than once")
    return [streams.read_input(DEFAULT_MAX_MESSAGE_BYTES) if text == "-" else text for text in given]
