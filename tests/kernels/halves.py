"""SAEs and inputs that are hard to screen."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saeserve_server.rows import SourceRows, as_csr
from saeserve_server.sources.activations import Activation, Gated, GroupMax, JumpReLU, ReLU, TopK
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.steps import Centre, SubtractBias

ACTIVATIONS = ("relu", "jumprelu", "gated", "topk", "groupmax")


def hard_sae(activation: str, seed: int, d_in: int = 48, d_sae: int = 240, *, rescale: bool = False) -> Sae:
    """Rows of very different norm, some dead, some denormal, outliers among the columns; of each a third fires."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    W_enc = normal(d_sae, d_in) / d_in**0.5
    W_enc[:, :2] *= 1e4 if seed % 2 else 1.0
    W_enc[: d_sae // 8] *= 10.0 ** (6 * normal(d_sae // 8, 1))
    W_enc[d_sae // 8 : d_sae // 8 + 4] = 0
    W_enc[d_sae // 8 + 4 : d_sae // 8 + 8] *= 1e-40
    return Sae(
        W_enc=W_enc,
        b_enc=torch.zeros(d_sae) if activation == "gated" else 0.3 * normal(d_sae),
        decoder_norm=normal(d_sae).abs() + 0.1,
        steps=(Centre(), SubtractBias(normal(d_in))),
        activation=_activation(activation, d_sae, normal),
        rescale=rescale,
    )


def _activation(name: str, d_sae: int, normal: object) -> Activation:
    draw = torch.Generator().manual_seed(1)
    some = torch.rand(d_sae, generator=draw)
    return {
        "relu": ReLU(),
        "jumprelu": JumpReLU(2 * some),
        "gated": Gated(some - 1, some - 0.9, some - 0.5),
        "topk": TopK(9),
        "groupmax": GroupMax(12),
    }[name]


def hard_rows(seed: int, d_in: int = 48, rows: int = 21) -> Tensor:
    """Of very different norm; one of zeros."""
    draw = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(rows, d_in, generator=draw) * 10.0 ** (2 * torch.randn(rows, 1, generator=draw))
    x[rows // 2] = 0
    return x


def entries(rows: SourceRows) -> dict[tuple[int, int], float]:
    """What fires, by row and latent."""
    csr = as_csr(rows)
    row = np.repeat(np.arange(len(csr.indptr) - 1), np.diff(csr.indptr))
    return dict(zip(zip(row.tolist(), csr.indices.tolist(), strict=True), csr.data.tolist(), strict=True))
