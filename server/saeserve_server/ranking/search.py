"""The one ranking: which features fire most on the rows of texts, for all searches of a batch at once.

A search ranks the features of its sources by an aggregate over the rows that it chose (the largest value, or the sum),
or ranks them anew for each of these rows. So it has one *ranking* or several; those of all searches are numbered
through. Sources come one after another, by ascending rank, and of each ranking only the best are kept.

Order: value falling, then source rank (layer, latents before neurons, id), then index. Since sources come in that
order, a feature that equals the last of the best so far comes after it: only what exceeds it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.work import Aggregate, Ranked, SearchDone, SearchWork, SourceFilter, row_count
from saeserve_server.rows import Csr, IntArray, SourceRows, columns, cut, entries_of


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Features by ranking; within one by source rank, then index, or best first."""

    ranking: IntArray  # [e]
    source: IntArray  # [e] rank in the catalog
    index: IntArray  # [e]
    value: FloatArray  # [e] > 0

    def __getitem__(self, which: IntArray | npt.NDArray[np.bool_] | slice) -> _Found:
        return _Found(self.ranking[which], self.source[which], self.index[which], self.value[which])


class Rankings:
    """The searches of a batch, ranked source after source."""

    def __init__(self, works: Sequence[SearchWork], filters: Filters) -> None:
        self._works = works
        self._filters = filters
        self._chosen = [{one.source: one for one in work.filters} for work in works]
        counts = [len(work.rows) if work.aggregate is Aggregate.EACH else 1 for work in works]
        self._begins = np.cumsum([0, *counts])  # the first ranking of each search
        self._owner = np.repeat(np.arange(len(works)), counts)  # [rankings] whose it is
        self._limit = np.repeat(np.array([work.limit for work in works], dtype=np.int64), counts)
        self._summed = np.repeat([work.aggregate is Aggregate.SUM for work in works], counts)
        self._least = np.zeros(len(self._owner), dtype=np.float32)  # what must be exceeded to be among the best
        nothing = np.zeros(0, dtype=np.int64)
        self._best = _Found(nothing, nothing, nothing, np.zeros(0, dtype=np.float32))
        self._activations: list[dict[int, tuple[IntArray, FloatArray]]] = [{} for _ in works]

    def wants(self, number: int, rank: int) -> bool:
        """Whether a source can bear on the answer to a search."""
        chosen = self._chosen[number].get(rank)
        return chosen is not None and bool(self._works[number].rows) and self._filters.count(chosen) > 0

    def add(self, rank: int, rows: SourceRows, asking: Sequence[tuple[int, int]]) -> None:
        """Takes in a source, of a higher rank than those before. `asking` are the searches that want it: the number of
        each, and the first of its `row_count` rows. Raises FloatingPointError for NaN."""
        picked = [first + np.array(self._works[number].rows, dtype=np.int64) for number, first in asking]
        ranking = np.concatenate(
            [self._rankings(number, len(own)) for (number, _), own in zip(asking, picked, strict=True)]
        )
        every = np.concatenate(picked)
        ranking, index, value = (
            self._sparse(rows, every, ranking) if isinstance(rows, Csr) else self._dense(rows, every, ranking)
        )
        if np.isnan(value).any():
            raise FloatingPointError(f"source {rank}: the activations hold NaN")
        ranking, index, value = self._filter(rank, {number for number, _ in asking}, ranking, index, value)
        self._keep(_Found(ranking, np.full(len(index), rank), index, value))
        for number, first in asking:
            work = self._works[number]
            if work.aggregate is not Aggregate.EACH:
                own = self._best_of(number)
                index = own.index[own.source == rank]
                if len(index):
                    found = columns(cut(rows, first, first + row_count(work)), index)
                    self._activations[number][rank] = (index, found)

    def done(self, number: int) -> SearchDone:
        """The answer to a search."""
        work = self._works[number]
        considered = sum(self._filters.count(chosen) for chosen in work.filters)
        if not any(self.wants(number, chosen.source) for chosen in work.filters):
            empty = None if work.aggregate is Aggregate.EACH else np.empty((0, row_count(work)), np.float32)
            return SearchDone((), empty, considered)
        if work.aggregate is Aggregate.EACH:
            each = range(self._begins[number], self._begins[number + 1])
            return SearchDone(tuple(_ranked(self._best_in(ranking, ranking + 1)) for ranking in each), None, considered)
        best = self._best_of(number)
        activations = np.empty((len(best.index), row_count(work)), dtype=np.float32)
        for rank, (index, found) in self._activations[number].items():
            places = np.flatnonzero(best.source == rank)
            order = np.argsort(index)
            at = np.searchsorted(index, best.index[places], sorter=order)
            activations[places] = found.T[order[at]]
        return SearchDone((_ranked(best),), activations, considered)

    def _rankings(self, number: int, rows: int) -> IntArray:
        """[rows] the ranking to which each row of a search belongs."""
        first = self._begins[number]
        if self._works[number].aggregate is Aggregate.EACH:
            return np.arange(first, first + rows)
        return np.full(rows, first)

    def _sparse(self, rows: Csr, picked: IntArray, ranking: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """Ranking, index and value [e] of what fires, by ranking, then index."""
        of_row, place = entries_of(rows, picked)
        ranking, index, value = ranking[of_row], rows.indices[place].astype(np.int64), rows.data[place]
        key = ranking * rows.columns + index
        if not (np.diff(key) > 0).all():  # several rows of a ranking
            order = np.argsort(key, kind="stable")
            starts = np.flatnonzero(np.diff(key[order], prepend=-1))
            value = self._aggregate(value[order], starts, ranking[order][starts])
            ranking, index = ranking[order][starts], index[order][starts]
        return ranking, index, value

    def _dense(self, rows: FloatArray, picked: IntArray, ranking: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """The same of rows [rows, n_features], of which those are left that can be among the best."""
        starts = np.flatnonzero(np.diff(ranking, prepend=-1))
        values = self._aggregate(rows[picked], starts, ranking[starts])  # [rankings, n_features]
        found, index = np.nonzero((values > 0) | np.isnan(values))
        return ranking[starts][found], index, values[found, index]

    def _aggregate(self, value: FloatArray, starts: IntArray, ranking: IntArray) -> FloatArray:
        """Of the stretches of `value` that begin at `starts`, along the first axis, the largest or the sum.

        Sums are rounded to float32 once.
        """
        summed = self._summed[ranking]
        if not summed.any():
            return np.maximum.reduceat(value, starts)
        sums: FloatArray = np.add.reduceat(value, starts, dtype=np.float64).astype(np.float32)
        if summed.all():
            return sums
        chosen = summed.reshape(-1, *[1] * (value.ndim - 1))
        return np.where(chosen, sums, np.maximum.reduceat(value, starts))

    def _filter(
        self, rank: int, numbers: Iterable[int], ranking: IntArray, index: IntArray, value: FloatArray
    ) -> tuple[IntArray, IntArray, FloatArray]:
        """What takes part, and divided by the index maximum where that is asked for."""
        owner = self._owner[ranking]
        keep = value > self._least[ranking]
        relative = [number for number in numbers if self._works[number].relative]
        if relative:
            divided = np.isin(owner, relative)
            value = np.where(divided, value / self._filters.maximum(rank)[index], value)
            keep = value > self._least[ranking]
        by_filter: dict[SourceFilter, list[int]] = {}
        for number in numbers:
            by_filter.setdefault(self._chosen[number][rank], []).append(number)
        for chosen, asking in by_filter.items():
            mask = self._filters.mask(chosen)
            if mask is not None:
                keep &= mask[index] if len(by_filter) == 1 else mask[index] | ~np.isin(owner, asking)
        return ranking[keep], index[keep], value[keep]

    def _keep(self, found: _Found) -> None:
        """The best of what is there and of what was found; those that were there come first where values are equal."""
        best = self._best
        both = _Found(
            np.concatenate([best.ranking, found.ranking]),
            np.concatenate([best.source, found.source]),
            np.concatenate([best.index, found.index]),
            np.concatenate([best.value, found.value]),
        )
        both = both[np.lexsort((-both.value, both.ranking))]  # stable
        counts = np.bincount(both.ranking, minlength=len(self._owner))
        begins = np.cumsum(counts) - counts
        place = np.arange(len(both.ranking)) - begins[both.ranking]
        full = counts >= self._limit
        self._least[full] = both.value[(begins + self._limit - 1)[full]]
        self._best = both[place < self._limit[both.ranking]]

    def _best_of(self, number: int) -> _Found:
        return self._best_in(self._begins[number], self._begins[number + 1])

    def _best_in(self, first: int, end: int) -> _Found:
        """The best of the rankings from `first` to `end`."""
        return self._best[slice(*np.searchsorted(self._best.ranking, [first, end]))]


def _ranked(found: _Found) -> Ranked:
    return Ranked(found.source, found.index, found.value)
