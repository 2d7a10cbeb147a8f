"""Triton's loops for a GPU: the product with its bar in one pass, and the product that decides.

Triton comes with torch's CUDA wheels. On a CPU the same code runs in Triton's interpreter (`TRITON_INTERPRET=1`),
slowly: for tests.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saeserve_server.kernels.halves import HalfLatents, HalfRows

BLOCK_ROWS, BLOCK_LATENTS, BLOCK_INPUTS = 32, 128, 64
"""Of the screening product's tiles. They change speed only."""
BLOCK_CANDIDATES, BLOCK_NUMBERS = 16, 128
"""Of the product that decides. The second is the order in which it adds, whatever the batch."""


def is_there(weights: Tensor) -> bool:
    """Whether there is a GPU to run on, and Triton to compile for it."""
    return weights.is_cuda and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, slots=True)
class Loops:
    """The two loops, compiled at their first call."""

    _screen: Any
    _rescore: Any
    _interpreted: bool
    """numpy knows no bfloat16: the interpreter is given float32."""

    def screen(self, rows: HalfRows, latents: HalfLatents, size: int) -> tuple[Tensor, Tensor]:
        """Keys [size] of what may fire, ascending, and how many there are: see HalfKernel."""
        count, (d_sae, d_in) = len(rows.x), latents.W.shape
        keys = torch.full((size,), count * d_sae, dtype=torch.int64, device=rows.x.device)
        found = torch.zeros(1, dtype=torch.int64, device=rows.x.device)
        grid = (-(-d_sae // BLOCK_LATENTS), -(-count // BLOCK_ROWS))
        if count:
            self._screen[grid](
                rows.x,
                latents.W,
                rows.reach,
                rows.error_reach,
                latents.norm,
                latents.error,
                latents.offset,
                keys,
                found,
                count,
                d_sae,
                d_in,
                size,
                ROWS=BLOCK_ROWS,
                LATENTS=BLOCK_LATENTS,
                INPUTS=BLOCK_INPUTS,
                INTERPRETED=self._interpreted,
            )
        return keys.sort().values, found[0]

    def rescore(self, W_enc: Tensor, x: Tensor, row: Tensor, index: Tensor, count: Tensor) -> Tensor:
        """w·x [candidates] in float32, of the first `count` of them; the others are 0."""
        p = torch.zeros(len(row), dtype=torch.float32, device=x.device)
        if len(row):
            self._rescore[(-(-len(row) // BLOCK_CANDIDATES),)](
                W_enc.float() if self._interpreted else W_enc,
                x,
                row,
                index,
                count,
                p,
                len(row),
                x.shape[1],
                CANDIDATES=BLOCK_CANDIDATES,
                NUMBERS=BLOCK_NUMBERS,
            )
        return p


@functools.cache
def load() -> Loops:
    """The loops. Raises ImportError without Triton."""
    from saeserve_server.kernels import triton_source

    return Loops(triton_source.screen, triton_source.rescore, triton_source.INTERPRETED)
