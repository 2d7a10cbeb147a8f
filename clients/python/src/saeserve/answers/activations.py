"""Arrays of activations as they come over the wire: raw little-endian buffers, read without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from saeserve.answers.seen import Brief

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]
Indices: TypeAlias = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Csr(Brief):
    """Sparse activations of one source, row by row. Rows are tokens, columns are features; only values > 0 are stored.

    With SciPy: `scipy.sparse.csr_matrix((csr.data, csr.indices, csr.indptr), shape=csr.shape)`.
    """

    shape: tuple[int, int]
    """(tokens, features)."""
    indptr: Integers
    """[tokens + 1]; row r holds the entries from indptr[r] to indptr[r + 1]."""
    indices: Indices
    """[entries]; the feature of each entry, ascending within a row."""
    data: Floats
    """[entries]; the activation of each entry, > 0."""

    @classmethod
    def from_buffers(cls, shape: tuple[int, int], indptr: bytes, indices: bytes, data: bytes) -> Csr:
        """Read the wire's buffers. Raises ValueError if they do not fit together."""
        csr = cls(shape, np.frombuffer(indptr, "<i8"), np.frombuffer(indices, "<u4"), np.frombuffer(data, "<f4"))
        entries = csr.indptr
        if len(entries) != shape[0] + 1 or entries[0] != 0 or np.any(np.diff(entries) < 0):
            raise ValueError(f"{len(entries)} row pointers do not describe {shape[0]} rows")
        if not len(csr.data) == len(csr.indices) == entries[-1]:
            raise ValueError(f"{len(csr.indices)} indices and {len(csr.data)} values for {entries[-1]} entries")
        if len(csr.indices) and int(csr.indices.max()) >= shape[1]:
            raise ValueError(f"feature {int(csr.indices.max())} in a source of {shape[1]}")
        return csr

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return len(self.data)

    def __len__(self) -> int:
        return self.shape[0]

    def row(self, token: int) -> tuple[Indices, Floats]:
        """The features that fire on one token, ascending, and their activations. Negative tokens count from the end."""
        token = range(self.shape[0])[token]
        entries = slice(int(self.indptr[token]), int(self.indptr[token + 1]))
        return self.indices[entries], self.data[entries]

    def column(self, feature: int) -> Floats:
        """[tokens]; one feature's activation on every token."""
        feature = range(self.shape[1])[feature]
        column = np.zeros(self.shape[0], np.float32)
        entries = np.flatnonzero(self.indices == feature)
        column[np.searchsorted(self.indptr, entries, side="right") - 1] = self.data[entries]
        return column

    def __getitem__(self, rows: slice) -> Csr:
        """Some rows, without copying the values: `csr[2:5]`. The step must be 1."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise ValueError("rows can be cut only with step 1")
        stop = max(start, stop)
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        return Csr(
            (stop - start, self.shape[1]),
            self.indptr[start : stop + 1] - first,
            self.indices[first:last],
            self.data[first:last],
        )

    def toarray(self) -> Floats:
        """[tokens, features]; dense, with zeros. May be large: 4 bytes a cell."""
        dense = np.zeros(self.shape, np.float32)
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))
        dense[rows, self.indices] = self.data
        return dense

    @classmethod
    def concatenate(cls, parts: list[Csr]) -> Csr:
        """One block below the other: the chunks of a streamed text. At least one; all of the same width."""
        if len(parts) == 1:
            return parts[0]
        ends = np.cumsum([0, *(part.nnz for part in parts)])
        indptr = [parts[0].indptr[:1], *(part.indptr[1:] + end for part, end in zip(parts, ends, strict=False))]
        return cls(
            (sum(len(part) for part in parts), parts[0].shape[1]),
            np.concatenate(indptr),
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.data for part in parts]),
        )


def dense_from_buffer(shape: tuple[int, int], data: bytes) -> Floats:
    """[tokens, features] from the wire's buffer. Raises ValueError if its size is not 4 bytes a cell."""
    values = np.frombuffer(data, "<f4")
    if len(values) != shape[0] * shape[1]:
        raise ValueError(f"{len(values)} values for {shape[0]} rows of {shape[1]}")
    return values.reshape(shape)
