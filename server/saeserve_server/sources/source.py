"""A source as the engine sees it: what it is, and its features on rows of activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from saeserve_server.catalog import SourceInfo
from saeserve_server.sources.sae import Sae


class Source(Protocol):
    """Features that read one hook point."""

    @property
    def info(self) -> SourceInfo:
        """What it is: id, layer, hook point, shapes, revision."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """Activations [rows, n_features], float32, of the hook point's x [rows, d_in]; `x` is left as it is."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class SaeSource:
    """The latents of an SAE. Activations are ≥ 0, in a new array that the caller may change."""

    info: SourceInfo
    sae: Sae

    def encode(self, x: Tensor) -> Tensor:
        """Latents [rows, d_sae], float32, ≥ 0, of activations x [rows, d_in]."""
        return self.sae.encode(x)
