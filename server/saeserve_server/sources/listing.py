"""What would be served, as text: the table that `saeserve-server sources` prints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import DEAD_DENSITY, Catalog, SourceInfo
from saeserve_server.errors import printable
from saeserve_server.units import readable_bytes, table

Densities = npt.NDArray[np.floating]

HEADERS = ("source", "hook point", "architecture", "inputs", "features", "dead", "memory", "revision", "also")
NUMBERS = {"inputs", "features", "dead", "memory"}


def listing(catalog: Catalog, densities: Mapping[str, Densities | None]) -> str:
    """One line for each source, the sums, what stands before texts, then the warnings.

    `densities` are the shares of tokens [n_features] on which features fire, by source id; `dead` is - without.
    """
    model, sources = catalog.model, catalog.sources
    lines = table([HEADERS, *(_row(source, densities.get(source.id)) for source in sources)], NUMBERS)
    features = sum(source.n_features for source in sources)
    memory = readable_bytes(sum(source.memory_bytes for source in sources))
    lines += ["", f"{len(sources)} sources, {features:,} features, {memory} on {model.device}"]
    lines += [f"texts are read {_behind(model.bos_id)}"]
    lines += [f"{one.name} reads them {_behind(one.bos_id)}" for one in sources if one.bos_id != model.bos_id]
    warnings = [f"warning: {model.name}: {warning}" for warning in model.warnings]
    warnings += [f"warning: {source.name}: {warning}" for source in sources for warning in source.warnings]
    return "\n".join([*lines, *([""] if warnings else []), *map(printable, warnings)])


def _behind(bos_id: int | None) -> str:
    return "without BOS" if bos_id is None else f"behind token {bos_id}"


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
