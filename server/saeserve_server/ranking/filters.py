"""Which features of a source take part in a search, and what their activations are measured by."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray, SourceInfo
from saeserve_server.ranking.work import SourceFilter
from saeserve_server.records.density import ImportedStatistics, density_of, maximum_of
from saeserve_server.records.store import RecordStore
from saeserve_server.records.surprisal import Surprisal

KEPT_BYTES = 2**26
"""Memory of the masks that are kept, and of the filters they are kept under."""

BoolArray = npt.NDArray[np.bool_]


class Filters:
    """Masks, maxima and surprisals of the served sources, kept for the filters that recur. Safe to use from many
    threads."""

    def __init__(
        self, sources: Sequence[SourceInfo], index: RecordStore | None, imported: ImportedStatistics | None = None
    ) -> None:
        self._sources = sources
        self._index = index
        self._imported = imported
        self._lock = threading.Lock()
        self._kept: OrderedDict[SourceFilter, tuple[BoolArray, int]] = OrderedDict()
        self._kept_bytes = 0
        self._maxima: dict[int, FloatArray] = {}
        self._surprisals: dict[int, Surprisal] = {}

    def mask(self, chosen: SourceFilter) -> BoolArray | None:
        """bool [n_features]: which take part; None for all."""
        return None if _is_open(chosen) else self._look_up(chosen)[0]

    def count(self, chosen: SourceFilter) -> int:
        """How many take part."""
        return self._sources[chosen.source].n_features if _is_open(chosen) else self._look_up(chosen)[1]

    def maximum(self, source: int) -> FloatArray:
        """float32 [n_features]: largest activation that is known of each feature; 1 where there is none."""
        with self._lock:
            if source not in self._maxima:
                self._maxima[source] = divisors(self._sources[source], self._index, self._imported)
            return self._maxima[source]

    def surprisal(self, source: int) -> Surprisal:
        """How surprising activations of its features are. Raises RuntimeError for a source that no index covers."""
        with self._lock:
            if source not in self._surprisals:
                info = self._sources[source]
                if self._index is None or not self._index.covers(info.id):
                    raise RuntimeError(f"{info.id}: surprisal without an index: the front end must refuse it")
                self._surprisals[source] = self._index.surprisal(info.id)
            return self._surprisals[source]

    def _look_up(self, chosen: SourceFilter) -> tuple[BoolArray, int]:
        with self._lock:
            if chosen in self._kept:
                self._kept.move_to_end(chosen)
                return self._kept[chosen]
            mask = mask_of(chosen, self._sources[chosen.source], self._index, self._imported)
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


def mask_of(
    chosen: SourceFilter, info: SourceInfo, index: RecordStore | None, imported: ImportedStatistics | None = None
) -> BoolArray:
    """bool [n_features]: which features of the source take part."""
    mask = np.ones(info.n_features, dtype=np.bool_)
    if chosen.only is not None:
        mask[:] = False
        mask[list(chosen.only)] = True
    mask[list(chosen.without)] = False
    if chosen.min_density is not None or chosen.max_density is not None:
        density = density_of(info, index, imported)
        if density is None:
            mask[:] = False  # an unknown density fails either bound
        else:
            low = 0.0 if chosen.min_density is None else chosen.min_density
            high = 1.0 if chosen.max_density is None else chosen.max_density
            mask &= (density >= low) & (density <= high)  # neither holds of NaN
    if chosen.min_fires is not None:
        # At least once, with any count: a feature that never fired has no maximum to be measured by.
        if index is not None and index.covers(info.id):
            mask &= np.asarray(index.fires(info.id)) >= max(1, chosen.min_fires)
        else:
            mask &= _largest(info, index, imported) > 0
    return mask


def divisors(info: SourceInfo, index: RecordStore | None, imported: ImportedStatistics | None) -> FloatArray:
    """float32 [n_features]: largest activation that is known of each feature; 1 where there is none."""
    maximum = np.array(_largest(info, index, imported), dtype=np.float32)
    maximum[~(maximum > 0)] = 1.0
    return maximum


def _largest(info: SourceInfo, index: RecordStore | None, imported: ImportedStatistics | None) -> FloatArray:
    maximum = maximum_of(info, index, imported)
    if maximum is None:
        raise RuntimeError(f"{info.id}: ranking by a maximum that nobody knows: the front end must refuse it")
    return maximum


def _is_open(chosen: SourceFilter) -> bool:
    return (
        chosen.only is None
        and not chosen.without
        and chosen.min_density is None
        and chosen.max_density is None
        and chosen.min_fires is None
    )
