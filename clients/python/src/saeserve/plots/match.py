"""A MatchTable as a picture: by layer the share of features on a usual token, a line for each kind."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING

from saeserve.answers.match_table import MatchTable
from saeserve.arguments import extras
from saeserve.arguments.printable import printable
from saeserve.plots.axes import axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = extras.missing("a plot", "matplotlib", "plot")


def save(table: MatchTable, path: str | PathLike[str]) -> None:
    """A file with a panel for each text."""
    figures = extras.load("matplotlib.figure", "a plot", "matplotlib", "plot")
    texts = len(table.texts)
    figure = figures.Figure(figsize=(4 + 2.6 * (texts - 1), 3.2), layout="constrained")
    for text, panel in enumerate(figure.subplots(1, texts, sharey=True, squeeze=False)[0]):
        _panel(table, text, panel)
    figure.axes[0].set_ylabel(_ylabel(table))
    figure.axes[0].legend(frameon=False)
    figure.savefig(fspath(path), dpi=150)


def draw(table: MatchTable, text: int, ax: Axes | None) -> Axes:
    """One text."""
    place = range(len(table.texts))[text]
    panel = axes(ax, 4, 3.2)
    _panel(table, place, panel)
    panel.set_ylabel(_ylabel(table))
    panel.legend(frameon=False)
    return panel


def _ylabel(table: MatchTable) -> str:
    return f"top {table.limit} on a usual token, %"


def _panel(table: MatchTable, text: int, panel: Axes) -> None:
    name = table.texts[text]
    for kind in table.kinds:
        shares = {row.layer: row.share for row in table if row.text == text and row.kind is kind}
        known = [(layer, 100 * share) for layer, share in sorted(shares.items()) if share is not None]
        panel.plot([layer for layer, _ in known], [share for _, share in known], marker="o", label=f"{kind.value}s")
    panel.set_title(printable(name) if len(name) <= 32 else printable(name[:31]) + "…", fontsize=9, parse_math=False)
    panel.set_xlabel("layer")
    panel.set_xticks(list(table.layers))
    panel.set_ylim(0, 104)
