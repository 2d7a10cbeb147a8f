"""Random SAEs that fire like trained ones, for load tests: real shapes and a realistic L0 without a download."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.steps import SubtractBias
from saeserve_server.tables import SyntheticSettings

CALIBRATION_ROWS = 256
"""Activations on which the bias is found; of more, evenly spaced ones are taken."""


def synthetic_sae(settings: SyntheticSettings, layer: int, sample: Tensor) -> Sae:
    """A ReLU SAE with `settings.latents` random unit directions, the same for the same seed and layer.

    `sample` [rows, d_in] are activations of its hook point. Their mean is subtracted from inputs, as the `b_dec` of a
    trained SAE nearly does, and one bias for all latents is chosen so that `settings.l0` latents fire on a row of the
    sample on average. Raises ConfigError where that is not possible.
    """
    if settings.l0 >= settings.latents:
        raise ConfigError(f"l0: expected less than the number of latents ({settings.latents}), got {settings.l0:g}")
    sample = sample.float().cpu()
    rows, d_in = sample.shape
    if rows > CALIBRATION_ROWS:
        sample = sample[torch.linspace(0, rows - 1, CALIBRATION_ROWS).round().long()]
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + layer)
    W_enc = torch.empty(settings.latents, d_in).normal_(std=d_in**-0.5, generator=generator)  # rows of norm near 1
    b_dec = sample.mean(dim=0)
    p = (sample - b_dec) @ W_enc.t()
    fire = min(max(1, round(settings.l0 * sample.shape[0])), p.numel() - 1)
    bar = p.flatten().topk(fire + 1).values[-1]  # `fire` of the pre-activations lie above it
    return Sae(
        W_enc=W_enc,
        b_enc=(-bar).repeat(settings.latents),
        decoder_norm=torch.ones(settings.latents),
        steps=(SubtractBias(b_dec),),
    )
