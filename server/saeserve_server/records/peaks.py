"""Counts the tokens on which features peak in their records."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve_server.records.layout import TOP_TOKEN, TOP_TOKENS


def count_peaks(
    features: npt.NDArray[np.int64],
    ids: npt.NDArray[np.uint32],
    maxima: npt.NDArray[np.float32],
    n_features: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Top tokens of every feature, by count, then maximum, then id, at most 20.

    `features`, `ids`, `maxima` ([records]) are each record's feature, peak token and peak. Returns offsets
    ([n_features + 1]) and the top tokens of all features ([…] of TOP_TOKEN).
    """
    order = np.lexsort((ids, features))
    features, ids, maxima = features[order], ids[order], maxima[order]
    changes = (features[1:] != features[:-1]) | (ids[1:] != ids[:-1])
    starts = np.flatnonzero(np.concatenate((np.ones(min(len(ids), 1), bool), changes)))
    groups = np.zeros(len(starts), TOP_TOKEN)
    groups["id"] = ids[starts]
    groups["count"] = np.diff(starts, append=len(ids))
    groups["maximum"] = np.maximum.reduceat(maxima, starts) if len(starts) else 0
    owners = features[starts]

    order = np.lexsort((groups["id"], -groups["maximum"], -groups["count"].astype(np.int64), owners))
    groups, owners = groups[order], owners[order]
    rank = np.arange(len(owners)) - np.searchsorted(owners, owners, side="left")
    kept = rank < TOP_TOKENS
    offsets = np.zeros(n_features + 1, np.int64)
    np.cumsum(np.bincount(owners[kept], minlength=n_features), out=offsets[1:])
    return offsets, groups[kept]
