"""Which features of a source take part in a search, as masks on the device, kept for the filters that recur."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saeserve_server.engine.work import SourceFilter
from saeserve_server.records.density import density_of
from saeserve_server.records.store import RecordStore
from saeserve_server.sources.source import Source

KEPT_BYTES = 2**26
"""Memory of the masks that are kept, and of the filters they are kept under."""


class Masks:
    """Masks and index maxima of the served sources."""

    def __init__(self, sources: Sequence[Source], index: RecordStore | None, device: torch.device) -> None:
        self._sources = sources
        self._index = index
        self._device = device
        self._kept: OrderedDict[SourceFilter, tuple[Tensor, int]] = OrderedDict()
        self._kept_bytes = 0
        self._maxima: dict[int, Tensor] = {}

    def mask(self, chosen: SourceFilter) -> Tensor | None:
        """bool [n_features]: which take part; None for all."""
        return None if _is_open(chosen) else self._look_up(chosen)[0]

    def count(self, chosen: SourceFilter) -> int:
        """How many take part."""
        return self._sources[chosen.source].info.n_features if _is_open(chosen) else self._look_up(chosen)[1]

    def maximum(self, source: int) -> Tensor:
        """[n_features] largest activation of each feature over the index; 1 where it never fired."""
        if source not in self._maxima:
            maximum = np.array(self._need_index().maximum(self._sources[source].info.id), dtype=np.float32)
            maximum[maximum <= 0] = 1.0
            self._maxima[source] = torch.from_numpy(maximum).to(self._device)
        return self._maxima[source]

    def _look_up(self, chosen: SourceFilter) -> tuple[Tensor, int]:
        if chosen in self._kept:
            self._kept.move_to_end(chosen)
            return self._kept[chosen]
        mask = self._make(chosen)
        entry = (torch.from_numpy(mask).to(self._device), int(mask.sum()))
        self._kept[chosen] = entry
        self._kept_bytes += _size(chosen, entry[0])
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            oldest, (dropped, _) = self._kept.popitem(last=False)
            self._kept_bytes -= _size(oldest, dropped)
        return entry

    def _make(self, chosen: SourceFilter) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        info = self._sources[chosen.source].info
        mask = np.ones(info.n_features, dtype=np.bool_)
        if chosen.only is not None:
            mask[:] = False
            mask[list(chosen.only)] = True
        mask[list(chosen.without)] = False
        if chosen.min_density is not None or chosen.max_density is not None:
            density = density_of(info, self._index)
            if density is None:
                mask[:] = False  # an unknown density fails either bound
            else:
                low = 0.0 if chosen.min_density is None else chosen.min_density
                high = 1.0 if chosen.max_density is None else chosen.max_density
                mask &= (density >= low) & (density <= high)
        if chosen.min_fires is not None:
            # At least once: a feature that never fired has no maximum to divide by.
            mask &= np.asarray(self._need_index().fires(info.id)) >= max(1, chosen.min_fires)
        return mask

    def _need_index(self) -> RecordStore:
        if self._index is None:
            raise RuntimeError("ranking by index maximum without an index: the front end must refuse it")
        return self._index


def _size(chosen: SourceFilter, mask: Tensor) -> int:
    """Bytes that a mask takes, and the filter that it is kept under."""
    return mask.numel() + 40 * (len(chosen.only or ()) + len(chosen.without))


def _is_open(chosen: SourceFilter) -> bool:
    return (
        chosen.only is None
        and not chosen.without
        and chosen.min_density is None
        and chosen.max_density is None
        and chosen.min_fires is None
    )
