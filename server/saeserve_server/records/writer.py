"""Writes an index beside its place and moves it there whole: a reader sees the old index or the new one, never half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
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

_ATTEMPTS: Final = 5
"""Builds that finish at the same place at the same moment may get in each other's way; the last one stays."""


class ArrayWriter:
    """Appends rows to one file of the index."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.rows = 0
        self._dtype = dtype
        self._row_shape: tuple[int, ...] | None = None
        self._digest = hashlib.sha256()
        self._file: BinaryIO = path.open("wb")

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Append along the first axis; every call has the same shape of rows."""
        if self._row_shape not in (None, rows.shape[1:]):
            raise ValueError(f"{self.path.name}: rows of shape {rows.shape[1:]}, not {self._row_shape}")
        data = np.ascontiguousarray(rows, dtype=self._dtype).tobytes()
        self._row_shape = rows.shape[1:]
        self.rows += len(rows)
        self._digest.update(data)
        with self._errors_named():
            self._file.write(data)

    def flush(self) -> None:
        """Make what was appended readable from the file."""
        with self._errors_named():
            self._file.flush()

    def finish(self) -> FileEntry:
        """Write everything to the disk and close the file."""
        self.flush()
        with self._errors_named():
            os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry((self.rows, *(self._row_shape or ())), self._digest.hexdigest())

    def close(self) -> None:
        """Close the file, finished or not."""
        with contextlib.suppress(OSError):  # what could not be written has been said already
            self._file.close()

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # a full disk
            raise ConfigError(f"{self.path}: {error.strerror}") from error


class StoreWriter:
    """A context manager: the index appears at `out` on `commit`; left in any other way nothing remains of it.

    An index that is already at `out` is replaced. Raises ConfigError if anything else is there.
    """

    def __init__(self, out: Path) -> None:
        # Without symlinks, so that the temporary folder is on the file system of the place it moves to.
        self.out = out.resolve()
        self.folder = self._beside("building")
        self._files: dict[str, ArrayWriter] = {}

    def __enter__(self) -> StoreWriter:
        if self.out.exists() and not layout.is_index(self.out) and not _is_empty_folder(self.out):
            raise ConfigError(f"{self.out}: exists and is not an index: choose another place, or move it away")
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir()
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def file(self, name: str) -> ArrayWriter:
        """A new file of the index, by the name that the layout gives it."""
        path = self.folder / name
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
        texts: int,
        tokens: int,
        sources: tuple[IndexedSource, ...],
    ) -> None:
        """Finish all files, write the manifest, and put the index in its place."""
        Manifest(
            model_name=model_name,
            model_revision=model_revision,
            context=context,
            records_per_feature=records_per_feature,
            texts=texts,
            tokens=tokens,
            sources=sources,
            files={name: file.finish() for name, file in self._files.items()},
        ).write(self.folder)
        _sync(self.folder / layout.MANIFEST)
        for folder in (*(path for path in self.folder.iterdir() if path.is_dir()), self.folder):
            _sync(folder)
        self._replace()
        _sync(self.out.parent)

    def _replace(self) -> None:
        for attempt in range(_ATTEMPTS):
            # A folder cannot be renamed over one that is not empty: an older index steps aside first.
            old = self._beside("old")
            try:
                if layout.is_index(self.out):
                    with contextlib.suppress(FileNotFoundError):  # another build moved it just now
                        self.out.rename(old)
                self.folder.rename(self.out)
                return
            except OSError as error:
                another_build_was_quicker = error.errno in (errno.ENOTEMPTY, errno.EEXIST) and layout.is_index(self.out)
                if not another_build_was_quicker or attempt == _ATTEMPTS - 1:
                    raise ConfigError(f"{self.out}: {error.strerror or error}") from error
            finally:
                if layout.is_index(self.out):
                    shutil.rmtree(old, ignore_errors=True)
                elif old.exists():
                    old.rename(self.out)

    def _beside(self, purpose: str) -> Path:
        return self.out.with_name(f".{self.out.name}.{purpose}-{secrets.token_hex(4)}")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
