"""Rows of whole batches on the disk, so that the second pass need not compute them again."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saeserve_server.rows import Csr, SourceRows


class KeptRows:
    """Rows by chunk and batch, in the folders of one part or several; written to the first while there is room."""

    def __init__(self, folders: Sequence[Path], room: int) -> None:
        self._folders = folders
        self._room = room - sum(path.stat().st_size for path in folders[0].glob("*.npz"))

    def put(self, chunk: int, number: int, rows: Mapping[int, SourceRows]) -> None:
        """Keeps the rows of all sources, by rank, on a batch, if there is room for them. Raises OSError."""
        arrays = dict[str, npt.NDArray[Any]]()
        for rank, one in rows.items():
            if isinstance(one, Csr):
                arrays |= {f"{rank}-indptr": one.indptr, f"{rank}-indices": one.indices, f"{rank}-data": one.data}
                arrays[f"{rank}-columns"] = np.array(one.columns)
            else:
                arrays[f"{rank}-dense"] = one
        if not arrays or self._room <= 0:
            return
        path = self._folders[0] / _name(chunk, number)
        with contextlib.suppress(FileNotFoundError):  # of a run that was killed
            self._room += path.stat().st_size
        size = sum(array.nbytes + 256 for array in arrays.values())
        if size <= self._room:
            self._room -= size
            np.savez(path, **arrays)  # type: ignore[arg-type]
        else:
            path.unlink(missing_ok=True)

    def get(self, chunk: int, number: int, ranks: Sequence[int]) -> dict[int, SourceRows] | None:
        """The rows of some sources on a batch; None where they are not kept, or not whole."""
        for folder in self._folders:
            path = folder / _name(chunk, number)
            if path.exists():
                try:
                    with np.load(path) as arrays:  # whose checksums are looked at
                        return {rank: _rows(arrays, rank) for rank in ranks}
                except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                    return None
        return None


def _rows(arrays: Any, rank: int) -> SourceRows:
    if f"{rank}-dense" in arrays:
        dense: npt.NDArray[np.float32] = arrays[f"{rank}-dense"]
        return dense
    parts = (arrays[f"{rank}-{name}"] for name in ("indptr", "indices", "data", "columns"))
    indptr, indices, data, columns = parts
    return Csr(indptr, indices, data, int(columns))


def _name(chunk: int, number: int) -> str:
    return f"{chunk}-{number}.npz"
