"""Linear layers over weights that oneDNN has laid out for this machine once: plain ones are laid out at every call."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

SMALLEST = 2**18
"""Numbers in a weight from which on packing pays. Of 2 or more rows the usual time is 0.3 to 0.9 of the plain one from
there on, and 1.2 to 3 times it for the weights of the demo model; so there is nothing to be timed at every start."""


class PackedLinear(nn.Module):
    """In place of a linear layer: x @ Wᵀ + b in float32 on a CPU. It has no `weight`, so who reads one finds out."""

    def __init__(self, module: nn.Module) -> None:
        """Takes the weight of an nn.Linear or a Conv1D out of it: after that only one copy is left, the packed one."""
        super().__init__()
        weight: Tensor = module.weight.detach()  # type: ignore[operator]
        rows = weight.t() if isinstance(module, Conv1D) else weight  # [d_out, d_in]
        self._emptied = (module,)  # in a tuple, and so none of this module's own
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(rows)
        self.bias: Tensor | None = module.bias  # type: ignore[assignment]
        module.weight = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_out] of x [..., d_in]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], None)
        return y

    @property
    def shape(self) -> tuple[int, int]:
        """[d_out, d_in] of the weight."""
        d_out, d_in = self._weight.shape
        return int(d_out), int(d_in)

    def dense(self) -> Tensor:
        """The weight [d_out, d_in], bit for bit as it was: a copy."""
        rows: Tensor = self._weight.to_dense()
        return rows

    def columns(self, index: Tensor) -> Tensor:
        """[k, d_out]: some columns of the weight, bit for bit. Each is the product with a one among zeros."""
        ones = torch.zeros(len(index), self.shape[1])
        ones[torch.arange(len(index)), index] = 1.0
        y: Tensor = torch.ops.mkldnn._linear_pointwise(ones, self._weight, None, "none", [], None)
        return y

    def unpacked(self) -> nn.Module:
        """The layer that it stands for, its weight bit for bit as it was."""
        [module] = self._emptied
        rows = self._weight.to_dense()
        weight = rows.t().contiguous() if isinstance(module, Conv1D) else rows
        module.weight = nn.Parameter(weight, requires_grad=False)
        return module


def pack_linears(model: nn.Module, smallest: int = SMALLEST) -> int:
    """Packs the linear layers of a model where that pays, each in its place; their number.

    One after the other, so that memory holds hardly more than one twice, if nothing else refers to their weights. A
    layer stays plain whose weight has less than `smallest` numbers, is not in float32 on a CPU or is another's too, or
    whose class is derived from the usual ones.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    holders = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    packed: dict[int, PackedLinear] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in packed:
            model.set_submodule(path, packed[id(module)])
        elif type(module) in (nn.Linear, Conv1D) and path:
            weight: Tensor = module.weight
            suits = weight.dtype == torch.float32 and weight.device.type == "cpu" and weight.numel() >= smallest
            if suits and holders[id(weight)] == 1:
                packed[id(module)] = PackedLinear(module)
                model.set_submodule(path, packed[id(module)])
    return len(packed)


def unpack_linears(model: nn.Module) -> None:
    """Puts the plain layers back."""
    plain: dict[int, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, PackedLinear):
            if id(module) not in plain:
                plain[id(module)] = module.unpacked()
            model.set_submodule(path, plain[id(module)])
