"""The one ranking: which features fire most on the rows of texts, for all searches of a batch at once.

A search ranks the features of its sources by an aggregate over the rows that it chose (the largest value, or the sum),
or ranks them anew for each of these rows. So it has one *ranking* or several; those of all searches are numbered
through. Sources come one after another, by ascending rank, and of each ranking only the best are kept.

Order: value falling, then *tie* falling, then source rank (layer, latents before neurons, id), then index. The tie is
activation over the feature's maximum where values are surprisals, which are equal for all that is beyond the index, and
0 where they are not. Since sources come in that order, a feature that equals the last of the best so far in both comes
after it: only what exceeds it, by value or by tie, is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.ranking.filters import Filters
from saeserve_server.ranking.work import Aggregate, Ranked, Ranking, SearchDone, SearchWork, SourceFilter, row_count
from saeserve_server.rows import Csr, IntArray, SourceRows, columns, cut, entries_of, width

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Features by ranking; within one by source rank, then index, or best first."""

    ranking: IntArray  # [e]
    source: IntArray  # [e] rank in the catalog
    index: IntArray  # [e]
    value: FloatArray  # [e] > 0
    tie: FloatArray  # [e] what orders equal values

    def __getitem__(self, which: IntArray | BoolArray | slice) -> _Found:
        return _Found(self.ranking[which], self.source[which], self.index[which], self.value[which], self.tie[which])


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
        # What must be exceeded to be among the best: at first the value 0, and no tie does.
        self._least = np.zeros(len(self._owner), dtype=np.float32)
        self._least_tie = np.full(len(self._owner), np.inf, dtype=np.float32)
        nothing, none = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        self._best = _Found(nothing, nothing, nothing, none, none)
        self._activations: list[dict[int, tuple[IntArray, FloatArray]]] = [{} for _ in works]

    def wants(self, number: int, rank: int) -> bool:
        """Whether a source can bear on the answer to a search."""
        chosen = self._chosen[number].get(rank)
        return chosen is not None and bool(self._works[number].rows) and self._filters.count(chosen) > 0

    def add(self, rank: int, rows: SourceRows, asking: Sequence[tuple[int, int]]) -> None:
        """Takes in a source, of a higher rank than those before. `asking` are the searches that want it: the number of
        each, and the first of its `row_count` rows. Raises FloatingPointError for NaN."""
        by_entry = [self._sums_bits(number) for number, _ in asking]
        plain = [one for one, bits in zip(asking, by_entry, strict=True) if not bits]
        if plain:
            ranking, index, value = self._aggregated(rank, rows, plain)
            self._keep(self._measured(rank, plain, ranking, index, value))
        if any(by_entry):
            in_bits = [one for one, bits in zip(asking, by_entry, strict=True) if bits]
            self._keep(self._sums_of_bits(rank, rows, in_bits))
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

    def _sums_bits(self, number: int) -> bool:
        """Whether each activation of a search becomes bits before any are added."""
        work = self._works[number]
        return work.aggregate is Aggregate.SUM and work.ranking is Ranking.SURPRISAL

    def _picked(self, asking: Sequence[tuple[int, int]]) -> tuple[IntArray, IntArray]:
        """The rows that rank, of one search after another, and the ranking to which each belongs."""
        picked, rankings = [], []
        for number, begin in asking:
            own = begin + np.array(self._works[number].rows, dtype=np.int64)
            first = self._begins[number]
            each = self._works[number].aggregate is Aggregate.EACH
            picked.append(own)
            rankings.append(np.arange(first, first + len(own)) if each else np.full(len(own), first))
        return np.concatenate(picked), np.concatenate(rankings)

    def _aggregated(
        self, rank: int, rows: SourceRows, asking: Sequence[tuple[int, int]]
    ) -> tuple[IntArray, IntArray, FloatArray]:
        """Ranking, index and value [e] of what fires, by ranking, then index."""
        picked, of_row = self._picked(asking)
        ranking, index, value = (
            self._sparse(rows, picked, of_row) if isinstance(rows, Csr) else self._dense(rows, picked, of_row)
        )
        _refuse_nan(rank, value)
        return ranking, index, value

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

    def _measured(
        self, rank: int, asking: Sequence[tuple[int, int]], ranking: IntArray, index: IntArray, value: FloatArray
    ) -> _Found:
        """What takes part and can be among the best, by value as each search's ranking has it."""
        numbers = [number for number, _ in asking]
        tie = np.zeros(len(value), dtype=np.float32)
        measured = {one: [n for n in numbers if self._works[n].ranking is one] for one in Ranking}
        if not measured[Ranking.RELATIVE] and not measured[Ranking.SURPRISAL]:
            keep = self._exceeds(ranking, value, tie)
            ranking, index, value, tie = ranking[keep], index[keep], value[keep], tie[keep]
        keep = self._takes_part(rank, numbers, ranking, index)
        ranking, index, value, tie = ranking[keep], index[keep], value[keep], tie[keep]
        if measured[Ranking.RELATIVE]:
            divided = np.isin(self._owner[ranking], measured[Ranking.RELATIVE])
            value = np.where(divided, value / self._filters.maximum(rank)[index], value)
        if measured[Ranking.SURPRISAL]:
            bits = np.flatnonzero(np.isin(self._owner[ranking], measured[Ranking.SURPRISAL]))
            tie[bits] = self._shares(rank, index[bits], value[bits])
            value[bits] = self._filters.surprisal(rank).bits(index[bits], value[bits])
        keep = self._exceeds(ranking, value, tie)
        return _Found(ranking[keep], np.full(int(keep.sum()), rank), index[keep], value[keep], tie[keep])

    def _sums_of_bits(self, rank: int, rows: SourceRows, asking: Sequence[tuple[int, int]]) -> _Found:
        """The same of searches that add bits: what does not fire on a row adds none."""
        picked, of_row = self._picked(asking)
        if isinstance(rows, Csr):
            place, entry = entries_of(rows, picked)
            index, value = rows.indices[entry].astype(np.int64), rows.data[entry]
        else:
            chosen = rows[picked]
            place, index = np.nonzero((chosen > 0) | np.isnan(chosen))
            value = chosen[place, index]
        _refuse_nan(rank, value)
        ranking = of_row[place]
        keep = self._takes_part(rank, [number for number, _ in asking], ranking, index)
        ranking, index, value = ranking[keep], index[keep], value[keep]
        key = ranking * width(rows) + index
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        bits = self._filters.surprisal(rank).bits(index, value)
        total: FloatArray = np.add.reduceat(bits[order], starts, dtype=np.float64).astype(np.float32)
        ranking, index = ranking[order][starts], index[order][starts]
        tie = self._shares(rank, index, np.maximum.reduceat(value[order], starts))
        keep = self._exceeds(ranking, total, tie)
        return _Found(ranking[keep], np.full(int(keep.sum()), rank), index[keep], total[keep], tie[keep])

    def _shares(self, rank: int, index: IntArray, value: FloatArray) -> FloatArray:
        """Activations over the features' maxima, which may be too small for them."""
        with np.errstate(over="ignore"):
            shares: FloatArray = value / self._filters.maximum(rank)[index]
        return shares

    def _exceeds(self, ranking: IntArray, value: FloatArray, tie: FloatArray) -> BoolArray:
        """Whether each can be among the best of its ranking: those that are come before it where it equals them."""
        least = self._least[ranking]
        exceeds: BoolArray = (value > least) | ((value == least) & (tie > self._least_tie[ranking]))
        return exceeds

    def _takes_part(self, rank: int, numbers: Iterable[int], ranking: IntArray, index: IntArray) -> BoolArray:
        """Whether each is a feature that its search's filter leaves in."""
        keep = np.ones(len(index), dtype=np.bool_)
        by_filter: dict[SourceFilter, list[int]] = {}
        for number in numbers:
            by_filter.setdefault(self._chosen[number][rank], []).append(number)
        for chosen, asking in by_filter.items():
            mask = self._filters.mask(chosen)
            if mask is not None:
                keep &= mask[index] if len(by_filter) == 1 else mask[index] | ~np.isin(self._owner[ranking], asking)
        return keep

    def _keep(self, found: _Found) -> None:
        """The best of what is there and of what was found; those that were there come first where all else is equal."""
        best = self._best
        both = _Found(
            np.concatenate([best.ranking, found.ranking]),
            np.concatenate([best.source, found.source]),
            np.concatenate([best.index, found.index]),
            np.concatenate([best.value, found.value]),
            np.concatenate([best.tie, found.tie]),
        )
        both = both[np.lexsort((-both.tie, -both.value, both.ranking))]  # stable
        counts = np.bincount(both.ranking, minlength=len(self._owner))
        begins = np.cumsum(counts) - counts
        place = np.arange(len(both.ranking)) - begins[both.ranking]
        full = counts >= self._limit
        last = (begins + self._limit - 1)[full]
        self._least[full], self._least_tie[full] = both.value[last], both.tie[last]
        self._best = both[place < self._limit[both.ranking]]

    def _best_of(self, number: int) -> _Found:
        return self._best_in(self._begins[number], self._begins[number + 1])

    def _best_in(self, first: int, end: int) -> _Found:
        """The best of the rankings from `first` to `end`."""
        return self._best[slice(*np.searchsorted(self._best.ranking, [first, end]))]


def _refuse_nan(rank: int, value: FloatArray) -> None:
    if np.isnan(value).any():
        raise FloatingPointError(f"source {rank}: the activations hold NaN")


def _ranked(found: _Found) -> Ranked:
    return Ranked(found.source, found.index, found.value)
