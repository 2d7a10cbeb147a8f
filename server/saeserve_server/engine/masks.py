"""Masks and index maxima on the device, kept for the filters that recur."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saeserve_server.engine.filtering import Filters
from saeserve_server.records.store import RecordStore
from saeserve_server.sources.source import Source


class Masks(Filters[Tensor]):
    """Masks and index maxima of the served sources, as tensors on the device."""

    def __init__(self, sources: Sequence[Source], index: RecordStore | None, device: torch.device) -> None:
        super().__init__([source.info for source in sources], index, lambda array: torch.from_numpy(array).to(device))
