"""Products of whole numbers, exact to the last digit: what a screening kernel computes first.

The kernels of these libraries multiply unsigned by signed bytes. Without VNNI a CPU adds two such products into 16 bits
and cuts what does not fit (`vpmaddubsw`), so rows and weights get together no more levels than never are cut; `exact`
tells, on the extremes, which levels this machine's kernels take.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch

from saeserve_server.errors import ConfigError
from saeserve_server.kernels.compiled import Integers, Products

ALL_LEVELS = ((127, 127),)
"""Levels of rows and of weights where nothing is cut."""
FEWER_LEVELS = ((64, 127), (90, 91), (127, 64))
"""Those of which 2 · 2 row_levels · weight_levels fits into 16 bits: more for the rows, or for the weights."""


class ExactProduct(Protocol):
    """Weights [d_sae, d_in] packed for products with rows."""

    name: str

    def __init__(self, weights: Integers, row_levels: int) -> None:
        """Packs weights for rows of so many levels."""

    def __call__(self, rows: Integers) -> Products:
        """rows @ weightsᵀ [rows, d_sae], in an array of its own; as float32 exact up to 2²⁴, beyond rounded once."""
        ...


class Fbgemm(ExactProduct):
    """PyTorch's own product of bytes on x86, which we hand whole numbers instead of letting it quantise."""

    name = "fbgemm-int8"

    def __init__(self, weights: Integers, row_levels: int) -> None:
        latents = len(weights)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            quantised = torch._make_per_channel_quantized_tensor(
                torch.from_numpy(weights), torch.ones(latents, dtype=torch.float64), torch.zeros(latents).long(), 0
            )
        self._weights = torch.ops.quantized.linear_prepack(quantised, None)
        self._row_levels = row_levels

    def __call__(self, rows: Integers) -> Products:
        """float32 [rows, d_sae]."""
        x = torch.from_numpy(rows).float()  # to the scale 1 and the zero point `row_levels` it rounds without an error
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        products: Products = multiply(x, 1.0, self._row_levels, self._weights).numpy()
        return products


class OnnxRuntime(ExactProduct):
    """ONNX Runtime's product of bytes. Raises ImportError where that is not installed."""

    name = "onnxruntime-int8"

    def __init__(self, weights: Integers, row_levels: int) -> None:
        from saeserve_server.kernels.onnx import IntegerProduct

        self._product = IntegerProduct(np.array(weights.T, order="C"), row_levels, torch.get_num_threads())
        self._row_levels = np.int8(row_levels)

    def __call__(self, rows: Integers) -> Products:
        """int32 [rows, d_sae]."""
        return self._product(rows.view(np.uint8) + self._row_levels.view(np.uint8))  # wraps round to what it should be


@cache
def exact_levels(product: type[ExactProduct]) -> Sequence[tuple[int, int]]:
    """The levels of rows and weights up to which a product is exact on this machine. Raises ConfigError if on none."""
    for levels in (ALL_LEVELS, FEWER_LEVELS):
        if all(exact(product, *pair) for pair in levels):
            return levels
    raise ConfigError("product: expected an exact one, this machine's kernels cut products of 7 bits by 8")


def exact(product: type[ExactProduct], row_levels: int, weight_levels: int) -> bool:
    """Whether products of the extremes are exact: rows and weights all at one end, or at either by chance."""
    generator = np.random.default_rng(0)
    for rows, latents, d_in in ((1, 16, 768), (2, 40, 33), (7, 33, 130), (48, 72, 512)):
        weights = _extremes(generator, latents, d_in, weight_levels)
        packed = product(weights, row_levels)
        x = _extremes(generator, rows, d_in, row_levels)
        if (packed(x).astype(np.int64) != x.astype(np.int64) @ weights.astype(np.int64).T).any():
            return False
    return True


def _extremes(generator: np.random.Generator, count: int, d_in: int, levels: int) -> Integers:
    signs = generator.choice(np.array([-1, 1], dtype=np.int8), (count, d_in))
    signs[::3], signs[1::3] = 1, -1
    return signs * np.int8(levels)
