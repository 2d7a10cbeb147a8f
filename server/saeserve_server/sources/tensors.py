"""Tensors of a weight file, checked as they are taken out, so that every error names the file and the tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from saeserve_server.catalog import FloatArray
from saeserve_server.errors import ConfigError, nearest


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Prefixes the message of a ConfigError raised in the block with the place (file, key) that it is about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error.__cause__


class Tensors:
    """The tensors of one file by name. `names` is what it holds, `get` reads one, `sizes` are of axes known before."""

    def __init__(self, names: Collection[str], get: Callable[[str], object], **sizes: int) -> None:
        self._names = names
        self._get = get
        self._sizes = dict(sizes)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def take(self, name: str, *dimensions: str) -> Tensor:
        """The tensor `name` in float32 on the CPU.

        `dimensions` name its axes (`d_sae`, `d_in`); an axis has one size throughout the file. Raises ConfigError for
        a tensor that is missing, not a plain array of floats, of another shape, or not finite. The result may still
        share memory with the file: what is kept has to be copied.
        """
        return self._finite(name, self._array(name, dimensions).float())

    def take_density(self, name: str, dimension: str, *, log10: bool = False) -> tuple[FloatArray | None, str | None]:
        """[dimension] shares of tokens on which latents fire, or None and, where something is wrong, a warning.

        A statistic must not keep an SAE from being served, so values that cannot be shares are left out, not refused.
        All ones means that nothing was measured: OpenAI's training code starts with them.
        """
        values = self._array(name, (dimension,)).double()
        if log10:
            values = torch.pow(10.0, values)
        if not bool(((values >= 0) & (values <= 1 + 1e-3)).all()):  # NaN too
            expected = "log10 of shares" if log10 else "shares"
            return None, f"the firing frequencies in {name} are not served: expected {expected} between 0 and 1"
        if bool((values == 1).all()):
            return None, None
        return values.clamp(max=1).to(torch.float32).numpy().astype(np.float32, copy=True), None

    def size(self, dimension: str) -> int:
        """The size of an axis that a tensor taken before has."""
        return self._sizes[dimension]

    def _array(self, name: str, dimensions: tuple[str, ...]) -> Tensor:
        if name not in self._names:
            raise ConfigError(f"{name}: missing{nearest(name, sorted(self._names))}")
        tensor = self._get(name)
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise ConfigError(f"{name}: expected an array of numbers, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise ConfigError(f"{name}: expected floating-point numbers, got {tensor.dtype}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ConfigError(f"{name}: holds fewer numbers than its shape {list(tensor.shape)} says")
        shape = tuple(tensor.shape)
        known = dict(self._sizes)
        fits = len(shape) == len(dimensions) and all(
            size > 0 and known.setdefault(dimension, size) == size
            for dimension, size in zip(dimensions, shape, strict=True)
        )
        if not fits:
            expected = ", ".join(f"{d} = {self._sizes[d]}" if d in self._sizes else d for d in dimensions)
            raise ConfigError(f"{name}: expected shape [{expected}], got {list(shape)}")
        self._sizes = known
        return tensor.detach()

    @staticmethod
    def _finite(name: str, tensor: Tensor) -> Tensor:
        if not is_finite(tensor):
            raise ConfigError(f"{name}: holds values that are not finite (NaN or infinity)")
        return tensor


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; in one pass and without a temporary array."""
    least, largest = torch.aminmax(tensor)  # NaN propagates
    return bool(torch.isfinite(least)) and bool(torch.isfinite(largest))
