"""Every latent, from weights that are laid out for this machine once: plain ones are laid out anew at every call."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.rows import SourceRows, stacked
from saeserve_server.sources.plain import ENTRIES_AT_ONCE, sparse
from saeserve_server.sources.sae import Sae


class _PackedKernel(ABC):
    """An SAE's latents by one product. Raises ConfigError for an SAE that it does not suit."""

    def __init__(self, sae: Sae) -> None:
        check_float32(sae)
        self._sae = sae
        self._at_once = max(1, ENTRIES_AT_ONCE // sae.d_sae)

    @torch.inference_mode()
    def rows(self, x: Tensor) -> SourceRows:
        """See Kernel."""
        starts = range(0, max(1, len(x)), self._at_once)
        return stacked([self._some(x[first : first + self._at_once]) for first in starts])

    def _some(self, x: Tensor) -> SourceRows:
        p = self._linear(self._sae.inputs(x).contiguous())
        return sparse(self._sae.activation.apply(self._sae.rescaled(p)))

    @abstractmethod
    def _linear(self, x: Tensor) -> Tensor:
        """x @ W_encᵀ + b_enc [rows, d_sae]."""


class PackedKernel(_PackedKernel):
    """By oneDNN, which comes with PyTorch."""

    name = "onednn"

    def __init__(self, sae: Sae) -> None:
        super().__init__(sae)
        self._weights = torch.ops.mkldnn._reorder_linear_weight(sae.W_enc.contiguous(), self._at_once)

    def _linear(self, x: Tensor) -> Tensor:
        p: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weights, self._sae.b_enc, "none", [], None)
        return p


class OnnxRuntimeKernel(_PackedKernel):
    """By ONNX Runtime. Raises ImportError where that is not installed."""

    name = "onnxruntime"

    def __init__(self, sae: Sae) -> None:
        from saeserve_server.kernels.onnx import FloatProduct

        super().__init__(sae)
        self._product = FloatProduct(sae.W_enc.contiguous().numpy(), torch.get_num_threads())

    def _linear(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self._product(x.numpy())).add_(self._sae.b_enc)


def check_float32(sae: Sae) -> None:
    """Raises ConfigError for an SAE that is not kept in float32 on a CPU."""
    if sae.W_enc.dtype != torch.float32 or sae.W_enc.device.type != "cpu":
        raise ConfigError(f"W_enc: expected float32 on a CPU, got {sae.W_enc.dtype} on {sae.W_enc.device}")
