"""Layers as people write them: `0-3,5`, and `{layer}`, `*` and `?` in paths."""

from __future__ import annotations

import re
from collections.abc import Iterable

from saeserve_server.errors import ConfigError

LAYER = "{layer}"


def parse_layers(text: str, place: str) -> list[int]:
    """`0-3,5` as sorted layers. Raises ConfigError; `place` is what its message begins with."""
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ConfigError(f"{place}: expected layers such as 0-11 or 0,3,5, got {text!r}")
        layers.update(range(first, last + 1))
    return sorted(layers)


def ranges(layers: Iterable[int]) -> str:
    """Layers as `0-3,5`."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def path_expression(path: str) -> re.Pattern[str]:
    """What a path with patterns matches: `*` and `?` end at a slash, every `{layer}` is the same whole number."""
    parts = [re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") for part in path.split(LAYER)]
    number = "(?P<layer>0|[1-9][0-9]*)(?![0-9])"
    return re.compile(parts[0] + "".join(("(?P=layer)" if i else number) + part for i, part in enumerate(parts[1:])))
