"""What is done to the activations of a hook point before an SAE's linear map: the input steps, in the order of use.

Each takes rows x [rows, d_in] in float32 and gives new ones; none writes into its input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LAYER_NORM_EPSILON = 1e-5
"""Added to the standard deviation, not to the variance."""


@dataclass(frozen=True, slots=True)
class Centre:
    """x − mean(x) of each row: what TransformerLens' centred writing weights do to the residual stream."""

    name = "centred"

    def __call__(self, x: Tensor) -> Tensor:
        """The rows, each with mean 0."""
        return x - x.mean(dim=-1, keepdim=True)


@dataclass(frozen=True, slots=True)
class Scale:
    """x · factor: SAELens' expected_average_only_in, OpenMOSS' dataset-wise norm."""

    factor: float

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"times {self.factor:.6g}"

    def __call__(self, x: Tensor) -> Tensor:
        """The rows, scaled."""
        return x * self.factor


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """z = x − mean(x), z / (std(z) + 1e-5), std unbiased: OpenAI's `LN`, SAELens' layer_norm."""

    name = "layer_norm"

    def __call__(self, x: Tensor) -> Tensor:
        """The rows with mean 0 and standard deviation near 1."""
        z = x - x.mean(dim=-1, keepdim=True)
        std: Tensor = z.std(dim=-1, keepdim=True)
        return z.div_(std.add_(LAYER_NORM_EPSILON))


@dataclass(frozen=True, slots=True)
class NormRescale:
    """x · sqrt(d_in) / |x|: SAELens' constant_norm_rescale."""

    name = "constant_norm_rescale"

    def __call__(self, x: Tensor) -> Tensor:
        """The rows with norm sqrt(d_in); a row of zeros stays one."""
        import torch

        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x.div(norm.clamp_min_(torch.finfo(x.dtype).tiny)).mul_(float(x.shape[-1]) ** 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class SubtractBias:
    """x − b: an autoencoder's decoder bias. Transcoders have none: theirs belongs to another space."""

    bias: Tensor  # [d_in]
    name = "minus b_dec"

    def __call__(self, x: Tensor) -> Tensor:
        """The rows without the bias."""
        return x - self.bias


Step = Centre | Scale | LayerNorm | NormRescale | SubtractBias


def map_step(step: Step, change: Callable[[Tensor], Tensor]) -> Step:
    """The same step with its tensor changed, for example moved to a device."""
    return replace(step, bias=change(step.bias)) if isinstance(step, SubtractBias) else step


def tensor_of(step: Step) -> Tensor | None:
    """The tensor that a step holds, if it holds one."""
    return step.bias if isinstance(step, SubtractBias) else None
