"""The plain way from activations to rows: every pre-activation as `sae.py` has it, then those that fire picked out."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from saeserve_server.rows import SourceRows, rows_of, stacked
from saeserve_server.sources.sae import Sae

ENTRIES_AT_ONCE = 2**22
"""Activations that are held dense at a time (16 MiB); of one row there may be more."""


class PlainKernel:
    """An SAE's latents by one product of all weights with all rows."""

    name = "plain"

    def __init__(self, sae: Sae) -> None:
        self._sae = sae
        self._rows_at_once = max(1, ENTRIES_AT_ONCE // sae.d_sae)

    def rows(self, x: Tensor) -> SourceRows:
        """See Kernel."""
        step = self._rows_at_once
        return stacked([sparse(self._sae.encode(x[first : first + step])) for first in range(0, len(x), step)])


class RowKernel(PlainKernel):
    """The same, a row at a time: slow, and the same to the bit whatever other rows are there."""

    name = "plain-by-row"

    def __init__(self, sae: Sae) -> None:
        super().__init__(sae)
        self._rows_at_once = 1


def sparse(activations: Tensor) -> SourceRows:
    """Latents [rows, d_sae] ≥ 0 as rows: those that fire, or all if they take less. Raises FloatingPointError for
    NaN."""
    count, d_sae = activations.shape
    flat = activations.flatten()
    if activations.is_cuda:  # what fires is little: that alone crosses to the host
        places = flat.nonzero().squeeze(1)
        place, data = places.cpu().numpy(), flat[places].cpu().numpy()
    else:
        place = np.flatnonzero(flat.numpy() != 0)  # NaN too
        data = flat.numpy()[place]
    return rows_of(*np.divmod(place, d_sae), data, count, d_sae)
