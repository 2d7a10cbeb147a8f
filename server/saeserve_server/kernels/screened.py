"""Integers say what cannot fire, float32 computes the rest: the same latents as computing all, for less.

Whatever else is in a batch, a row's values are the same to the bit: each is a sum of its own order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from saeserve_server.catalog import FloatArray
from saeserve_server.kernels.bounds import quantised_latents, quantised_rows
from saeserve_server.kernels.compiled import CHUNK, Indices, kth_best, rescore, screen, use_threads
from saeserve_server.kernels.equalising import choose_scaling
from saeserve_server.kernels.packed import check_float32
from saeserve_server.kernels.products import ExactProduct, Fbgemm, exact_levels
from saeserve_server.kernels.screening import Seen, check_width, kept_of
from saeserve_server.rows import IntArray, SourceRows, rows_of, stacked
from saeserve_server.sources.activations import TopK
from saeserve_server.sources.sae import Sae, map_activation

BLOCK_ELEMENTS = 48 * 2**15
"""Values of a block of the integer product (6 MiB): caches hold them, and the allocator uses their memory again."""
GROUP_ELEMENTS = 2**24
"""Values out of which candidates are computed together: the more rows, the more share what is read of W_enc."""
FEWEST_ROWS = 32
"""Rows of a block, however many latents there are: with fewer, weights are read from memory too often."""


class ScreenedKernel:
    """An SAE's latents by way of an exact integer product and a proven bound.

    `sample` [rows, d_in] are activations of the hook point, on which columns are equalised. Raises ConfigError for an
    SAE or a machine that it does not suit.
    """

    def __init__(self, sae: Sae, product: type[ExactProduct] = Fbgemm, sample: Tensor | None = None) -> None:
        check_float32(sae)
        check_width(sae)
        self.name = product.name
        self.seen = Seen()
        self._sae = sae
        self._W_enc: FloatArray = sae.W_enc.detach().contiguous().numpy()
        self._scaling = choose_scaling(sae, exact_levels(product), sample)
        q, self._latents = quantised_latents(sae, self._scaling)
        self._product = product(q, self._scaling.row_levels)
        self._kept, self._segments = kept_of(sae.activation)

    @torch.inference_mode()
    def rows(self, x: Tensor) -> SourceRows:
        """See Kernel."""
        use_threads(torch.get_num_threads())
        inputs: FloatArray = self._sae.inputs(x).contiguous().numpy()
        return stacked([self._some(inputs[group]) for group in _blocks(len(inputs), GROUP_ELEMENTS // self._sae.d_sae)])

    def _some(self, x: FloatArray) -> SourceRows:
        """The rows of inputs x."""
        rows, d_sae = len(x), self._sae.d_sae
        found = np.empty((rows, d_sae), dtype=np.uint32)
        counts = np.empty((rows, -(-d_sae // CHUNK)), dtype=np.int64)
        for block in _blocks(rows, BLOCK_ELEMENTS // d_sae):
            self._screen(x[block], found[block], counts[block])
        ends = counts.cumsum()
        total = int(counts.sum())
        indices, values = np.empty(total, dtype=np.uint32), np.empty(total, dtype=np.float32)
        starts = (ends - counts.ravel()).reshape(counts.shape)
        rescore(self._W_enc, x, found, counts, starts, indices, values)
        row_of = np.repeat(np.arange(rows), counts.sum(axis=1))
        a = self._activations(row_of, indices.astype(np.int64), values)
        fires = np.flatnonzero(a != 0)  # NaN too
        self.seen.add(rows * d_sae, len(a), len(fires))
        return rows_of(row_of[fires], indices[fires], a[fires], rows, d_sae)

    def _screen(self, x: FloatArray, found: Indices, counts: IntArray) -> None:
        """Writes which latents may fire on the inputs of a block: see `screen`."""
        q, rows = quantised_rows(x, self._scaling)
        products = self._product(q)
        bars = np.zeros((len(x), self._segments), dtype=np.float32)
        if self._kept:
            kth_best(products, self._latents, rows, self._kept, bars)
        screen(products, self._latents, rows, bars, found, counts)

    def _activations(self, row_of: IntArray, index: IntArray, products: FloatArray) -> FloatArray:
        """[candidates] what they are, 0 for those that do not fire: by row and latent of each, and its w·x."""
        sae, latents = self._sae, torch.from_numpy(index)
        p = torch.from_numpy(products).add_(sae.b_enc[latents])
        if sae.rescale and sae.decoder_norm is not None:
            p.mul_(sae.decoder_norm[latents])
        if self._kept:
            return _largest(p, row_of * self._segments + index // (sae.d_sae // self._segments), self._kept)
        a: FloatArray = map_activation(sae.activation, lambda part: part[latents]).apply(p).numpy()
        return a


def _blocks(rows: int, size: int) -> Iterator[slice]:
    """Slices of `size` rows, one at least, and no fewer rows than FEWEST_ROWS in each but the last."""
    size = max(FEWEST_ROWS, size)
    return (slice(first, first + size) for first in range(0, max(1, rows), size))


def _largest(p: Tensor, segment_of: IntArray, k: int) -> FloatArray:
    """[candidates] relu(p) of the k largest of each segment, of equal ones the first, else 0. `segment_of` ascends."""
    _, firsts, segment_of, counts = np.unique(segment_of, return_index=True, return_inverse=True, return_counts=True)
    place = np.arange(len(p)) - firsts[segment_of]
    padded = p.new_full((len(counts), counts.max(initial=1)), -torch.inf)
    padded[segment_of, place] = p
    a: FloatArray = TopK(k).apply(padded).numpy()[segment_of, place]
    return a
