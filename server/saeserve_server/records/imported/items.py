"""What a line of an imported file holds, as plain data, and the checks that lines must pass."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.errors import shown
from saeserve_server.records.imported.schema import MOST_INDEX

MOST_TOKENS: Final = 2**16
"""Of a record."""
_SOURCE: Final = re.compile(r"[0-9a-z][0-9a-z_.-]{0,127}")
_BOS: Final = frozenset(["<|endoftext|>", "<bos>", "<s>", "<|begin_of_text|>", "[BOS]", "<|startoftext|>"])
"""How tokenizers write the token before a text: where it leads a record, no feature peaks on it."""


class BadLine(ValueError):
    """A line that cannot be imported: what was expected of it."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A source's id as the file has it, and an index."""

    source: str
    index: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a line says of a feature."""

    feature: Feature
    density: float | None = None
    """Share of tokens on which it fires."""
    maximum: float | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Every other field of the line, as it was."""


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """One record: tokens as the file has them, and an activation on each."""

    feature: Feature
    group: int
    tokens: tuple[str, ...]
    values: npt.NDArray[np.float32]
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """Where the largest value stands, the earliest; a BOS in front is passed over."""
        first = 1 if len(self.tokens) > 1 and self.tokens[0] in _BOS else 0
        return first + int(np.argmax(self.values[first:]))


@dataclass(frozen=True, slots=True)
class Words:
    """One explanation."""

    feature: Feature
    text: str
    score: float | None = None
    type: str = ""
    model: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beside:
    """A line about model, release or source, kept for exports."""

    file: str
    kept: Mapping[str, Any]


Item = Facts | Activations | Words | Beside


@dataclass(frozen=True, slots=True)
class Naming:
    """How sources are called here."""

    source: str | None = None
    """Of all lines, whatever they say."""
    set: str | None = None
    """Of lines that give a layer only; without it these are its neurons."""
    renamed: Mapping[str, str] = field(default_factory=dict)

    def of(self, layer: object) -> str:
        """The source's id, from what a file calls a layer: a number, or an id. Raises BadLine."""
        if self.source is not None:
            return self.source
        number = whole(layer)
        if number is not None:
            name = f"{number}-{self.set}" if self.set else str(number)
        elif isinstance(layer, str):
            name = layer.casefold()
        else:
            raise BadLine(f"layer: expected a number or a source's id, got {shown(layer)}")
        name = self.renamed.get(name, name)
        if not is_source(name):
            raise BadLine(f"layer: expected a source's id of letters, digits, '_', '.' and '-', got {shown(layer)}")
        return name


def is_source(name: str) -> bool:
    """Whether it can be a source's id."""
    return _SOURCE.fullmatch(name) is not None


def whole(value: object) -> int | None:
    """A whole number from 0 on, which may be written as a text; None for anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch("[0-9]{1,12}", value) else None
    if isinstance(value, float) and value.is_integer() and value >= 0:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def index_of(value: object, name: str) -> int:
    """A feature's index. Raises BadLine."""
    index = whole(value)
    if index is None or index > MOST_INDEX:
        raise BadLine(f"{name}: expected a feature's index, got {shown(value)}")
    return index


def number_of(line: Mapping[str, Any], name: str) -> float | None:
    """A number, None where it is missing, null or NaN. Raises BadLine for anything else."""
    value = line.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadLine(f"{name}: expected a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise BadLine(f"{name}: expected a finite number, got {shown(value)}")
    return None if math.isnan(number) else number


def text_of(line: Mapping[str, Any], name: str) -> str:
    """A text, empty where it is missing or null; what is not Unicode is replaced. Raises BadLine for anything else."""
    value = line.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadLine(f"{name}: expected a text, got {shown(value)}")
    return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def tokens_and_values(
    line: Mapping[str, Any], values_name: str
) -> tuple[tuple[str, ...], npt.NDArray[np.float32], dict[str, Any]]:
    """Tokens, values in float32, and the line's other fields. Raises BadLine where they do not fit together."""
    tokens, values = line.get("tokens"), line.get(values_name)
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise BadLine(f"tokens: expected a list of texts, got {shown(tokens)}")
    if not isinstance(values, list):
        raise BadLine(f"{values_name}: expected a list of numbers, got {shown(values)}")
    if len(tokens) != len(values) or not tokens:
        raise BadLine(f"{len(tokens)} tokens and {len(values)} {values_name}: expected as many of both, one at least")
    if len(tokens) > MOST_TOKENS:
        raise BadLine(f"tokens: {len(tokens)}, at most {MOST_TOKENS} are taken")
    return tuple(tokens), _floats(values, values_name), without(line, "tokens", values_name)


def without(line: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The line's other fields."""
    return {name: value for name, value in line.items() if name not in names}


def as_bytes(token: str) -> bytes:
    """What a token of a file stands for. Half a surrogate pair, which no text holds, becomes U+FFFD."""
    return token.encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()


def _floats(values: Sequence[Any], name: str) -> npt.NDArray[np.float32]:
    for value in values:
        if type(value) is not float and type(value) is not int:  # a bool is an int too
            raise BadLine(f"{name}: expected numbers, got {shown(value)}")
    try:
        with np.errstate(over="ignore"):
            found = np.array(values, np.float64).astype("<f4")
    except OverflowError:
        raise BadLine(f"{name}: expected numbers that float32 holds") from None
    if not np.isfinite(found).all():
        raise BadLine(f"{name}: expected finite numbers that float32 holds")
    return found
