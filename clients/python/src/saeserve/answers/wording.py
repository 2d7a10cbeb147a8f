"""How numbers and matches are written wherever an answer is shown: on a terminal, in a notebook, in a `repr`."""

from __future__ import annotations

from saeserve.answers.types import Match

MARKS = {Match.EXACT: "✓", Match.FOLDED: "~", Match.NONE: "✗", Match.UNKNOWN: " "}
"""Whether a feature fires on a token that it usually fires on."""


def number(value: float) -> str:
    """An activation in at most eight characters."""
    return f"{value:.3f}" if abs(value) < 10_000 else f"{value:.2e}"


def percent(share: float | None) -> str:
    """A density."""
    return "-" if share is None else f"{100 * share:.3g}%"


def milliseconds(micros: int) -> str:
    """A time of the server's."""
    return f"{micros / 1000:.1f} ms"


def counted(count: int, what: str) -> str:
    """`1 token`, `2 tokens`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
