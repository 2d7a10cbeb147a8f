"""Proven bounds for products in bfloat16: what they say about the product of float32 that decides.

As for integers (`bounds`), with bfloat16's rounding of either side for δw and δx, and one more term: products of two
bfloat16 numbers are exact in float32, their sum is not. Tensor cores add in blocks and cut off instead of rounding, so
each of d steps may lose two units in the last place:

    γ' |ŵ| |x̂|, γ' = d 2⁻²² / (1 − d 2⁻²²)

bfloat16 reaches as far as float32, so there is no scale. Vectors near the ends of the range are as in `bounds`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve_server.kernels.bounds import CEILING, FLOOR, INFLATION, UNIT, factors_of, gamma, offsets
from saeserve_server.sources.sae import Sae

ACCUMULATION_UNIT = 2.0**-22
"""What a step of the sum may lose, in shares of what is added."""
LATENTS_AT_ONCE = 8192
"""Latents whose weights are held in float64 at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class HalfLatents:
    """What screening needs of an SAE's weights: they, and three numbers for each latent, float32 [d_sae]."""

    W: Tensor  # bfloat16 [d_sae, d_in], times the decoder norm where the SAE rescales
    norm: Tensor
    error: Tensor
    offset: Tensor
    """A latent is out where its bound is at most bar + offset."""


@dataclass(frozen=True, slots=True, eq=False)
class HalfRows:
    """The same of inputs."""

    x: Tensor  # bfloat16 [rows, d_in]
    reach: Tensor  # float32 [rows]
    error_reach: Tensor


def half_latents(sae: Sae) -> HalfLatents:
    """The SAE's weights in bfloat16, on their device; those that are kept so already are not copied."""
    W_enc, factors = sae.W_enc, torch.from_numpy(factors_of(sae)).to(sae.W_enc.device)
    as_they_are = W_enc.dtype == torch.bfloat16 and not sae.rescale
    W = W_enc if as_they_are else torch.empty_like(W_enc, dtype=torch.bfloat16)
    norm, error = (torch.empty(sae.d_sae, dtype=torch.float64, device=W.device) for _ in range(2))
    for first in range(0, sae.d_sae, LATENTS_AT_ONCE):
        block = slice(first, first + LATENTS_AT_ONCE)
        exact = W_enc[block].double() * factors[block, None]
        if not as_they_are:
            W[block] = exact.to(torch.bfloat16)
        norm[block], error[block] = exact.norm(dim=1), (exact - W[block]).norm(dim=1)
    norm = torch.where(norm > 0, norm.clamp_min(FLOOR), 0.0)
    norm[~(norm <= CEILING)] = torch.inf
    return HalfLatents(W, _up(norm), _up(error), torch.from_numpy(offsets(sae)).to(W.device))


def half_rows(x: Tensor) -> HalfRows:
    """Inputs x [rows, d_in], float32, in bfloat16. Rows that are not finite, or overflow, have bounds that are not."""
    half, exact = x.to(torch.bfloat16), x.double()
    norm, error = exact.norm(dim=1), (exact - half).norm(dim=1)
    d_in = x.shape[1]
    accumulation = d_in * ACCUMULATION_UNIT / (1 - d_in * ACCUMULATION_UNIT) + 8 * UNIT
    length = norm + error  # at least |x̂|
    reach = (error + gamma(d_in) * norm + accumulation * length) * INFLATION
    reach = torch.where(norm > 0, reach + FLOOR, reach)  # for what underflows
    reach[~(norm <= CEILING)] = torch.inf
    return HalfRows(half, _up(reach), _up(length * (1 + accumulation) * INFLATION))


def products(rows: HalfRows, latents: HalfLatents) -> Tensor:
    """ŵ·x̂ [rows, d_sae], summed and given in float32."""
    if rows.x.is_cuda:
        return torch.mm(rows.x, latents.W.t(), out_dtype=torch.float32)
    return rows.x.float() @ latents.W.float().t()


def slack(rows: HalfRows, latents: HalfLatents) -> Tensor:
    """[rows, d_sae] how far the product that decides may be from `products`, on either side."""
    return torch.outer(rows.reach, latents.norm).addcmul_(rows.error_reach[:, None], latents.error[None, :])


def _up(values: Tensor) -> Tensor:
    """Rounded to float32 upwards."""
    rounded = values.float()
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < values, above, rounded)
