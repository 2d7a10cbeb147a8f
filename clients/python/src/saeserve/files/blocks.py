"""Sparse blocks of columns: put beside each other, taken apart, made from dense ones."""

from __future__ import annotations

import numpy as np

from saeserve.answers.activations import Csr, Floats


def beside(blocks: list[Csr], rows: int) -> Csr:
    """One block to the right of the other: [rows, columns of all]."""
    counts = np.array([np.diff(block.indptr) for block in blocks], np.int64).reshape(len(blocks), rows)
    indptr = np.concatenate([[0], np.cumsum(counts.sum(0))]).astype(np.int64)
    firsts = indptr[:-1] + np.cumsum(counts, axis=0) - counts
    indices, data = np.empty(indptr[-1], np.uint32), np.empty(indptr[-1], np.float32)
    columns = 0
    for block, first, count in zip(blocks, firsts, counts, strict=True):
        places = np.repeat(first - block.indptr[:-1], count) + np.arange(block.nnz)
        indices[places] = block.indices + np.uint32(columns)
        data[places] = block.data
        columns += block.shape[1]
    return Csr((rows, columns), indptr, indices, data)


def of_dense(values: Floats) -> Csr:
    """What is not 0 of [rows, columns]."""
    rows, columns = np.nonzero(values)
    indptr = np.searchsorted(rows, np.arange(len(values) + 1)).astype(np.int64)
    return Csr(values.shape, indptr, columns.astype(np.uint32), np.asarray(values[rows, columns], np.float32))


def columns(csr: Csr, start: int, stop: int) -> Csr:
    """Those from `start` to before `stop`."""
    kept = (csr.indices >= start) & (csr.indices < stop)
    before = np.concatenate([[0], np.cumsum(kept)])
    indices = csr.indices[kept] - np.uint32(start)
    return Csr((len(csr), stop - start), before[csr.indptr].astype(np.int64), indices, csr.data[kept])
