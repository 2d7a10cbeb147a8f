"""How often a source's features fire, by whoever knows it best."""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import SourceInfo
from saeserve_server.records.store import RecordStore


class Origin(Enum):
    """Where densities come from."""

    INDEX = "index"
    """Measured by the index."""
    FILE = "file"
    """Stored in the SAE's file by those who trained it."""


def density_of(source: SourceInfo, index: RecordStore | None) -> npt.NDArray[np.floating] | None:
    """[n_features] share of tokens on which each feature fires: from the index, else from the file, else None."""
    return index.density(source.id) if index is not None and index.covers(source.id) else source.file_density


def origin_of(source: SourceInfo, index: RecordStore | None) -> Origin | None:
    """Where a source's densities come from; None where nobody knows them."""
    if index is not None and index.covers(source.id):
        return Origin.INDEX
    return None if source.file_density is None else Origin.FILE
