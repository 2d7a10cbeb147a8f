"""The exact top K: which features fire most, in the one order that every answer has.

Order: value falling, then source rank (layer, latents before neurons, id), then index. `torch.topk` promises nothing
about ties, so candidates are all features that reach the K-th value, and the order is settled on those few.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saeserve_server.catalog import FloatArray
from saeserve_server.engine.work import Ranked


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Features of one source that may be among the top K of one ranking, by ascending index."""

    source: int
    index: npt.NDArray[np.int64]  # [c]
    value: FloatArray  # [c]


def candidates(values: Tensor, limit: int, source: int) -> list[Candidates]:
    """For each row of `values` [rankings, n_features]: the features that can be among its top `limit`.

    At least min(limit, number > 0) of each row, and all that tie with the last of them, cut to `limit` by index.
    """
    if bool(values.isnan().any()):
        raise FloatingPointError(f"source {source}: the activations hold NaN")
    limit = min(limit, values.shape[1])
    least = values.topk(limit, dim=1, sorted=True).values[:, -1:]  # [rankings, 1]
    chosen = (values >= least) & (values > 0)
    ranking, index = chosen.nonzero(as_tuple=True)  # by ranking, then index
    value = values[ranking, index].cpu().numpy()
    indices = index.cpu().numpy()
    bounds = np.searchsorted(ranking.cpu().numpy(), np.arange(values.shape[0] + 1))
    found = []
    for first, last in itertools.pairwise(bounds):
        kept = slice(first, last)
        if last - first > limit:  # ties at the K-th value: the lower indices win
            order = np.argsort(-value[kept], kind="stable")[:limit]
            picked = first + np.sort(order)
            found.append(Candidates(source, indices[picked], value[picked]))
        else:
            found.append(Candidates(source, indices[kept], value[kept]))
    return found


def merge(parts: list[Candidates], limit: int) -> tuple[Ranked, npt.NDArray[np.int64]]:
    """The top `limit` of one ranking over all its sources, and their places in the parts laid end to end."""
    source = np.concatenate([np.full(len(part.index), part.source, dtype=np.int64) for part in parts])
    index = np.concatenate([part.index for part in parts])
    value = np.concatenate([part.value for part in parts])
    order = np.lexsort((index, source, -value))[:limit]
    return Ranked(source[order], index[order], value[order]), order


def aggregate_max(activations: Tensor, rows: Tensor | None) -> Tensor:
    """[1, n_features]: the largest over the rows (all where `rows` is None) of [rows, n_features]."""
    chosen = activations if rows is None else activations.index_select(0, rows)
    return chosen.amax(0, keepdim=True)


def aggregate_sum(activations: Tensor, rows: Tensor) -> Tensor:
    """[1, n_features]: the float32 sum over the rows."""
    return activations.index_select(0, rows).sum(0, keepdim=True, dtype=torch.float32)
