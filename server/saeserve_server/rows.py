"""Rows of activations: what a source gives on the tokens of texts, sparse or dense, and how they are cut and picked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import FloatArray

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Csr:
    """Activations > 0 of a whole source: compressed sparse rows."""

    indptr: IntArray  # [rows + 1]
    indices: npt.NDArray[np.uint32]  # [entries] ascending within a row
    data: FloatArray  # [entries]
    columns: int

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return self.indptr.nbytes + self.indices.nbytes + self.data.nbytes


SourceRows = Csr | FloatArray
"""What a source gives: the latents that fire, or [rows, n_features] for neurons and for latents of which most fire."""

KeptRows = Mapping[int, SourceRows]
"""Of one text, by rank of the source. With them, other questions about it need neither model nor sources."""


def height(rows: SourceRows) -> int:
    """Number of rows."""
    return len(rows.indptr) - 1 if isinstance(rows, Csr) else len(rows)


def width(rows: SourceRows) -> int:
    """Number of features."""
    return rows.columns if isinstance(rows, Csr) else rows.shape[1]


def cut(rows: SourceRows, first: int, end: int) -> SourceRows:
    """The rows from `first` to `end`, as views."""
    if not isinstance(rows, Csr):
        return rows[first:end]
    begin, last = int(rows.indptr[first]), int(rows.indptr[end])
    return Csr(rows.indptr[first : end + 1] - begin, rows.indices[begin:last], rows.data[begin:last], rows.columns)


def last_rows(rows: SourceRows, count: int) -> SourceRows:
    """The last `count` rows, as views."""
    total = height(rows)
    return rows if count == total else cut(rows, total - count, total)


def entries_of(rows: Csr, picked: IntArray) -> tuple[IntArray, IntArray]:
    """For each entry of the picked rows, one row after another: which of the picked it stands in, and its place."""
    counts = rows.indptr[picked + 1] - rows.indptr[picked]
    of_row = np.repeat(np.arange(len(picked)), counts)
    before = np.cumsum(counts) - counts
    return of_row, np.arange(len(of_row)) + (rows.indptr[picked] - before)[of_row]


def columns(rows: SourceRows, index: IntArray) -> FloatArray:
    """[rows, len(index)]: the activations of some features."""
    if not isinstance(rows, Csr):
        return rows[:, index]
    ascending, column = np.unique(index, return_inverse=True)
    found = np.zeros((height(rows), len(ascending)), dtype=np.float32)
    if len(index):
        place = np.minimum(np.searchsorted(ascending, rows.indices), len(ascending) - 1)
        hits = np.flatnonzero(ascending[place] == rows.indices)
        row = np.searchsorted(rows.indptr, hits, side="right") - 1
        found[row, place[hits]] = rows.data[hits]
    return found[:, column]


def with_blank_rows(rows: SourceRows, places: IntArray) -> SourceRows:
    """The same with a row of zeros put in before each of the rows `places`."""
    if not len(places):
        return rows
    if isinstance(rows, Csr):
        return Csr(np.insert(rows.indptr, places, rows.indptr[places]), rows.indices, rows.data, rows.columns)
    return np.insert(rows, places, np.float32(0), axis=0)


def rows_of(row: IntArray, index: npt.NDArray[Any], data: FloatArray, height: int, width: int) -> SourceRows:
    """What fires, by row, then index [entries], as so many rows of so many features: sparse, or dense if most do.

    Raises FloatingPointError for NaN.
    """
    if np.isnan(data).any():
        raise FloatingPointError("the activations hold NaN")
    if 2 * len(data) > height * width:
        dense = np.zeros((height, width), dtype=np.float32)
        dense[row, index] = data
        return dense
    return _csr(row, index, data, height, width)


def as_csr(rows: SourceRows) -> Csr:
    """The entries > 0."""
    if isinstance(rows, Csr):
        return rows
    fires = rows > 0
    indptr = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(fires.sum(axis=1), out=indptr[1:])
    place = np.flatnonzero(fires)  # in one dimension: several times as fast
    index = place - np.repeat(np.arange(len(rows)) * rows.shape[1], np.diff(indptr))
    return Csr(indptr, index.astype(np.uint32), rows.reshape(-1)[place], rows.shape[1])


def _csr(row: IntArray, index: npt.NDArray[Any], data: FloatArray, height: int, width: int) -> Csr:
    indptr = np.zeros(height + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=height), out=indptr[1:])
    return Csr(indptr, index.astype(np.uint32, copy=False), data, width)


def stacked(parts: Sequence[SourceRows]) -> SourceRows:
    """Rows, one part below the other; sparse if any of them is."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    blocks = [as_csr(part) for part in parts]
    entries = np.cumsum([0, *(len(block.data) for block in blocks)])
    ends = [block.indptr[1:] + before for block, before in zip(blocks, entries, strict=False)]
    return Csr(
        np.concatenate([np.zeros(1, dtype=np.int64), *ends]),
        np.concatenate([block.indices for block in blocks]),
        np.concatenate([block.data for block in blocks]),
        blocks[0].columns,
    )
