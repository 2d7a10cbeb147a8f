"""Which tensor of a weight file is which part of an SAE: a table for each format, held against the file's header.

Every tensor of a file is a part or is listed as ignorable. Anything else is refused: a threshold, a gate or a scale
that were dropped in silence would give wrong activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from saeserve_server.catalog import FloatArray
from saeserve_server.errors import ConfigError, nearest, shown
from saeserve_server.sources.tensors import is_finite
from saeserve_server.sources.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

NOTES = ("note", "step", "steps", "epoch", "date")
"""What a state dict may hold beside tensors that cannot bear on activations."""

NOT_FINITE = "holds values that are not finite (NaN or infinity)"
LATENTS_AT_ONCE = 4096
"""Rows of a decoder that are read together."""
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})


@dataclass(frozen=True, slots=True, init=False)
class Part:
    """A tensor by its name in the file, and what its axes are, in the order in which they lie there."""

    name: str
    axes: tuple[str, ...]

    def __init__(self, name: str, *axes: str) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "axes", axes)


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of an SAE by the names that SAELens gives them (`W_enc`, `b_enc`, `b_dec`, `W_dec`, `threshold`, …)."""

    parts: Mapping[str, Part]
    ignored: tuple[str, ...] = ()
    """Names, or patterns of names, of tensors that no activation depends on."""
    must_be_one: tuple[str, ...] = ()
    """Tensors that may be there if they are all ones, and then change nothing."""
    options: tuple[str, ...] = ()
    """What a state dict may hold beside tensors, read by the format itself."""

    def fit(self, file: WeightFile) -> Mapping[str, int]:
        """The sizes of the axes (`d_sae`, `d_in`, …), read off the header.

        Raises ConfigError for a tensor that is missing, unknown, no array of floats, or of a shape that does not go
        with the others.
        """
        known: dict[str, int] = {}
        for part in self.parts.values():
            entry = file.entries.get(part.name)
            if entry is None:
                if part.name in file.extras:
                    got = type(file.extras[part.name]).__name__
                    raise ConfigError(f"{part.name}: expected an array of numbers, got {got}")
                raise ConfigError(f"{part.name}: missing{nearest(part.name, sorted(file.entries))}")
            if entry.dtype not in FLOATS:
                raise ConfigError(f"{part.name}: expected floating-point numbers, got {entry.dtype}")
            sizes = dict(known)
            fits = len(entry.shape) == len(part.axes) and all(
                size > 0 and sizes.setdefault(axis, size) == size
                for axis, size in zip(part.axes, entry.shape, strict=True)
            )
            if not fits:
                expected = ", ".join(f"{axis} = {known[axis]}" if axis in known else axis for axis in part.axes)
                raise ConfigError(f"{part.name}: expected shape [{expected}], got {list(entry.shape)}")
            known = sizes
        self._refuse_unknown(file)
        return known

    def take(self, file: WeightFile, role: str) -> Tensor:
        """A part in float32 on the CPU, its latents along the first axis. It may still share the file's memory.

        Raises ConfigError for values that are not finite.
        """
        part = self.parts[role]
        tensor = file.read(part.name).float()
        if not is_finite(tensor):
            raise ConfigError(f"{part.name}: {NOT_FINITE}")
        return tensor.t() if part.axes[1:] == ("d_sae",) else tensor

    def decoder_norms(self, file: WeightFile) -> Tensor:
        """[d_sae] norms of the decoder's rows, float32. It is read in blocks: nothing of it stays, nor is there ever a
        copy of all of it, unless it has to be unpacked.

        Raises ConfigError for values that are not finite.
        """
        import torch

        part = self.parts["W_dec"]
        stored = file.read(part.name)
        rows = stored.t() if part.axes[1:] == ("d_sae",) else stored
        norms = torch.empty(len(rows))
        for block, into in zip(rows.split(LATENTS_AT_ONCE), norms.split(LATENTS_AT_ONCE), strict=True):
            weights = block.float()
            if not is_finite(weights):
                raise ConfigError(f"{part.name}: {NOT_FINITE}")
            torch.linalg.vector_norm(weights, dim=1, out=into)
        return norms

    def check_ones(self, file: WeightFile) -> None:
        """Raises ConfigError for a tensor that would change activations if it were applied."""
        for name in self.must_be_one:
            if name in file.entries and not np.allclose(file.numbers(name).astype(np.float64), 1.0):
                raise ConfigError(f"{name}: expected ones only, which change nothing; other values are not supported")

    def _refuse_unknown(self, file: WeightFile) -> None:
        expected = {part.name for part in self.parts.values()}
        allowed = (*self.ignored, *self.must_be_one)
        for name, entry in file.entries.items():
            if name not in expected and not any(fnmatchcase(name, pattern) for pattern in allowed):
                raise ConfigError(
                    f"{name}: a tensor {list(entry.shape)} that this kind of SAE does not have, and leaving it out "
                    f"could give wrong activations; expected only {', '.join(sorted(expected))}"
                )
        for name, value in file.extras.items():
            if value is not None and name not in (*self.options, *NOTES):
                raise ConfigError(
                    f"{name}: {shown(value)}, beside the tensors: nothing says what it does to activations; save the "
                    "tensors alone, and what it says in the configuration"
                )


def share_density(values: Tensor, name: str, *, log10: bool = False) -> tuple[FloatArray | None, str | None]:
    """[d_sae] shares of tokens on which latents fire, or None and, where something is wrong, a warning.

    A statistic must not keep an SAE from being served, so values that cannot be shares are left out, not refused.
    All ones means that nothing was measured: OpenAI's training code starts with them.
    """
    import torch

    values = values.double()
    if log10:
        values = torch.pow(10.0, values)
    if not bool(((values >= 0) & (values <= 1 + 1e-3)).all()):  # NaN too
        expected = "log10 of shares" if log10 else "shares"
        return None, f"the firing frequencies in {name} are not served: expected {expected} between 0 and 1"
    if bool((values == 1).all()):
        return None, None
    return values.clamp(max=1).to(torch.float32).numpy().astype(np.float32, copy=True), None
