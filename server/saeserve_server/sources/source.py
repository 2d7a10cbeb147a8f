"""A source as the engine sees it: what it is, and its rows on activations of its hook point."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from saeserve_server.catalog import SourceInfo
from saeserve_server.rows import SourceRows
from saeserve_server.sources.directions import Decoder
from saeserve_server.sources.plain import PlainKernel
from saeserve_server.sources.sae import Sae


class Source(Protocol):
    """Features that read one hook point."""

    @property
    def info(self) -> SourceInfo:
        """What it is: id, layer, hook point, shapes, revision."""
        ...

    def rows(self, x: Tensor) -> SourceRows:
        """What it gives on the hook point's x [rows, d_in], float32, which is left as it is.

        Raises FloatingPointError where latents are NaN.
        """
        ...


class Kernel(Protocol):
    """A way to compute which latents of an SAE fire, and how strongly. All give the same, up to float32's rounding."""

    @property
    def name(self) -> str:
        """How it is called in metrics and in GetServerInfo."""
        ...

    def rows(self, x: Tensor) -> SourceRows:
        """The latents on x [rows, d_in], float32: those that fire, or [rows, d_sae] if most do.

        Raises FloatingPointError for NaN.
        """
        ...


@dataclass(slots=True, eq=False)
class SaeSource:
    """The latents of an SAE."""

    info: SourceInfo
    sae: Sae
    decoder: Decoder | None = None
    """None where its files hold none of its own."""
    kernel: Kernel = field(init=False)
    """How they are computed: the plain way, until another is chosen."""

    def __post_init__(self) -> None:
        self.kernel = PlainKernel(self.sae)

    def rows(self, x: Tensor) -> SourceRows:
        """See Source."""
        return self.kernel.rows(x)
