"""Every latent, from weights that oneDNN has laid out for this machine once: plain ones are laid out at every call."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.ranking.rows import SourceRows, stacked
from saeserve_server.sources.plain import ENTRIES_AT_ONCE, sparse
from saeserve_server.sources.sae import Sae


class PackedKernel:
    """An SAE's latents by one product, in the order of oneDNN. Raises ConfigError for an SAE that it does not suit."""

    name = "onednn"

    def __init__(self, sae: Sae) -> None:
        if sae.W_enc.dtype != torch.float32 or sae.W_enc.device.type != "cpu":
            raise ConfigError(f"W_enc: expected float32 on a CPU, got {sae.W_enc.dtype} on {sae.W_enc.device}")
        self._sae = sae
        self._rows = max(1, ENTRIES_AT_ONCE // sae.d_sae)
        self._weights = torch.ops.mkldnn._reorder_linear_weight(sae.W_enc.contiguous(), self._rows)

    @torch.inference_mode()
    def rows(self, x: Tensor) -> SourceRows:
        """See Kernel."""
        return stacked([self._some(x[first : first + self._rows]) for first in range(0, max(1, len(x)), self._rows)])

    def _some(self, x: Tensor) -> SourceRows:
        sae = self._sae
        linear = torch.ops.mkldnn._linear_pointwise
        p = linear(sae.inputs(x).contiguous(), self._weights, sae.b_enc, "none", [], None)
        return sparse(sae.activation.apply(sae.rescaled(p)))
