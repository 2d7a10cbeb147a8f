"""What `saeserve match` draws."""

from __future__ import annotations

from saeserve.answers.match_table import MatchTable
from saeserve.cli.screen import Screen
from saeserve.cli.shading import fit


def match(result: MatchTable, screen: Screen) -> None:
    """A table for each text: a line for each layer, a column for each kind."""
    for place, name in enumerate(result.texts):
        if place:
            screen.line()
        if len(result.texts) > 1:
            screen.line(fit(name, screen.width), "bold")
        header, *lines = result.lines(place)
        screen.table(header, lines, right=range(len(header)))
    screen.wrapped(
        f"of the top {result.limit} of each layer and kind, {result.ranking} ranking: how many fire most on a token on "
        "which they usually do, whatever its case and the space around it",
        "dim",
    )
    if any(row.unknown for row in result):
        screen.wrapped("?: no usual tokens are known, as without an index", "dim")
