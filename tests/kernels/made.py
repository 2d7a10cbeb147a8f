"""SAEs and inputs that try the kernels, and what float64 says of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from saeserve_server.kernels.bounds import UNIT, gamma
from saeserve_server.rows import Csr, SourceRows
from saeserve_server.sources.activations import Activation, Gated, GroupMax, JumpReLU, ReLU, TopK
from saeserve_server.sources.sae import Sae, map_activation
from saeserve_server.sources.steps import Centre, LayerNorm, NormRescale, Scale, Step, SubtractBias

WEIGHTS = ("gaussian", "constant", "few levels", "one column of 1e4", "huge and tiny rows", "denormal", "dead")
INPUTS = ("gaussian", "constant", "few levels", "one column of 1e4", "columns unlike", "zero rows", "tiny", "denormal")
BIASES = ("none", "half fire", "few fire", "ties with the bar")
ACTIVATIONS = ("relu", "jumprelu", "gated", "topk", "all of topk", "groupmax")
STEPS = ("none", "centre", "scale", "layer_norm", "norm_rescale", "bias", "all")


def dense(rows: SourceRows) -> np.ndarray:
    """[rows, latents]; checks what a Csr promises."""
    if not isinstance(rows, Csr):
        assert rows.dtype == np.float32
        return rows
    found = np.zeros((len(rows.indptr) - 1, rows.columns), dtype=np.float32)
    row = np.repeat(np.arange(len(found)), np.diff(rows.indptr))
    place = row * rows.columns + rows.indices.astype(np.int64)
    assert (np.diff(place) > 0).all()
    assert (rows.data > 0).all()
    assert (rows.indptr.dtype, rows.indices.dtype, rows.data.dtype) == (np.int64, np.uint32, np.float32)
    found.ravel()[place] = rows.data
    return found


def make_weights(kind: str, latents: int, d_in: int, generator: np.random.Generator) -> np.ndarray:
    """float32 [latents, d_in]."""
    W = generator.standard_normal((latents, d_in))
    match kind:
        case "constant":
            W[:] = generator.choice([-1.0, 1.0], (latents, 1))
        case "few levels":
            W = np.rint(2 * W)
        case "one column of 1e4":
            W[:, generator.integers(d_in)] *= 1e4
        case "huge and tiny rows":
            W *= 10.0 ** generator.choice([-30, -16, -10, 0, 0, 0, 8, 14, 16, 30], (latents, 1))
        case "denormal":
            W *= 1e-41
        case "dead":
            W *= generator.choice([0, 1], (latents, 1))
    return W.astype(np.float32)


def make_inputs(kind: str, rows: int, d_in: int, generator: np.random.Generator) -> Tensor:
    """float32 [rows, d_in]."""
    x = generator.standard_normal((rows, d_in))
    match kind:
        case "constant":
            x[:] = generator.standard_normal((rows, 1))
        case "few levels":
            x = np.rint(2 * x)
        case "one column of 1e4":
            x[:, generator.integers(d_in)] *= 1e4
        case "columns unlike":
            x *= np.exp(2 * generator.standard_normal(d_in))
        case "zero rows":
            x *= generator.choice([0, 1], (rows, 1))
        case "tiny":
            x *= 10.0 ** generator.choice([-20, -16, -14], (rows, 1))
        case "denormal":
            x *= 1e-41
    return torch.from_numpy(x.astype(np.float32))


def make_steps(kind: str, d_in: int, generator: np.random.Generator) -> tuple[Step, ...]:
    bias = SubtractBias(torch.from_numpy(generator.standard_normal(d_in).astype(np.float32)))
    each: dict[str, Step] = {"scale": Scale(0.37), "centre": Centre(), "norm_rescale": NormRescale(), "bias": bias}
    if d_in > 1:
        each["layer_norm"] = LayerNorm()
    return tuple(each.values()) if kind == "all" else tuple(step for name, step in each.items() if name == kind)


def make_activation(kind: str, latents: int, generator: np.random.Generator) -> Activation:
    def normal() -> Tensor:
        return torch.from_numpy(generator.standard_normal(latents).astype(np.float32))

    match kind:
        case "jumprelu":
            return JumpReLU(normal())
        case "gated":
            return Gated(normal(), normal(), normal())
        case "topk":
            return TopK(int(generator.integers(1, latents + 1)))
        case "all of topk":
            return TopK(latents)
        case "groupmax":
            return GroupMax(int(generator.choice([g for g in range(1, latents + 1) if latents % g == 0])))
    return ReLU()


def make_bias(kind: str, sae: Sae, x: Tensor, generator: np.random.Generator) -> Sae:
    """The SAE with biases, of which "ties" bring every latent to the bar on some row, within a rounding or two."""
    p = replace(sae, rescale=False).pre_activations(x).double()
    match kind:
        case "half fire":
            return replace(sae, b_enc=-p.median(dim=0).values.float())
        case "few fire":
            return replace(sae, b_enc=-p.quantile(0.9, dim=0).float())
        case "ties with the bar":
            row = torch.from_numpy(generator.integers(len(x), size=sae.d_sae))
            tied = p[row, torch.arange(sae.d_sae)].float()
            off = torch.from_numpy(generator.integers(-1, 2, size=sae.d_sae)) * tied.abs() * 2.0**-23
            bar = torch.zeros(1)
            if isinstance(sae.activation, JumpReLU | Gated):
                bar = sae.activation.bar(tied)
            return replace(sae, b_enc=bar - tied + off)
    return sae


def exactly(sae: Sae, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In float64 [rows, d_sae]: what the latents are, how far from going on or off, and how far float32 may be off.

    The inputs are those that float32 gives: they are the same for all kernels.
    """
    inputs, W_enc, b_enc = sae.inputs(x).double(), sae.W_enc.double(), sae.b_enc.double()
    factor = torch.ones_like(b_enc)
    if sae.rescale and sae.decoder_norm is not None:
        factor = sae.decoder_norm.double()
    p = (inputs @ W_enc.T + b_enc) * factor
    size = inputs.norm(dim=1, keepdim=True) * W_enc.norm(dim=1)
    band = (gamma(sae.d_in) * size + 2 * UNIT * (size + b_enc.abs()) + 2.0**-126) * factor
    activation = map_activation(sae.activation, Tensor.double)
    if isinstance(activation, TopK | GroupMax):  # two values differ, each of them rounded
        band = band + band.max(dim=1, keepdim=True).values
    else:
        band = band + activation.bar(p).abs() * 2.0**-20
    return activation.apply(p.clone()).numpy(), activation.margins(p).numpy(), band.numpy()


def wrongly(sae: Sae, x: Tensor, a: np.ndarray) -> np.ndarray:
    """[rows, d_sae] which activations a are not what float64 says, though it says so beyond float32's rounding."""
    expected, margins, band = exactly(sae, x)
    gain = sae.activation.r_mag.double().exp().numpy() if isinstance(sae.activation, Gated) else 1.0
    flipped = ((a > 0) != (expected > 0)) & (np.abs(margins) > band)
    both = (a > 0) & (expected > 0)
    return flipped | (both & (np.abs(a - expected) > band * gain + np.abs(expected) * 2.0**-20))
