"""How much of a search each layer has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from saeserve.answers.results import SearchResult
from saeserve.answers.types import Kind
from saeserve.plots.axes import axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Of = Literal["features", "value"]


def layer_profile(found: SearchResult, of: Of, ax: Axes | None) -> Axes:
    """A bar for each layer, its kinds above each other. Raises ValueError for what is no measure, or without a hit."""
    if of not in ("features", "value"):
        raise ValueError(f"of {of!r} is neither 'features' nor 'value'")
    hits = [(hit.feature, hit.value) for hit in found]
    for row in found.token_results:
        hits += zip(row.features, map(float, row.values), strict=True)
    if not hits:
        raise ValueError("there is nothing to draw: no feature fires")
    layers = range(max(feature.layer for feature, _ in hits) + 1)
    panel = axes(ax, max(4.0, 1.5 + 0.35 * len(layers)), 3.2)
    bottom = [0.0] * len(layers)
    for kind in Kind:
        amounts = [0.0] * len(layers)
        for feature, value in hits:
            if feature.kind is kind:
                amounts[feature.layer] += 1 if of == "features" else value
        if any(amounts):
            panel.bar(list(layers), amounts, bottom=bottom, label=f"{kind}s")
            bottom = [below + amount for below, amount in zip(bottom, amounts, strict=True)]
    panel.set_xlabel("layer")
    panel.set_xticks(list(layers))
    panel.set_ylabel("features" if of == "features" else "sum of values")
    panel.legend(frameon=False)
    return panel
