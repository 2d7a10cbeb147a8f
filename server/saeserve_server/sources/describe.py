"""What would be served, as text: the table that `saeserve-server sources` prints."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve_server.catalog import DEAD_DENSITY, SourceInfo

HEADERS = ("source", "hook point", "architecture", "inputs", "features", "dead", "memory", "revision", "also")
NUMBERS = {"inputs", "features", "dead", "memory"}


def describe(sources: Sequence[SourceInfo], device: str) -> str:
    """One line for each source, the sums, then the warnings. `dead` is - where no file says how often latents fire."""
    rows = [HEADERS, *(_row(source) for source in sources)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADERS))]
    lines = [
        "  ".join(
            cell.rjust(width) if header in NUMBERS else cell.ljust(width)
            for header, cell, width in zip(HEADERS, row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    features = sum(source.n_features for source in sources)
    memory = _bytes(sum(source.memory_bytes for source in sources))
    lines += ["", f"{len(sources)} sources, {features:,} features, {memory} on {device}"]
    warnings = [f"warning: {source.name}: {warning}" for source in sources for warning in source.warnings]
    return "\n".join([*lines, *([""] if warnings else []), *warnings])


def _row(source: SourceInfo) -> tuple[str, ...]:
    options = {"none": "", "layer_norm": " layer-normed", "constant_norm_rescale": " rescaled"}
    folded = " folded" if source.fold_decoder_norm else ""
    return (
        source.name,
        source.hook_name,
        source.architecture + options.get(source.normalization, "") + folded,
        f"{source.d_in:,}",
        f"{source.n_features:,}",
        _dead(source),
        _bytes(source.memory_bytes) if source.memory_bytes else "-",
        source.revision[:12],
        " ".join(source.aliases),
    )


def _dead(source: SourceInfo) -> str:
    if source.file_density is None:
        return "-"
    dead = int((source.file_density < DEAD_DENSITY).sum())
    return f"{dead:,} ({dead / source.n_features:.0%})"


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
