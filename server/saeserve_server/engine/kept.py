"""Answers from what the sources gave on a text's rows before: the runner's answers without model, sources or torch.

Other rows to rank by, a narrower filter, a larger limit, another ranking, chosen features: all of it follows from the
non-zero latents and the neurons of the rows. Order and ties are those of `ranking.py`: value falling, then source
rank, then index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray
from saeserve_server.engine.filtering import ArrayFilters
from saeserve_server.engine.work import (
    Aggregate,
    Csr,
    EncodeDone,
    EncodeWork,
    KeptRows,
    Ranked,
    SearchDone,
    SearchWork,
    SourceFilter,
    SourceRows,
    Work,
    row_count,
)

IntArray = npt.NDArray[np.int64]

SUM_BLOCK = 16
"""Rows that torch sums on a CPU before it adds them to the sum of those before: the order decides the last bit."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Features of one source that fire, by ranking, then index."""

    ranking: IntArray  # [e] which of the rankings each belongs to
    index: IntArray  # [e]
    value: FloatArray  # [e] > 0


def answer_from(work: Work, kept: KeptRows, filters: ArrayFilters) -> SearchDone | EncodeDone:
    """What the engine answers to `work`, from the `row_count(work)` rows of every source that is `needed`.

    Blocks of the answer may be the kept arrays themselves. Raises FloatingPointError for NaN, as the engine does.
    """
    return _search(work, kept, filters) if isinstance(work, SearchWork) else _encode(work, kept)


def last_rows(rows: SourceRows, count: int) -> SourceRows:
    """The last `count` rows, as views."""
    total = height(rows)
    return rows if count == total else _stretch(rows, total - count, total)


def _encode(work: EncodeWork, kept: KeptRows) -> EncodeDone:
    rows = row_count(work)
    dense = None
    if work.features:
        dense = np.empty((rows, len(work.features)), dtype=np.float32)
        source, index = np.array(work.features, dtype=np.int64).T
        for rank in np.unique(source).tolist():
            places = np.flatnonzero(source == rank)
            dense[:, places] = _columns(kept[rank], index[places])
    return EncodeDone(rows, tuple(kept[rank] for rank in work.sources), dense)


def _search(work: SearchWork, kept: KeptRows, filters: ArrayFilters) -> SearchDone:
    counts = [filters.count(chosen) for chosen in work.filters]
    each = work.aggregate is Aggregate.EACH
    taking_part = [chosen for chosen, count in zip(work.filters, counts, strict=True) if count and work.rows]
    if not taking_part:
        return SearchDone((), None if each else np.empty((0, row_count(work)), np.float32), sum(counts))
    found = [_find(work, chosen, _pick(kept[chosen.source], work.rows), filters) for chosen in taking_part]
    source = np.repeat([chosen.source for chosen in taking_part], [len(one.index) for one in found])
    index = np.concatenate([one.index for one in found])
    value = np.concatenate([one.value for one in found])
    if not each:
        ranked = _top(source, index, value, work.limit)
        return SearchDone((ranked,), _activations(ranked, kept, row_count(work)), sum(counts))
    ranking = np.concatenate([one.ranking for one in found])
    order = np.argsort(ranking, kind="stable")
    bounds = np.searchsorted(ranking[order], np.arange(len(work.rows) + 1))
    groups = np.split(order, bounds[1:-1])
    return SearchDone(
        tuple(_top(source[group], index[group], value[group], work.limit) for group in groups), None, sum(counts)
    )


def _top(source: IntArray, index: IntArray, value: FloatArray, limit: int) -> Ranked:
    """The top `limit` of features that come by source rank, then index."""
    if len(value) > limit:
        least = np.partition(value, len(value) - limit)[len(value) - limit]
        few = np.flatnonzero(value >= least)
        source, index, value = source[few], index[few], value[few]
    order = np.argsort(-value, kind="stable")[:limit]  # stable: ties stay by source rank, then index
    return Ranked(source[order], index[order], value[order])


def _find(work: SearchWork, chosen: SourceFilter, rows: SourceRows, filters: ArrayFilters) -> _Found:
    """What fires of one source on the rows that rank, and by how much."""
    maximum = filters.maximum(chosen.source) if work.relative else None
    mask = filters.mask(chosen)
    if isinstance(rows, Csr):
        ranking, index, value = _sparse_values(work.aggregate, rows)
        if maximum is not None:
            value = value / maximum[index]
        fires = value > 0 if mask is None else (value > 0) & mask[index]
        return _Found(ranking[fires], index[fires], value[fires])
    values = _dense_values(work.aggregate, rows)  # [rankings, n_features]
    if maximum is not None:
        values = values / maximum
    if mask is not None:
        values = np.where(mask, values, np.float32(0))
    if np.isnan(values).any():
        raise FloatingPointError(f"source {chosen.source}: the activations hold NaN")
    width = values.shape[1]
    reaches = values > 0
    if work.limit < width:  # few enough to be sorted with those of the other sources
        reaches &= values >= np.partition(values, width - work.limit, axis=1)[:, width - work.limit, None]
    ranking, index = np.nonzero(reaches)
    return _Found(ranking, index, values[ranking, index])


def _sparse_values(aggregate: Aggregate, rows: Csr) -> tuple[IntArray, IntArray, FloatArray]:
    """Ranking, index and value [e] of the latents that are not 0, by ranking, then index."""
    if aggregate is Aggregate.EACH or len(rows.indptr) == 2:
        return _row_of_entries(rows), rows.indices.astype(np.int64), rows.data
    if aggregate is Aggregate.MAX:
        values = np.zeros(rows.columns, dtype=np.float32)
        np.maximum.at(values, rows.indices.astype(np.intp), rows.data)
    else:
        values = _sum(rows)
    index = np.flatnonzero(values > 0)
    return np.zeros(len(index), dtype=np.int64), index, values[index]


def _dense_values(aggregate: Aggregate, rows: FloatArray) -> FloatArray:
    """[rankings, n_features]: what the neurons rank by."""
    if aggregate is Aggregate.EACH:
        return rows
    values: FloatArray = rows.max(axis=0) if aggregate is Aggregate.MAX else _sum(rows)
    return values[None]


def _sum(rows: SourceRows) -> FloatArray:
    """float32 [n_features]: the sum over the rows, to the bit as torch has it on a CPU for up to 256 of them."""
    last = height(rows)
    blocks = last - last % SUM_BLOCK
    total: FloatArray = np.zeros(rows.columns if isinstance(rows, Csr) else rows.shape[1], dtype=np.float32)
    for first in range(0, blocks, SUM_BLOCK):
        total += _sum_block(_stretch(rows, first, first + SUM_BLOCK))
    return _sum_block(_stretch(rows, blocks, last)) + total


def _sum_block(rows: SourceRows) -> FloatArray:
    """float32 [n_features]: the sum, row after row."""
    if isinstance(rows, Csr):
        values = np.zeros(rows.columns, dtype=np.float32)
        np.add.at(values, rows.indices.astype(np.intp), rows.data)
    else:
        values = np.zeros(rows.shape[1], dtype=np.float32)
        for row in rows:  # not rows.sum(axis=0), which adds a single column pair by pair
            values += row
    return values


def _activations(ranked: Ranked, kept: KeptRows, rows: int) -> FloatArray:
    """[k, rows] of the ranked features."""
    activations = np.empty((len(ranked.index), rows), dtype=np.float32)
    for rank in np.unique(ranked.source).tolist():
        places = np.flatnonzero(ranked.source == rank)
        activations[places] = _columns(kept[rank], ranked.index[places]).T
    return activations


def _columns(rows: SourceRows, index: IntArray) -> FloatArray:
    """[rows, len(index)]: the activations of some features."""
    if not isinstance(rows, Csr):
        return rows[:, index]
    place = np.full(rows.columns, -1, dtype=np.int32)  # of each feature in the result; the last where it stands twice
    place[index] = np.arange(len(index))
    places = place[rows.indices]
    hits = np.flatnonzero(places >= 0)
    columns = np.zeros((height(rows), len(index)), dtype=np.float32)
    columns[np.searchsorted(rows.indptr, hits, side="right") - 1, places[hits]] = rows.data[hits]
    return columns[:, place[index]]


def _pick(rows: SourceRows, chosen: Sequence[int]) -> SourceRows:
    """The rows `chosen`: at least one, ascending."""
    first, last = chosen[0], chosen[-1] + 1
    stretch = _stretch(rows, first, last)
    if last - first == len(chosen):
        return stretch
    picked = np.array(chosen) - first
    if not isinstance(stretch, Csr):
        return stretch.take(picked, axis=0)
    counts = np.diff(stretch.indptr)
    taken = np.zeros(last - first, dtype=np.bool_)
    taken[picked] = True
    entries = np.repeat(taken, counts)
    indptr = np.concatenate(([0], np.cumsum(counts[picked])))
    return Csr(indptr, stretch.indices[entries], stretch.data[entries], stretch.columns)


def _stretch(rows: SourceRows, first: int, end: int) -> SourceRows:
    """Rows `first` to `end`, exclusive, as views."""
    return rows.cut(first, end) if isinstance(rows, Csr) else rows[first:end]


def _row_of_entries(rows: Csr) -> IntArray:
    """[entries] the row of each."""
    return np.repeat(np.arange(height(rows)), np.diff(rows.indptr))


def height(rows: SourceRows) -> int:
    """Number of rows."""
    return len(rows.indptr) - 1 if isinstance(rows, Csr) else len(rows)
