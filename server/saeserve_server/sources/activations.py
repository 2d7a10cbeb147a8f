"""The nonlinearities of SAEs: from pre-activations p [rows, d_sae] to activations a ≥ 0, and where a latent fires.

Each names its *firing bar*: a latent fires where p > bar, and nowhere else but where an activation says so itself
(TopK settles equal values by the lower index). `apply` may write into p and gives the activations; a row with NaN in p
gives NaN. `margins` is how far each p is from the value at which its latent goes on or off, positive where it fires.
`scaled` is the activation of latents whose p are multiplied by factors > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.sources.tensors import check_kept


@dataclass(frozen=True, slots=True)
class ReLU:
    """a = max(p, 0)."""

    name = "relu"

    def bar(self, p: Tensor) -> Tensor:
        """0."""
        return p.new_zeros(1)

    def apply(self, p: Tensor) -> Tensor:
        """Activations [rows, d_sae]."""
        return p.relu_()

    def margins(self, p: Tensor) -> Tensor:
        """[rows, d_sae] p less the bar."""
        return p - self.bar(p)

    def scaled(self, factors: Tensor) -> ReLU:
        """Itself: it keeps signs."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class JumpReLU:
    """a = relu(p) where p > threshold, else 0. BatchTopK is one with the same threshold for all latents."""

    threshold: Tensor  # [d_sae]
    name = "jumprelu"

    def bar(self, p: Tensor) -> Tensor:
        """[d_sae] the threshold, at least 0."""
        return self.threshold.clamp_min(0)

    def apply(self, p: Tensor) -> Tensor:
        """Activations [rows, d_sae]. The only large array made is a mask of a quarter of their size."""
        return p.masked_fill_(p <= self.bar(p), 0.0)

    def margins(self, p: Tensor) -> Tensor:
        """[rows, d_sae] p less the bar."""
        return p - self.bar(p)

    def scaled(self, factors: Tensor) -> JumpReLU:
        """Thresholds scale along."""
        return JumpReLU(self.threshold * factors)


@dataclass(frozen=True, slots=True, eq=False)
class Gated:
    """a = relu(p · exp(r_mag) + b_mag) where p + b_gate > 0, else 0. Here p has no bias of its own."""

    b_gate: Tensor  # [d_sae]
    b_mag: Tensor  # [d_sae]
    r_mag: Tensor  # [d_sae]
    name = "gated"

    def bar(self, p: Tensor) -> Tensor:
        """[d_sae] where both the gate is open and the magnitude positive."""
        return torch.maximum(-self.b_gate, -self.b_mag * torch.exp(-self.r_mag))

    def apply(self, p: Tensor) -> Tensor:
        """Activations [rows, d_sae]."""
        shut = p <= -self.b_gate
        return p.mul_(self.r_mag.exp()).add_(self.b_mag).relu_().masked_fill_(shut, 0.0)

    def margins(self, p: Tensor) -> Tensor:
        """[rows, d_sae] p less the bar."""
        return p - self.bar(p)

    def scaled(self, factors: Tensor) -> Gated:
        """Both biases scale along, the gain does not."""
        return Gated(self.b_gate * factors, self.b_mag * factors, self.r_mag)


@dataclass(frozen=True, slots=True)
class TopK:
    """a = relu(p) for the k largest p of a row, else 0; of equal ones those with the lower index."""

    k: int
    name = "topk"

    def bar(self, p: Tensor) -> Tensor:
        """[rows, 1] the k-th largest p, at least 0. Latents that equal it fire too, lowest index first."""
        return p.topk(self.k, dim=-1).values[:, -1:].clamp_min(0)

    def apply(self, p: Tensor) -> Tensor:
        """Activations [rows, d_sae]."""
        values, indices = p.topk(min(self.k + 1, p.shape[-1]), dim=-1)
        if values.shape[-1] > self.k:  # torch.topk leaves open which of equal values it takes
            tied = (values[:, self.k - 1] == values[:, self.k]) & (values[:, self.k] > 0)
            if bool(tied.any()):
                rows = tied.nonzero().squeeze(1)
                order = p[rows].sort(dim=-1, descending=True, stable=True)
                values[rows], indices[rows] = order.values[:, : self.k + 1], order.indices[:, : self.k + 1]
            values, indices = values[:, : self.k], indices[:, : self.k]
        return p.zero_().scatter_(-1, indices, values.relu())

    def margins(self, p: Tensor) -> Tensor:
        """[rows, d_sae] p less the bar; the bar of the k largest is the best p left out, at least 0: the two at the cut
        are each as far from it as they are from each other."""
        largest, indices = p.topk(min(self.k + 1, p.shape[-1]), dim=-1)
        last = largest[:, self.k - 1 : self.k].clamp_min(0)
        left_out = largest[:, self.k :].clamp_min(0) if largest.shape[-1] > self.k else torch.zeros_like(last)
        return (p - last).scatter_(-1, indices[:, : self.k], largest[:, : self.k] - left_out)

    def scaled(self, factors: Tensor) -> TopK:
        """Raises ConfigError: other latents would be the k largest."""
        raise ConfigError("fold_decoder_norm: expected false, it would change which latents are the k largest")


@dataclass(frozen=True, slots=True)
class GroupMax:
    """a = relu(p) for the largest p of each of `groups` runs of latents, else 0; of equal ones the lower index."""

    groups: int
    name = "groupmax"

    def bar(self, p: Tensor) -> Tensor:
        """[rows, d_sae] the largest p of the latent's group, at least 0. The first that equals it fires."""
        largest = p.unflatten(-1, (self.groups, -1)).amax(dim=-1, keepdim=True).clamp_min(0)
        bar: Tensor = largest.expand(-1, -1, p.shape[-1] // self.groups).flatten(1)
        return bar

    def apply(self, p: Tensor) -> Tensor:
        """Activations [rows, d_sae]."""
        grouped = p.unflatten(-1, (self.groups, -1))
        values = grouped.amax(dim=-1, keepdim=True)  # NaN passes through
        first = (grouped == values).to(torch.uint8).argmax(dim=-1, keepdim=True)
        activations: Tensor = grouped.zero_().scatter_(-1, first, values.relu()).flatten(1)
        return activations

    def margins(self, p: Tensor) -> Tensor:
        """[rows, d_sae] as for TopK, within each group."""
        grouped = p.unflatten(-1, (self.groups, -1))
        return TopK(1).margins(grouped.flatten(0, 1)).view_as(p)

    def scaled(self, factors: Tensor) -> GroupMax:
        """Raises ConfigError: other latents would be the largest of their groups."""
        raise ConfigError("fold_decoder_norm: expected false, it would change which latents are the largest")


Activation = ReLU | JumpReLU | Gated | TopK | GroupMax


def check_activation(activation: Activation, d_sae: int) -> None:
    """Raises ConfigError for a number of latents or groups that `d_sae` latents cannot have."""
    if isinstance(activation, TopK):
        check_kept("topk", activation.k, d_sae)
    if isinstance(activation, GroupMax):
        check_kept("groupmax", activation.groups, d_sae)
