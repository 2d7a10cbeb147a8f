"""What building an index takes at most, told before the start: memory, and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from saeserve_server.catalog import Kind, SourceInfo
from saeserve_server.records.bins import BINS, GROUPS, POWERS
from saeserve_server.records.building.state import CANDIDATE, PLACE, SAMPLED, SKETCH, STRATUM
from saeserve_server.records.layout import PEAK_TOKEN, RECORD, SPAN
from saeserve_server.records.made_of import Keeping

WAITING: Final = 1.5
"""A union holds its rows and half as many that wait to be cut."""
FILLED_POWERS: Final = 8
"""Powers of two in which a feature's blocks commonly have their maxima."""
USUAL_WINDOW: Final = 8
"""Activations that are not 0 in a latent's window: neurons fill it."""
FIRES: Final = 64
"""Latents of a source that fire on a token, commonly: what a row takes."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes, besides model and sources."""

    memory: int
    """Of the process that folds: sums and unions of all features, the sampled rows."""
    index: int
    """Of the finished index, its texts left out."""
    rows_per_token: int
    """Of the rows that are kept for the second pass."""


def estimate(sources: Sequence[SourceInfo], keeping: Keeping) -> Estimate:
    """For these sources at these settings. Where features fire seldom it is less."""
    sampled = FILLED_POWERS * keeping.per_power
    shown = keeping.records + sampled + keeping.near_misses
    sums = 4 * BINS + 8 * GROUPS + 2 * 4 * POWERS + 8
    unions = keeping.records * CANDIDATE.itemsize + SKETCH * PLACE.itemsize + sampled * STRATUM.itemsize
    per_feature = sums + WAITING * unions + 8 * (POWERS + 2)
    memory, index, rows = 0.0, 0.0, 0
    for source in sources:
        is_neuron = source.kind is Kind.NEURON
        firing = source.n_features / 8 if is_neuron else 4 * FIRES
        window = SPAN if is_neuron else USUAL_WINDOW
        memory += source.n_features * per_feature + keeping.positions * (firing + SAMPLED.itemsize)
        each = shown * (RECORD.itemsize + 8 + 5 * window) + 8 * SKETCH + FILLED_POWERS * (10 * 8 + 9)
        index += source.n_features * (each + 20 * PEAK_TOKEN.itemsize + 160) + keeping.positions * firing
        rows += 4 * source.n_features if is_neuron else 8 * FIRES
    return Estimate(int(memory), int(index), rows)
