"""How often a feature fires how strongly."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING, Any

from saeserve.answers.results import FeatureInfo, TopActivations
from saeserve.answers.types import Statistics
from saeserve.plots.axes import axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNEVEN = 100


def histogram(answer: Any, ax: Axes | None) -> Axes:
    """Tokens of the index by activation, whose axis is logarithmic, as its bins are; so is theirs where they differ
    much. Raises ValueError where nothing was counted."""
    statistics, title = _counted(answer)
    bins = [one for one in statistics.histogram if one.count] if statistics is not None else []
    if not bins:
        raise ValueError("there is nothing to draw: without an index, or for a feature that never fired in it")
    panel = axes(ax, 4.8, 3.2)
    edges, widths = [one.lower for one in bins], [one.upper - one.lower for one in bins]
    counts = [one.count for one in bins]
    panel.bar(edges, counts, width=widths, align="edge", edgecolor="white", linewidth=0.3)
    if edges[0] > 0:
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
    if max(counts) > _UNEVEN * min(counts):
        panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.set_xlabel("activation")
    panel.set_ylabel("tokens")
    panel.set_title(title, fontsize=9, parse_math=False)
    return panel


@singledispatch
def _counted(answer: Any) -> tuple[Statistics | None, str]:
    raise TypeError(f"{type(answer).__name__} has no histogram")


@_counted.register
def _(answer: Statistics) -> tuple[Statistics | None, str]:
    return answer, ""


@_counted.register(FeatureInfo)
@_counted.register(TopActivations)
def _(answer: FeatureInfo | TopActivations) -> tuple[Statistics | None, str]:
    return answer.statistics, repr(answer.name)
