"""A MatchTable as a picture. matplotlib is loaded where one is drawn."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saeserve.answers.match_table import MatchTable

MISSING = "a plot needs matplotlib: pip install 'saeserve[plot]'"


def plot(table: MatchTable, path: str | PathLike[str]) -> None:
    """A panel for each text: by layer the share of features on a usual token, a line for each kind."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(MISSING) from error
    texts = len(table.texts)
    figure = Figure(figsize=(4 + 2.6 * (texts - 1), 3.2), layout="constrained")
    panels = figure.subplots(1, texts, sharey=True, squeeze=False)[0]
    for text, (panel, name) in enumerate(zip(panels, table.texts, strict=True)):
        for kind in table.kinds:
            shares = {row.layer: row.share for row in table if row.text == text and row.kind is kind}
            known = [(layer, 100 * share) for layer, share in sorted(shares.items()) if share is not None]
            panel.plot([layer for layer, _ in known], [share for _, share in known], marker="o", label=f"{kind.value}s")
        panel.set_title(name if len(name) <= 32 else name[:31] + "…", fontsize=9, parse_math=False)
        panel.set_xlabel("layer")
        panel.set_xticks(list(table.layers))
        panel.set_ylim(0, 104)
    panels[0].set_ylabel(f"top {table.limit} on a usual token, %")
    panels[0].legend(frameon=False)
    figure.savefig(fspath(path), dpi=150)
