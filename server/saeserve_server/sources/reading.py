"""The SAE that a description's files hold, read: from here on there are weights, and torch."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve_server.catalog import FloatArray
from saeserve_server.errors import ConfigError
from saeserve_server.sources.activations import Activation, Gated, GroupMax, JumpReLU, ReLU, TopK
from saeserve_server.sources.description import DensityFile, Description, complete
from saeserve_server.sources.layout import share_density
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.tensors import is_finite, naming
from saeserve_server.sources.weights import open_weights


def read(description: Description) -> tuple[Sae, tuple[str, ...]]:
    """The SAE, in float32 on the CPU, and warnings. Raises ConfigError, which names the file and what is wrong.

    Its encoder may be mapped from the file, which must not be written to from then on.
    """
    layout = complete(description).layout
    warnings: list[str] = []
    with naming(description.weights):
        file = open_weights(description.weights)
        layout.fit(file)  # the file may have changed since it was described
        layout.check_ones(file)
        W_enc = layout.take(file, "W_enc")
        b_enc = layout.take(file, "b_enc").clone() if "b_enc" in layout.parts else torch.zeros(description.d_sae)
        norm = layout.decoder_norms(file) if "W_dec" in layout.parts else None
        b_dec = layout.take(file, "b_dec").clone() if "b_dec" in layout.parts else None
        steps = description.input_steps(b_dec)
        parts = {role: layout.take(file, role).clone() for role in ("b_gate", "b_mag", "r_mag") if role in layout.parts}
        threshold = layout.take(file, "threshold").clone() if "threshold" in layout.parts else None
        activation = _activation(description, threshold, parts)
    density = None
    if description.density is not None:
        with naming(description.density.path):
            density, warning = _density(description.density, description.d_sae)
            warnings += [warning] if warning else []
    if norm is not None and description.scaling_factor is not None:
        norm = norm / description.scaling_factor  # the decoder gives scaled activations
    with naming(description.weights):
        sae = Sae(
            W_enc=W_enc.contiguous(),  # the file's own pages where it lies there as it is used
            b_enc=b_enc,
            decoder_norm=norm,
            steps=steps,
            activation=activation,
            rescale=description.rescale,
            density=density,
        )
    return sae, tuple(warnings)


def _activation(description: Description, threshold: Tensor | None, gate: dict[str, Tensor]) -> Activation:
    match description.activation:
        case "relu":
            return ReLU()
        case "gated":
            return Gated(**gate)
        case "topk" | "groupmax" as name:
            k = description.k or 0  # `complete` has seen to it
            return TopK(k) if name == "topk" else GroupMax(k)
    if threshold is None:
        factor = description.scaling_factor if description.threshold_is_unscaled else None
        threshold = torch.tensor((description.threshold or 0.0) * (factor or 1.0))
    if threshold.ndim == 0:
        threshold = threshold.expand(description.d_sae).clone()
    if description.threshold_is_log:
        threshold = threshold.exp()
    if not is_finite(threshold):
        raise ConfigError("threshold: expected finite numbers")
    return JumpReLU(threshold)


def _density(where: DensityFile, d_sae: int) -> tuple[FloatArray | None, str | None]:
    file = open_weights(where.path)
    entry = file.entries.get(where.tensor)
    if entry is None:
        raise ConfigError(f"{where.tensor}: missing")
    if entry.shape != (d_sae,):
        raise ConfigError(f"{where.tensor}: expected shape [d_sae = {d_sae}], got {list(entry.shape)}")
    return share_density(file.read(where.tensor), where.tensor, log10=where.log10)
