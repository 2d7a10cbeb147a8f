"""Proven bounds: what a product of small integers says about the product of float32 that it stands for.

A vector is quantised by its own largest value: v = v̂ + δv with v̂ = scale · q, q whole numbers. Columns may first be
*equalised*, inputs times s and weights by s, powers of two, which leaves every product of two numbers as it is. For a
latent's weights w and a row x of inputs, both equalised, weights times the decoder norm where the SAE rescales:

    w·x − ŵ·x̂  =  w·δx + δw·x − δw·δx
    |w·x − ŵ·x̂|  ≤  |w| |δx|  +  |δw| (|x| + |δx|)                                                   quantising

To that comes what float32 rounds away, u = 2⁻²⁴ at each step:

    γ |w| |x|, γ = d u / (1 − d u)             by the product that decides, in whatever order it adds d numbers
    8 u (|w| + |δw|) (|x| + |δx|) ≥ 8 u |ŵ·x̂|  by turning the integer product into float32, the two scales, the sums
    all times 1 + 2⁻²⁰                         by the bound itself

So with norm = |w| and error = |δw| by latent, and by row

    reach       = (|δx| + γ |x| + 8 u (|x| + |δx|)) (1 + 2⁻²⁰)
    error_reach = (|x| + |δx|) (1 + 8 u) (1 + 2⁻²⁰)

the w·x that decides is at most `upper` = ŵ·x̂ + norm · reach + error · error_reach, and at least the same with minus: in
float32, not only on paper. A latent is out where upper ≤ bar + offset: the offset is what lies between w·x and the
value that is held against the bar.

Vectors near the ends of float32's range are not quantised. Shorter ones than `FLOOR` are taken as 0 with an error of
FLOOR. Those longer than `CEILING`, or not finite, have an infinite norm: whatever they meet is computed exactly. In
between nothing overflows, and two vectors that are not 0 have a bound of at least 2⁻¹⁰⁰: underflow loses less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from saeserve_server.catalog import FloatArray
from saeserve_server.kernels.compiled import Doubles, Integers, Latents, Rows, quantise
from saeserve_server.sources.activations import GroupMax, TopK
from saeserve_server.sources.sae import Sae, map_activation

UNIT = 2.0**-24
"""u: how far float32 rounds a number from it, in shares of it."""
FLOOR, CEILING = 2.0**-50, 2.0**50
"""Lengths of vectors between which they are quantised."""
ROUNDING = 8 * UNIT
"""What becomes of an integer product in float32 may be off by so much, in shares of |ŵ| |x̂|."""
INFLATION = 1 + 2.0**-20
"""What the bound itself may lose in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """How inputs and weights become small integers."""

    columns: Doubles  # [d_in] factors of the inputs, powers of two; the weights are divided by them
    row_levels: int
    """Rows are quantised to whole numbers from −row_levels to row_levels."""
    weight_levels: int


def gamma(d: int) -> float:
    """The share of |w| |x| by which a float32 product of d numbers may be off, in whatever order it adds."""
    return d * UNIT / (1 - d * UNIT)


def quantised_rows(x: FloatArray, scaling: Scaling) -> tuple[Integers, Rows]:
    """Inputs x [rows, d_in] as integers, and what the bound needs of them."""
    q, scale, norm, error = quantised(x, scaling.columns, np.ones(len(x)), scaling.row_levels)
    length = norm + error  # at least |x̂|
    reach = (error + gamma(x.shape[1]) * norm + ROUNDING * length) * INFLATION
    reach[norm > 0] += FLOOR
    return q, Rows(scale, _up(reach), _up(length * (1 + ROUNDING) * INFLATION))


def quantised_latents(sae: Sae, scaling: Scaling) -> tuple[Integers, Latents]:
    """The SAE's weights as integers [d_sae, d_in], and what the bound needs of them."""
    W_enc = sae.W_enc.detach().cpu().numpy()
    q, scale, norm, error = quantised(W_enc, 1 / scaling.columns, factors_of(sae), scaling.weight_levels)
    return q, Latents(scale, _up(norm), _up(error), offsets(sae))


def offsets(sae: Sae) -> FloatArray:
    """float32 [d_sae], rounded down: a w·x (times the decoder norm, if so) of at most bar + offset does not fire.

    p = w·x + b in float32 is over a float32 number exactly where the sum is; for what else is rounded on the way to the
    value that is held against the bar there is slack, in shares of the bar, so that none is lost where that is 0.
    """
    b_enc = sae.b_enc.double().cpu()
    bias = b_enc * torch.from_numpy(factors_of(sae))
    if isinstance(sae.activation, TopK | GroupMax):
        offset = -bias - bias.abs() * 2.0**-21  # for what is lost where the row's bar is added
    else:
        bar = map_activation(sae.activation, lambda part: part.double().cpu()).bar(b_enc)
        offset = bar - bar.abs() * 2.0**-20 - bias
    return -_up(-offset.numpy())


def factors_of(sae: Sae) -> Doubles:
    """[d_sae] what pre-activations are multiplied by."""
    if sae.rescale and sae.decoder_norm is not None:
        factors: Doubles = sae.decoder_norm.double().cpu().numpy()
        return factors
    return np.ones(sae.d_sae)


def quantised(
    vectors: FloatArray, columns: Doubles, factors: Doubles, levels: int
) -> tuple[Integers, FloatArray, Doubles, Doubles]:
    """The vectors [n, d] as integers, and [n] each: scale, norm, error."""
    count = len(vectors)
    q = np.empty(vectors.shape, dtype=np.int8)
    scale = np.empty(count, dtype=np.float32)
    norm, error = np.empty(count), np.empty(count)
    # Of other strides the loop would be compiled anew.
    vectors, factors = np.ascontiguousarray(vectors), np.ascontiguousarray(factors)
    quantise(vectors, columns, factors, float(levels), FLOOR, CEILING, q, scale, norm, error)
    return q, scale, norm, error


def _up(values: Doubles) -> FloatArray:
    """Rounded to float32 upwards."""
    rounded = values.astype(np.float32)
    return np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded)
