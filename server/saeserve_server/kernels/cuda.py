"""On a GPU: products in bfloat16 say what cannot fire, and float32 computes the rest. Never run on one yet.

Nothing here asks the device how many candidates there are: they are appended to a buffer of fixed size behind a counter
that stays there, and all that follows runs on the whole buffer. `rows_many` begins every source it is given, then
copies the counts of all, then the entries of all; a batch still asks source by source. Where a buffer was too small
the source is computed the plain way, and its next is twice as large.

With Triton product, bar and appending are one pass and no product is ever written down (`triton_loops`); the same in
torch's own operations is the reference, and what is used without it, for TopK and GroupMax, and on a CPU.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.kernels import triton_loops
from saeserve_server.kernels.compiled import SLACK, SMALLEST_BAR
from saeserve_server.kernels.halves import half_latents, half_rows, products, slack
from saeserve_server.kernels.screening import Seen, check_width, kept_of
from saeserve_server.rows import SourceRows, columns, rows_of, width
from saeserve_server.sources.plain import PlainKernel
from saeserve_server.sources.sae import Sae, map_activation

log = logging.getLogger(__name__)

FIRST_CAPACITY = 128
"""Candidates of a row that there is room for at first, on average over a batch's rows."""
SPARE = 4096
"""And so many more, for few rows."""
PRODUCTS_AT_ONCE = 2**25
"""That torch's operations write down at a time (128 MiB); a single row may have more."""
TRIED_ROWS = 64
"""Of a sample, on which a kernel is tried before it is used."""
MOST_DIFFERING = 0.01
"""Share of what fires that may be otherwise than the plain way has it: what is at the bar, and no more."""
NUMBERS_AT_ONCE = 2**26
"""Weights that torch's operations gather at a time (256 MiB in float32)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A source's rows on their way: arrays on the device, of which only the first of `counts` mean something."""

    kernel: HalfKernel
    x: Tensor
    counts: Tensor  # int64 [2]: candidates that there were, entries that fire
    keys: Tensor  # int64 [capacity]: row · d_sae + latent, ascending
    values: Tensor  # float32 [capacity]


class HalfKernel:
    """An SAE's latents by way of a product in bfloat16 and a proven bound. `loops`: whether by Triton's loops.

    Raises ConfigError for an SAE that it does not suit, ImportError for loops without Triton.
    """

    name = "cuda-bf16"

    def __init__(self, sae: Sae, *, loops: bool | None = None) -> None:
        check_width(sae)
        self._kept, self._segments = kept_of(sae.activation)
        self.seen = Seen()
        self.overflows = 0
        """How many times a buffer was too small."""
        self._sae = sae
        self._latents = half_latents(sae)
        self._loops = triton_loops.load() if loops or (loops is None and triton_loops.is_there(sae.W_enc)) else None
        self._capacity = FIRST_CAPACITY

    def rows(self, x: Tensor) -> SourceRows:
        """See Kernel."""
        return rows_many([(self, x)])[0]

    @torch.inference_mode()
    def begin(self, x: Tensor) -> Pending:
        """Sets the computation going on x [rows, d_in] and does not wait for it."""
        inputs = self._sae.inputs(x).contiguous()
        size = min(len(x) * self._sae.d_sae, len(x) * self._capacity + SPARE)
        keys, count = self._candidates(inputs, size)
        # What lies beyond the candidates is the last latent of the last row over again, and no candidate.
        valid = torch.arange(size, device=x.device) < count
        at = keys.clamp_max(max(0, len(x) * self._sae.d_sae - 1))
        row, index = at // self._sae.d_sae, at % self._sae.d_sae
        a = self._activations(row, index, self._rescored(inputs, row, index, count), valid)
        fires = valid & (a != 0)  # NaN too
        kept, values = _compacted(fires, keys, a)
        return Pending(self, x, torch.stack([count, fires.sum()]), kept, values)

    def finish(self, pending: Pending, counts: Sequence[int], keys: Tensor, values: Tensor) -> SourceRows:
        """The rows of what was begun, by what came back: its counts, and on the host its entries.

        Raises FloatingPointError for NaN.
        """
        candidates, entries = counts
        rows, d_sae = len(pending.x), self._sae.d_sae
        self.seen.add(rows * d_sae, candidates, entries)
        if candidates > len(pending.keys):
            self.overflows += 1
            self._capacity = min(2 * self._capacity, d_sae)
            return PlainKernel(self._sae).rows(pending.x)
        return rows_of(*np.divmod(keys.numpy(), d_sae), values.numpy(), rows, d_sae)

    def _candidates(self, inputs: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Keys [size] of what may fire, ascending, and behind them keys of no latent; and how many there are, which may
        be more than `size`."""
        d_sae = self._sae.d_sae
        if self._loops is not None and not self._kept:
            return self._loops.screen(half_rows(inputs), self._latents, size)
        found = torch.full((size + 1,), len(inputs) * d_sae, dtype=torch.int64, device=inputs.device)
        count = torch.zeros((), dtype=torch.int64, device=inputs.device)
        step = max(1, PRODUCTS_AT_ONCE // d_sae)
        for first in range(0, len(inputs), step):
            some = half_rows(inputs[first : first + step])
            product, off = products(some, self._latents), slack(some, self._latents)
            bar = self._bars(product - off)
            may_fire = ~(product + off <= bar + self._latents.offset).flatten()  # NaN too
            places = count + may_fire.cumsum(0) - 1
            keys = torch.arange(first * d_sae, first * d_sae + len(places), device=inputs.device)
            found.scatter_(0, torch.where(may_fire & (places < size), places, size), keys)
            count = count + may_fire.sum()
        return found[:size], count

    def _bars(self, lower: Tensor) -> Tensor | float:
        """[rows, d_sae] the k-th best lower bound of a value's row or group, 0 at least; 0 where rank does not matter.

        `lower` [rows, d_sae] are those of the products.
        """
        if not self._kept:
            return 0.0
        offset = self._latents.offset
        lower = lower - (offset + offset.abs() * float(SLACK))
        best = lower.unflatten(-1, (self._segments, -1)).topk(self._kept, dim=-1).values[..., -1:]
        best = torch.where(best <= float(SMALLEST_BAR), 0.0, best * (1 - float(SLACK)))
        bars: Tensor = best.expand(-1, -1, lower.shape[-1] // self._segments).flatten(1)
        return bars

    def _rescored(self, inputs: Tensor, row: Tensor, index: Tensor, count: Tensor) -> Tensor:
        """w·x [size] of each candidate in float32."""
        if self._loops is not None:
            return self._loops.rescore(self._sae.W_enc, inputs, row, index, count)
        step = max(1, NUMBERS_AT_ONCE // self._sae.d_in)
        places = range(0, len(row), step)
        parts = [(self._sae.W_enc[index[i : i + step]].float() * inputs[row[i : i + step]]).sum(dim=1) for i in places]
        return torch.cat(parts) if parts else inputs.new_empty(0)

    def _activations(self, row: Tensor, index: Tensor, p: Tensor, valid: Tensor) -> Tensor:
        """[size] what the candidates are, 0 for those that do not fire. `p` are their w·x, and is written into."""
        sae = self._sae
        p = p.add_(sae.b_enc[index])
        if sae.rescale and sae.decoder_norm is not None:
            p.mul_(sae.decoder_norm[index])
        if not self._kept:
            return map_activation(sae.activation, lambda part: part[index]).apply(p)
        none = len(row) + 1  # a segment behind all others
        segment = torch.where(valid, row * self._segments + index // (sae.d_sae // self._segments), none * sae.d_sae)
        order = p.argsort(descending=True, stable=True)  # equal ones by index: keys ascend
        order = order[segment[order].argsort(stable=True)]
        sorted_segment = segment[order]
        place = torch.arange(len(p), device=p.device) - torch.searchsorted(sorted_segment, sorted_segment)
        return torch.zeros_like(p).scatter_(0, order, torch.where(place < self._kept, p[order].relu(), 0.0))


def fitted(sae: Sae, sample: Tensor) -> HalfKernel:
    """A kernel for the SAE, tried on activations `sample` [rows, d_in] against the plain way: with Triton's loops
    where they can be had and are right, else without. Raises ConfigError if neither is.
    """
    for loops in (None, False):
        try:
            kernel = HalfKernel(sae, loops=loops)
            differing = _differing(kernel.rows(sample[:TRIED_ROWS]), PlainKernel(sae).rows(sample[:TRIED_ROWS]))
        except Exception as error:  # noqa: BLE001 - compilers and drivers raise anything
            log.warning("screening in bfloat16 on %s: %s: %s", sae.W_enc.device, type(error).__name__, error)
            continue
        if differing <= MOST_DIFFERING:
            kernel.seen = Seen()
            return kernel
        log.warning("screening in bfloat16 on %s: %.1f%% of what fires differs", sae.W_enc.device, 100 * differing)
    raise ConfigError("screening in bfloat16 fails or is wrong on this device")


def _differing(one: SourceRows, other: SourceRows) -> float:
    """The share of what fires in either that fires in one only, or has a value of its own."""
    first, second = (torch.from_numpy(columns(rows, np.arange(width(rows)))) for rows in (one, other))
    fires = (first != 0) | (second != 0)
    return float((fires & ~torch.isclose(first, second, rtol=1e-3, atol=1e-3)).sum() / fires.sum().clamp_min(1))


@torch.inference_mode()
def rows_many(asked: Sequence[tuple[HalfKernel, Tensor]]) -> list[SourceRows]:
    """The rows of many sources, each on its x [rows, d_in], with three copies to the host for all of them."""
    if not asked:
        return []
    pending = [kernel.begin(x) for kernel, x in asked]
    counts: list[list[int]] = _to_host(torch.stack([one.counts for one in pending])).tolist()
    sizes = [min(entries, len(one.keys)) for one, (_, entries) in zip(pending, counts, strict=True)]
    keys = _to_host(torch.cat([one.keys[:size] for one, size in zip(pending, sizes, strict=True)])).split(sizes)
    values = _to_host(torch.cat([one.values[:size] for one, size in zip(pending, sizes, strict=True)])).split(sizes)
    return [
        one.kernel.finish(one, count, own_keys, own_values)
        for one, count, own_keys, own_values in zip(pending, counts, keys, values, strict=True)
    ]


def _to_host(tensor: Tensor) -> Tensor:
    """Waits for the device: the only place that does."""
    return tensor.cpu()


def _compacted(chosen: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen keys and values in their order, one after another; what stands behind them is of no account."""
    size = len(keys)
    places = torch.where(chosen, chosen.cumsum(0) - 1, size)
    kept = keys.new_zeros(size + 1).scatter_(0, places, keys)
    return kept[:size], values.new_zeros(size + 1).scatter_(0, places, values)[:size]
