"""Where a picture is drawn: into the Axes that are given, or into a new figure, as pyplot makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saeserve.arguments import extras
from saeserve.arguments.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS = 80
"""Of more tokens than these, only some are named along an axis."""


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The Axes given; else new ones of a figure so large, in inches, which a notebook shows by itself."""
    if ax is not None:
        return ax
    pyplot = extras.load("matplotlib.pyplot", "plot()", "matplotlib", "plot")
    made: Axes = pyplot.subplots(figsize=(width, height), layout="constrained")[1]
    return made


def label(ax: Axes, tokens: Sequence[str], features: Sequence[str]) -> None:
    """Name tokens from left to right and features from above. A `$` in a token is a dollar, and no formula."""
    step = -(-len(tokens) // _LABELS) or 1
    places = range(0, len(tokens), step)
    ax.set_xticks(places, [tokens[place] for place in places], rotation=90, fontsize=8, parse_math=False)
    ax.set_yticks(range(len(features)), list(map(printable, features)), fontsize=8, parse_math=False)
