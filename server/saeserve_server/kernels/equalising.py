"""Which columns are scaled, and how many levels rows and weights get, so that the bound is small on a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from saeserve_server.catalog import FloatArray
from saeserve_server.kernels.bounds import Scaling, factors_of, quantised, quantised_rows
from saeserve_server.kernels.compiled import Doubles
from saeserve_server.sources.sae import Sae

MOST_ROWS, MOST_LATENTS = 64, 512
"""Of the sample and of the SAE, on which scalings are tried."""
SHARES = (0.0, 0.5, 1.0)
"""How much the weights take over of what makes the inputs' columns unlike; inputs take the rest from the weights."""
LARGEST_EXPONENT = 24


def choose_scaling(sae: Sae, levels: Sequence[tuple[int, int]], sample: Tensor | None) -> Scaling:
    """The scaling whose bound is smallest on average.

    `levels` are those of rows and weights that the product can take, `sample` [rows, d_in] activations of the hook
    point. Without a sample columns are left as they are and the first levels taken.
    """
    alike = Scaling(np.ones(sae.d_in), *levels[0])
    if sample is None or not len(sample):
        return alike
    x = sae.inputs(sample)[:: -(-len(sample) // MOST_ROWS)].cpu().numpy()
    some = slice(None, None, -(-sae.d_sae // MOST_LATENTS))
    W_enc, factors = sae.W_enc[some].float().cpu().numpy(), factors_of(sae)[some]

    def bound(scaling: Scaling) -> float:
        """Mean over the rows and latents that are quantised."""
        _, _, norm, error = quantised(W_enc, 1 / scaling.columns, factors, scaling.weight_levels)
        _, rows = quantised_rows(x, scaling)
        usual, told = np.isfinite(norm), np.isfinite(rows.reach)
        if not (usual.any() and told.any()):
            return 0.0
        return float(norm[usual].mean() * rows.reach[told].mean() + error[usual].mean() * rows.error_reach[told].mean())

    columns = [alike.columns, *(_columns(x, W_enc * factors[:, None], share) for share in SHARES)]
    best = min((replace(alike, columns=one) for one in columns), key=bound)
    return min((replace(best, row_levels=row, weight_levels=weight) for row, weight in levels), key=bound)


def _columns(x: FloatArray, weights: Doubles, share: float) -> Doubles:
    """[d_in] powers of two."""
    x_size, w_size = (np.sqrt(np.square(one, dtype=np.float64).mean(axis=0)) for one in (x, weights))
    told = (x_size > 0) & (w_size > 0) & np.isfinite(x_size) & np.isfinite(w_size)
    columns = np.ones(len(told))
    if told.any():
        exponents = np.log2(w_size[told]) * (1 - share) - np.log2(x_size[told]) * share
        exponents = np.rint(exponents - np.median(exponents))
        columns[told] = 2.0 ** np.clip(exponents, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    return columns
