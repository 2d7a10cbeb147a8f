"""What the sources gave on the rows of recent texts, from which other questions about the same texts are answered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from saeserve_server.cache.answer import Tier
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.work import EncodeWork, Work, needed, row_count
from saeserve_server.rows import Csr, KeptRows, SourceRows, height, last_rows

Number = TypeVar("Number", bound=np.generic)

LARGEST_SHARE = 4
"""A text that takes more than one part in this many of the capacity would drive out too many others."""

ID_BYTES = 40
"""Of an id in a tuple: the pointer and the number."""
TEXT_BYTES = 1000
"""Of a text, besides its ids and rows: objects and their places in dictionaries."""
SOURCE_BYTES = 600
"""Of a source's rows, besides the numbers: objects and their places in dictionaries."""


@dataclass(slots=True)
class _Text:
    """What is kept of one text. Rows led by the BOS's serve requests without it too: they end alike."""

    sources: dict[int, SourceRows] = field(default_factory=dict)
    bytes: int = 0


class InnerTier:
    """Rows of sources by (ids, source), within a number of bytes; the text unused for longest goes first, as a whole.

    The ids are the text's: the BOS before them is a fact of the source.
    One caller at a time. What it gives is not to be written to.
    """

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        tier = Tier.INNER.name.lower()
        self._capacity = capacity
        self._texts: OrderedDict[tuple[int, ...], _Text] = OrderedDict()
        self._hits = metrics.cache_hits.labels(tier)
        self._misses = metrics.cache_misses.labels(tier)
        self._gauge = metrics.cache_bytes.labels(tier)
        self._gauge.set(0)
        self.bytes = 0
        """Memory that is taken."""

    def __len__(self) -> int:
        """Texts of which something is kept."""
        return len(self._texts)

    def __contains__(self, work: Work) -> bool:
        """Whether `get` would give the rows."""
        return self._find(work) is not None

    def get(self, work: Work) -> KeptRows | None:
        """The rows of all sources that `work` needs, `row_count(work)` of each; None if any is not there."""
        found = self._find(work)
        (self._misses if found is None else self._hits).inc()
        return found

    def put(self, work: Work, kept: KeptRows) -> None:
        """Keeps rows that `work` was answered from, where they are not kept already or more of them are now.

        Nothing of `kept` stays if the text would then take too much.
        """
        old = self._texts.get(work.ids)
        text = _Text({}, TEXT_BYTES + ID_BYTES * len(work.ids)) if old is None else _Text(dict(old.sources), old.bytes)
        for rank, rows in kept.items():
            before = text.sources.get(rank)
            if before is not None and height(before) >= height(rows):
                continue
            text.bytes += _size(rows) - (0 if before is None else _size(before))
            text.sources[rank] = _own(rows)
        if not text.sources or text.bytes > self._capacity // LARGEST_SHARE:
            return
        self.bytes += text.bytes - (0 if old is None else old.bytes)
        self._texts[work.ids] = text
        self._texts.move_to_end(work.ids)
        while self.bytes > self._capacity:
            _, dropped = self._texts.popitem(last=False)
            self.bytes -= dropped.bytes
        self._gauge.set(self.bytes)

    def clear(self) -> None:
        """Drops everything."""
        self._texts.clear()
        self.bytes = 0
        self._gauge.set(0)

    def _find(self, work: Work) -> KeptRows | None:
        if isinstance(work, EncodeWork) and work.projections:
            return None  # what is kept is what sources gave, and not what they read
        text = self._texts.get(work.ids)
        if text is None:
            return None
        self._texts.move_to_end(work.ids)
        count = row_count(work)
        found = {}
        for rank in needed(work):
            rows = text.sources.get(rank)
            if rows is None or height(rows) < count:
                return None
            found[rank] = last_rows(rows, count)
        return found


def _own(rows: SourceRows) -> SourceRows:
    """Rows in memory of their own: a view would keep all of what it is a part of."""
    if isinstance(rows, Csr):
        return Csr(_own_array(rows.indptr), _own_array(rows.indices), _own_array(rows.data), rows.columns)
    return _own_array(rows)


def _own_array(array: npt.NDArray[Number]) -> npt.NDArray[Number]:
    return array if array.flags.owndata else array.copy()


def _size(rows: SourceRows) -> int:
    return SOURCE_BYTES + rows.nbytes
