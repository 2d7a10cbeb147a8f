"""What the readers of all formats share: a description from a header, facts from JSON and from the names of paths."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from saeserve_server.errors import ConfigError, shown
from saeserve_server.sources.description import Description
from saeserve_server.sources.layout import Layout
from saeserve_server.sources.tensors import naming
from saeserve_server.sources.weights import WeightFile, open_weights

T = TypeVar("T")

LAYER_PATTERNS = (
    r"blocks\.(\d+)\.",
    r"(?:^|[_.-])layers?[_.-]?(\d+)",
    r"(?:^|-)L(\d+)[A-Z]?(?:-|$)",
)
"""How releases write the layer in the name of a file or folder, the surest first."""

LONGEST_NAME = 256
"""Characters of a model's, a hook point's or an option's name."""


@contextmanager
def opened(path: Path) -> Iterator[WeightFile]:
    """The opened weight file; errors raised in the block name it."""
    with naming(path):
        yield open_weights(path)


def holds(path: Path, *names: str) -> bool:
    """Whether a file can be opened and holds tensors of these names: how formats without file names are told."""
    try:
        entries = open_weights(path).entries
    except ConfigError:
        return False
    return all(name in entries for name in names)


def describe_file(
    name: str, file: WeightFile, layout: Layout, *, beside: tuple[Path, ...] = (), **facts: Any
) -> Description:
    """The description of an SAE in `file`; `beside` are the other files that its activations follow from.

    Raises ConfigError where the file does not hold what the layout says.
    """
    sizes = layout.fit(file)
    layout.check_ones(file)
    part = layout.parts["W_enc"]
    encoder = file.entries[part.name]
    return Description(
        format=name,
        weights=file.path,
        files=(*file.files, *beside),
        layout=layout,
        d_in=sizes["d_in"],
        d_sae=sizes["d_sae"],
        dtype=encoder.dtype,
        is_mapped=encoder.is_mapped and encoder.dtype == "float32" and part.axes == ("d_sae", "d_in"),
        **facts,
    )


def check_sizes(
    description: Description, values: Mapping[str, Any], where: str, *, d_in: str = "d_in", d_sae: str = "d_sae"
) -> None:
    """Raises ConfigError where d_in or d_sae of the header are not what a configuration file says under these keys."""
    for key, name, actual in ((d_in, "d_in", description.d_in), (d_sae, "d_sae", description.d_sae)):
        with naming(where):
            expected = get(values, key, int)
        if expected not in (None, actual):
            says = shown(expected) if key == name else f"{key} = {shown(expected)}"
            raise ConfigError(f"{name} is {actual}, but {where} says {says}")


def get(values: Mapping[str, Any], key: str, kind: type[T], default: Any = None) -> Any:
    """A value of that type, or the default where there is none. Raises ConfigError for another type."""
    value = values.get(key)
    if value is None:
        return default
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if value.bit_length() < 64 else math.inf
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{key}: expected {kind.__name__}, got {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}: expected a finite number, got {value}")
    if isinstance(value, str) and not (value.isprintable() and len(value) <= LONGEST_NAME):
        raise ConfigError(f"{key}: expected a name of at most {LONGEST_NAME} printable characters, got {shown(value)}")
    return value


def one_of(values: Mapping[str, Any], key: str, supported: tuple[str, ...], default: str) -> Any:
    """A value that is one of those supported. Raises ConfigError for another."""
    value = values.get(key)
    if value is None:
        return default
    if value not in supported:
        raise ConfigError(f"{key}: expected one of {', '.join(supported)}, got {shown(value)}")
    return value


def layer_in(path: Path, last: int = 1) -> int | None:
    """The layer that the deepest of the `last` names of a path with one says; None where none does."""
    for part in reversed(path.parts[-last:]):
        for pattern in LAYER_PATTERNS:
            if match := re.search(pattern, part):
                return int(match[1])
    return None


def find_in(path: Path, pattern: str, last: int = 0) -> re.Match[str] | None:
    """The first match of a pattern in the `last` names of a path, or in all of them; the deepest first.

    Folders above those that a release's own layout has are the user's, and say nothing.
    """
    return next((match for part in reversed(path.parts[-last:]) if (match := re.search(pattern, part))), None)
