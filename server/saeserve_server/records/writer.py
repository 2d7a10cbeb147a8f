"""Writes an index beside its place and moves it there whole: a reader sees the old index or the new one, never half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.errors import ConfigError
from saeserve_server.records import layout
from saeserve_server.records.layout import FileEntry, IndexedSource, Manifest
from saeserve_server.records.unfinished import Unfinished, beside, sweep

_ATTEMPTS: Final = 5
"""Builds that finish at the same place at the same moment may get in each other's way; the last one stays."""


class CannotWrite(ConfigError):
    """The place cannot be written to: a full disk, a folder that is read-only."""


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{error.filename or path}: {error.strerror or error}") from error


class ArrayWriter:
    """Appends rows to one file of the index."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.rows = 0
        self._dtype = dtype
        self._row_shape: tuple[int, ...] | None = None
        self._digest = hashlib.sha256()
        with _errors_named(path):
            self._file: BinaryIO = path.open("wb")

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Append along the first axis; every call has the same shape of rows."""
        if self._row_shape not in (None, rows.shape[1:]):
            raise ValueError(f"{self.path.name}: rows of shape {rows.shape[1:]}, not {self._row_shape}")
        data = np.ascontiguousarray(rows, dtype=self._dtype).tobytes()
        self._row_shape = rows.shape[1:]
        self.rows += len(rows)
        self._digest.update(data)
        with _errors_named(self.path):
            self._file.write(data)

    def flush(self) -> None:
        """Make what was appended readable from the file."""
        with _errors_named(self.path):
            self._file.flush()

    def finish(self) -> FileEntry:
        """Write everything to the disk and close the file."""
        self.flush()
        with _errors_named(self.path):
            os.fsync(self._file.fileno())
            self._file.close()
        return FileEntry((self.rows, *(self._row_shape or ())), self._digest.hexdigest())

    def close(self) -> None:
        """Close the file, finished or not."""
        with contextlib.suppress(OSError):  # what could not be written has been said already
            self._file.close()


class StoreWriter:
    """A context manager: the index appears at `out` on `commit`; left in any other way nothing remains of it.

    An index that is already at `out` is replaced. Raises ConfigError if anything else is there, and CannotWrite where
    nothing can be written. What builds that were killed have left beside it is swept.
    """

    folder: Path
    """Where the index is until it is in its place."""

    def __init__(self, out: Path) -> None:
        # Without symlinks, so that the temporary folder is on the file system of the place it moves to.
        self.out = out.resolve()
        self._files: dict[str, ArrayWriter] = {}
        self._unfinished: Unfinished | None = None

    def __enter__(self) -> StoreWriter:
        if self.out.exists() and not layout.is_index(self.out) and not _is_empty_folder(self.out):
            raise ConfigError(f"{self.out}: exists and is not an index: choose another place, or move it away")
        with _errors_named(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.out.parent)
            self._unfinished = Unfinished.make(lambda: beside(self.out, "building"))
        self.folder = self._unfinished.folder
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        if self._unfinished is not None:
            self._unfinished.remove()

    def file(self, name: str) -> ArrayWriter:
        """A new file of the index, by the name that the layout gives it."""
        path = self.folder / name
        with _errors_named(path):
            path.parent.mkdir(exist_ok=True)
        self._files[name] = ArrayWriter(path, layout.dtype_of(name))
        return self._files[name]

    def write(self, name: str, rows: npt.NDArray[Any]) -> None:
        """A whole file at once."""
        self.file(name).append(rows)

    def commit(
        self,
        *,
        model_name: str,
        model_revision: str,
        context: int,
        records_per_feature: int,
        kernel: str,
        texts: int,
        tokens: int,
        sources: tuple[IndexedSource, ...],
    ) -> None:
        """Finish all files, write the manifest, and put the index in its place."""
        manifest = Manifest(
            model_name=model_name,
            model_revision=model_revision,
            context=context,
            records_per_feature=records_per_feature,
            kernel=kernel,
            texts=texts,
            tokens=tokens,
            sources=sources,
            files={name: file.finish() for name, file in self._files.items()},
        )
        with _errors_named(self.folder):
            manifest.write(self.folder)
            _sync(self.folder / layout.MANIFEST)
            for folder in (*(path for path in self.folder.iterdir() if path.is_dir()), self.folder):
                _sync(folder)
        self._replace()
        with _errors_named(self.out.parent):
            _sync(self.out.parent)

    def _replace(self) -> None:
        for attempt in range(_ATTEMPTS):
            # A folder cannot be renamed over one that is not empty: an older index steps aside first. It is held
            # meanwhile, since a sweep would put it back.
            old = beside(self.out, "old")
            aside = Unfinished.take(self.out) if layout.is_index(self.out) else None
            try:
                if layout.is_index(self.out):
                    with contextlib.suppress(FileNotFoundError):  # another build moved it just now
                        self.out.rename(old)
                self.folder.rename(self.out)
                return
            except OSError as error:
                another_build_was_quicker = error.errno in (errno.ENOTEMPTY, errno.EEXIST) and layout.is_index(self.out)
                if not another_build_was_quicker or attempt == _ATTEMPTS - 1:
                    raise CannotWrite(f"{self.out}: {error.strerror or error}") from error
            finally:
                if layout.is_index(self.out):
                    shutil.rmtree(old, ignore_errors=True)
                elif old.exists():
                    old.rename(self.out)
                if aside is not None:
                    aside.release()


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
