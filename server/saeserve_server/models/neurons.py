"""The weights on either side of an MLP's neurons: what each of them writes, and what it reads.

They are found by shape: the linear layer that follows the hook point of the neurons, and the one beside it that is as
wide the other way. A gated MLP has two of those, and so no one direction that a neuron reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saeserve_server.models.hooks import HookPlace
from saeserve_server.models.packed import PackedLinear

FEW = 64
"""Columns that are taken out of a packed weight one by one; for more it is unpacked."""


@dataclass(frozen=True, slots=True, eq=False)
class NeuronWeights:
    """A direction for each neuron of a layer, in a linear layer's weight."""

    module: nn.Module
    along_columns: bool
    """Whether neuron i is column i of the weight [d_out, d_in]: so it is of what they write."""
    count: int
    """Neurons."""
    width: int
    """Of the residual stream."""

    @torch.inference_mode()
    def take(self, index: Tensor) -> Tensor:
        """float32 [k, width] on the CPU: those of some neurons."""
        module = self.module
        if isinstance(module, PackedLinear):
            if self.along_columns and len(index) <= FEW:
                return module.columns(index)
            weight = module.dense()
        else:
            weight = _weight(module)
        index = index.to(weight.device)
        rows = weight[:, index].t() if self.along_columns else weight[index]
        return rows.float().cpu()


def writing(model: nn.Module, place: HookPlace, d_mlp: int, d_model: int) -> NeuronWeights | None:
    """W_out of the MLP whose neurons are read at `place`; None where no one layer is known to be it."""
    module = model.get_submodule(place.module)
    if place.side == "in":
        return NeuronWeights(module, True, d_mlp, d_model) if _shape(module) == (d_model, d_mlp) else None
    found = _beside(model, place, (d_model, d_mlp))
    return None if found is None else NeuronWeights(found, True, d_mlp, d_model)


def reading(model: nn.Module, place: HookPlace, d_mlp: int, d_model: int) -> NeuronWeights | None:
    """W_in of the same MLP; None where there is none such, or, as in a gated MLP, several."""
    found = _beside(model, place, (d_mlp, d_model))
    return None if found is None else NeuronWeights(found, False, d_mlp, d_model)


def _beside(model: nn.Module, place: HookPlace, shape: tuple[int, int]) -> nn.Module | None:
    """The one linear layer of that shape [d_out, d_in] among the module's brothers, which is not the module itself."""
    parent, _, _ = place.module.rpartition(".")
    own = model.get_submodule(place.module)
    found = [one for one in model.get_submodule(parent).children() if one is not own and _shape(one) == shape]
    return found[0] if len(found) == 1 else None


def _shape(module: nn.Module) -> tuple[int, int] | None:
    """[d_out, d_in] of a linear layer; None for any other module."""
    if isinstance(module, PackedLinear):
        return module.shape
    if isinstance(module, nn.Linear | Conv1D):
        d_out, d_in = _weight(module).shape
        return int(d_out), int(d_in)
    return None


def _weight(module: nn.Module) -> Tensor:
    """[d_out, d_in] of a linear layer."""
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    return weight.t() if isinstance(module, Conv1D) else weight
