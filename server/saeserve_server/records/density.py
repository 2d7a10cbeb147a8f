"""How often a source's features fire, and how strongly at most, by whoever knows it best."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray, SourceInfo
from saeserve_server.records.store import RecordStore


class Origin(Enum):
    """Where densities and largest activations come from."""

    INDEX = "index"
    """Measured by the index."""
    FILE = "file"
    """Stored in the SAE's file by those who trained it. Densities only."""
    IMPORT = "import"
    """Imported with somebody else's records."""


class ImportedStatistics(Protocol):
    """What was imported about features. Its arrays do not change, and are not to be written to."""

    @property
    def revision(self) -> str:
        """Digest of all that was imported: what answers say follows from it."""

    def density(self, source_id: str) -> npt.NDArray[np.float64] | None:
        """[n_features] share of tokens on which each feature fires, NaN where unknown; None if nothing is known."""

    def maximum(self, source_id: str) -> FloatArray | None:
        """[n_features] largest activation of each feature, NaN where unknown; None if nothing is known."""


def density_of(
    source: SourceInfo, index: RecordStore | None, imported: ImportedStatistics | None = None
) -> npt.NDArray[np.floating] | None:
    """[n_features] share of tokens on which each feature fires: from the index, else from the file, else as it was
    imported, where NaN is not known; None where nobody knows any."""
    if index is not None and index.covers(source.id):
        return index.density(source.id)
    if source.file_density is not None:
        return source.file_density
    return None if imported is None else imported.density(source.id)


def origin_of(
    source: SourceInfo, index: RecordStore | None, imported: ImportedStatistics | None = None
) -> Origin | None:
    """Where a source's densities come from; None where nobody knows them."""
    if index is not None and index.covers(source.id):
        return Origin.INDEX
    if source.file_density is not None:
        return Origin.FILE
    return None if imported is None or imported.density(source.id) is None else Origin.IMPORT


def maximum_of(
    source: SourceInfo, index: RecordStore | None, imported: ImportedStatistics | None = None
) -> FloatArray | None:
    """[n_features] largest activation of each feature: over the index, 0 where it never fired, else as it was imported,
    where NaN is not known; None where nobody knows any."""
    if index is not None and index.covers(source.id):
        return index.maximum(source.id)
    return None if imported is None else imported.maximum(source.id)


def maximum_origin_of(
    source: SourceInfo, index: RecordStore | None, imported: ImportedStatistics | None = None
) -> Origin | None:
    """Where a source's largest activations come from; None where nobody knows them."""
    if index is not None and index.covers(source.id):
        return Origin.INDEX
    return None if imported is None or imported.maximum(source.id) is None else Origin.IMPORT
