"""Answers from rows that are at hand, whole: what was kept of a text answers other questions about it.

Other rows to rank by, a narrower filter, a larger limit, another ranking, chosen features: all of it follows from the
latents that fire and the neurons.
"""

from __future__ import annotations

import numpy as np

from saeserve_server.catalog import FloatArray
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.search import Rankings
from saeserve_server.ranking.work import EncodeDone, EncodeWork, SearchDone, Work, needed, row_count
from saeserve_server.rows import KeptRows, SourceRows, columns


def answer_from(work: Work, kept: KeptRows, filters: Filters) -> SearchDone | EncodeDone:
    """The answer, from the `row_count(work)` rows of every source that is `needed`.

    Blocks of it may be the kept arrays themselves. Raises FloatingPointError for NaN.
    """
    if isinstance(work, EncodeWork):
        encoding = Encoding(work)
        for rank in needed(work):
            encoding.add(rank, kept[rank])
        return encoding.done()
    rankings = Rankings([work], filters)
    for rank in sorted(needed(work)):
        if rankings.wants(0, rank):
            rankings.add(rank, kept[rank], [(0, 0)])
    return rankings.done(0)


class Encoding:
    """The answer to an encoding, source after source."""

    def __init__(self, work: EncodeWork) -> None:
        self._work = work
        self._blocks: dict[int, SourceRows] = {}
        self._dense = np.empty((row_count(work), work.columns), dtype=np.float32) if work.columns else None
        self._source, self._index = np.array(work.features, dtype=np.int64).reshape(-1, 2).T

    def add(self, rank: int, rows: SourceRows) -> None:
        """Takes in the rows of a source."""
        if rank in self._work.sources:
            self._blocks[rank] = rows
        places = np.flatnonzero(self._source == rank)
        if self._dense is not None and len(places):
            self._dense[:, places] = columns(rows, self._index[places])

    def project(self, products: FloatArray) -> None:
        """Takes in [rows, projections], or the last of these rows: what comes before them has no activations. Raises
        FloatingPointError for what is not finite."""
        if not np.isfinite(products).all():
            raise FloatingPointError("a projection is not finite")
        if self._dense is not None:
            own = self._dense[:, len(self._work.features) :]
            own[: len(own) - len(products)] = 0
            own[len(own) - len(products) :] = products

    def done(self) -> EncodeDone:
        """The answer."""
        return EncodeDone(row_count(self._work), tuple(self._blocks[rank] for rank in self._work.sources), self._dense)
