"""How a file reaches the disk: whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".tmp"
"""Behind the name of what is being written."""


@contextmanager
def whole(path: Path, by: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file that appears under its name only when all of it is on the disk, in place of one that was there.

    by: what it is called until then, in the same file system; default: its name and `.tmp`. Raises OSError.
    """
    by = by or path.with_name(path.name + UNFINISHED)
    with by.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    by.replace(path)
    settle(path.parent)


def settle(folder: Path) -> None:
    """Names in a folder survive a loss of power too."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
