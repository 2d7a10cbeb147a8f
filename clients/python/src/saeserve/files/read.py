"""A file of activations, read back in one call."""

from __future__ import annotations

import os
from os import PathLike

from saeserve.files import npz, parquet
from saeserve.files.activations import Activations


def read_activations(path: str | PathLike[str]) -> Activations:
    """What `saeserve encode --output` wrote, `.parquet` or `.npz`, as Activations: all of it, in memory.

    No server is asked. Raises ValueError for another file or a damaged one, ImportError where pyarrow is missing, and
    OSError.
    """
    name = os.fspath(path)
    with open(name, "rb") as file:  # noqa: PTH123 (so that what is missing is an error of the same kind for both)
        begins = file.read(4)
    try:
        return npz.read(name) if begins[:2] == b"PK" else parquet.read(name)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
