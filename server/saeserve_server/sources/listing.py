"""What would be served, as text: the table that `saeserve-server sources` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import DEAD_DENSITY, SourceInfo
from saeserve_server.units import readable_bytes

Densities = npt.NDArray[np.floating]

HEADERS = ("source", "hook point", "architecture", "inputs", "features", "dead", "memory", "revision", "also")
NUMBERS = {"inputs", "features", "dead", "memory"}


def listing(sources: Sequence[SourceInfo], densities: Mapping[str, Densities | None], device: str) -> str:
    """One line for each source, the sums, then the warnings.

    `densities` are the shares of tokens [n_features] on which features fire, by source id; `dead` is - without.
    """
    rows = [HEADERS, *(_row(source, densities.get(source.id)) for source in sources)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
    lines = [
        "  ".join(
            cell.rjust(width) if header in NUMBERS else cell.ljust(width)
            for header, cell, width in zip(HEADERS, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    features = sum(source.n_features for source in sources)
    memory = readable_bytes(sum(source.memory_bytes for source in sources))
    lines += ["", f"{len(sources)} sources, {features:,} features, {memory} on {device}"]
    warnings = [f"warning: {source.name}: {warning}" for source in sources for warning in source.warnings]
    return "\n".join([*lines, *([""] if warnings else []), *warnings])


def _row(source: SourceInfo, density: Densities | None) -> tuple[str, ...]:
    inputs = "" if source.normalization == "none" else f" of {source.normalization}"
    folded = " folded" if source.fold_decoder_norm else ""
    return (
        source.name,
        source.hook_name,
        source.architecture + inputs + folded,
        f"{source.d_in:,}",
        f"{source.n_features:,}",
        _dead(density),
        readable_bytes(source.memory_bytes) if source.memory_bytes else "-",
        source.revision[:12],
        " ".join(source.aliases),
    )


def _dead(density: Densities | None) -> str:
    if density is None:
        return "-"
    dead = int((density < DEAD_DENSITY).sum())
    return f"{dead:,} ({dead / len(density):.0%})"
