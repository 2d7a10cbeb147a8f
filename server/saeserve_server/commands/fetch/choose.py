"""Of a repository's files, those that a path names: `{layer}` stands for a layer, `*` and `?` for parts of a name.

A path names files, or folders with all that is in them. For each layer exactly one match, so that nobody is served
another SAE than she thought.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from saeserve_server.errors import ConfigError, nearest
from saeserve_server.layers import LAYER, path_expression, ranges

CONFIGURATIONS = re.compile(r"(config|cfg|hyperparams)\.(json|ya?ml)")
"""Files of a folder above an SAE that may describe it."""
SHOWN = 8
"""Most matches that an error lists for a layer."""


def choose(files: Sequence[str], path: str, layers: Sequence[int] | None, where: str) -> dict[int | None, str]:
    """The file or folder that `path` names for each layer; of a path without `{layer}`, the one, under None.

    `layers` None takes all that there are. Raises ConfigError, which lists what matches where that is not one.
    """
    if not path:
        return {None: ""}
    expression = path_expression(path)
    found: dict[int | None, list[str]] = defaultdict(list)
    for candidate in sorted({*files, *_folders(files)}):
        if match := expression.fullmatch(candidate):
            found[int(match["layer"]) if LAYER in path else None].append(candidate)
    if not found:
        known = nearest(path.replace(LAYER, "0"), _folders(files) or files, 5)
        raise ConfigError(f"{where}: nothing there matches {path}{known}")
    if layers is not None and LAYER in path:
        missing = [layer for layer in layers if layer not in found]
        if missing:
            there = ranges([layer for layer in found if layer is not None])
            raise ConfigError(f"{where}: nothing there matches {path} for layers {ranges(missing)}; layers {there} do")
        found = {layer: found[layer] for layer in layers}
    several = {layer: names for layer, names in found.items() if len(names) > 1}
    if several:
        lines = [f"{where}: {path}: expected one match{' for each layer' * (LAYER in path)}; choose one of"]
        for layer, names in sorted(several.items(), key=lambda item: item[0] or 0):
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            layer_name = "" if layer is None else f"layer {layer}: "
            lines.append(f"  {layer_name}{' '.join(names[:SHOWN])}{more}")
        raise ConfigError(*lines)
    return {layer: names[0] for layer, names in sorted(found.items(), key=lambda item: item[0] or 0)}


def files_of(files: Iterable[str], chosen: str) -> list[str]:
    """The chosen file, or all of the chosen folder, and the configurations beside and above it."""
    parents = {str(parent) for parent in PurePosixPath(chosen).parents} if chosen else set()
    stem = PurePosixPath(chosen).stem if chosen else ""

    def belongs(name: str) -> bool:
        file = PurePosixPath(name)
        if name == chosen or not chosen or name.startswith(chosen + "/"):
            return True
        if str(file.parent) not in parents:
            return False
        beside = str(file.parent) == str(PurePosixPath(chosen).parent) and file.suffix in (".json", ".yaml", ".yml")
        return bool(CONFIGURATIONS.fullmatch(file.name)) or (beside and file.stem in (stem, f"{stem}_cfg"))

    return [name for name in files if belongs(name)]


def _folders(files: Iterable[str]) -> set[str]:
    return {str(parent) for file in files for parent in PurePosixPath(file).parents} - {"."}
