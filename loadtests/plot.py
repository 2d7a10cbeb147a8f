"""Latency against throughput, and goodput against what was offered, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from loadtests.knee import Point


def draw(points: Sequence[Point], capacity: float, title: str, file: Path) -> None:
    """Write a PNG."""
    mpl.use("Agg")
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    bend, beyond = figure.subplots(1, 2)
    goodput = [point.goodput for point in points]
    for share, style in (("p50", "o-"), ("p99", "s--")):
        bend.plot(goodput, [getattr(point, share) or math.nan for point in points], style, label=share)
    for point in points:
        if point.p99 is not None:
            bend.annotate(
                f"{point.multiple:g}×",
                (point.goodput, point.p99),
                textcoords="offset points",
                xytext=(4, 5),
                fontsize=8,
            )
    bend.set(xlabel="answers in time, a second", ylabel="latency from the intended start, s", yscale="log")
    bend.set_xlim(0, 1.12 * max([*goodput, capacity]))
    offered = [point.offered for point in points]
    beyond.plot(offered, goodput, "o-", label="answered in time")
    beyond.plot(offered, [point.refused for point in points], "x:", label="refused")
    beyond.plot(offered, [point.expired for point in points], "v:", label="expired")
    beyond.axvline(capacity, color="grey", linewidth=0.8, label="capacity (closed loop)")
    beyond.set(xlabel="offered, a second", ylabel="a second", xlim=(0, None), ylim=(0, None))
    for axes in (bend, beyond):
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    figure.savefig(file, dpi=130)
