"""Which features of a source take part in a search, and what they are divided by."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray, SourceInfo
from saeserve_server.ranking.work import SourceFilter
from saeserve_server.records.density import density_of
from saeserve_server.records.store import RecordStore

KEPT_BYTES = 2**26
"""Memory of the masks that are kept, and of the filters they are kept under."""

BoolArray = npt.NDArray[np.bool_]


class Filters:
    """Masks and index maxima of the served sources, kept for the filters that recur. Safe to use from many threads."""

    def __init__(self, sources: Sequence[SourceInfo], index: RecordStore | None) -> None:
        self._sources = sources
        self._index = index
        self._lock = threading.Lock()
        self._kept: OrderedDict[SourceFilter, tuple[BoolArray, int]] = OrderedDict()
        self._kept_bytes = 0
        self._maxima: dict[int, FloatArray] = {}

    def mask(self, chosen: SourceFilter) -> BoolArray | None:
        """bool [n_features]: which take part; None for all."""
        return None if _is_open(chosen) else self._look_up(chosen)[0]

    def count(self, chosen: SourceFilter) -> int:
        """How many take part."""
        return self._sources[chosen.source].n_features if _is_open(chosen) else self._look_up(chosen)[1]

    def maximum(self, source: int) -> FloatArray:
        """float32 [n_features]: largest activation of each feature over the index; 1 where it never fired."""
        with self._lock:
            if source not in self._maxima:
                self._maxima[source] = maximum_of(self._sources[source], self._index)
            return self._maxima[source]

    def _look_up(self, chosen: SourceFilter) -> tuple[BoolArray, int]:
        with self._lock:
            if chosen in self._kept:
                self._kept.move_to_end(chosen)
                return self._kept[chosen]
            mask = mask_of(chosen, self._sources[chosen.source], self._index)
            entry = (mask, int(mask.sum()))
            self._kept[chosen] = entry
            self._kept_bytes += self._size(chosen)
            while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
                oldest, _ = self._kept.popitem(last=False)
                self._kept_bytes -= self._size(oldest)
            return entry

    def _size(self, chosen: SourceFilter) -> int:
        """Bytes that a mask takes, and the filter that it is kept under."""
        return self._sources[chosen.source].n_features + 40 * (len(chosen.only or ()) + len(chosen.without))


def mask_of(chosen: SourceFilter, info: SourceInfo, index: RecordStore | None) -> BoolArray:
    """bool [n_features]: which features of the source take part."""
    mask = np.ones(info.n_features, dtype=np.bool_)
    if chosen.only is not None:
        mask[:] = False
        mask[list(chosen.only)] = True
    mask[list(chosen.without)] = False
    if chosen.min_density is not None or chosen.max_density is not None:
        density = density_of(info, index)
        if density is None:
            mask[:] = False  # an unknown density fails either bound
        else:
            low = 0.0 if chosen.min_density is None else chosen.min_density
            high = 1.0 if chosen.max_density is None else chosen.max_density
            mask &= (density >= low) & (density <= high)
    if chosen.min_fires is not None:
        # At least once: a feature that never fired has no maximum to divide by.
        mask &= np.asarray(_need(index).fires(info.id)) >= max(1, chosen.min_fires)
    return mask


def maximum_of(info: SourceInfo, index: RecordStore | None) -> FloatArray:
    """float32 [n_features]: largest activation of each feature over the index; 1 where it never fired."""
    maximum = np.array(_need(index).maximum(info.id), dtype=np.float32)
    maximum[maximum <= 0] = 1.0
    return maximum


def _need(index: RecordStore | None) -> RecordStore:
    if index is None:
        raise RuntimeError("ranking by index maximum without an index: the front end must refuse it")
    return index


def _is_open(chosen: SourceFilter) -> bool:
    return (
        chosen.only is None
        and not chosen.without
        and chosen.min_density is None
        and chosen.max_density is None
        and chosen.min_fires is None
    )
