"""Writes an index beside its place and moves it there whole: a reader sees the old index or the new one, never half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.errors import ConfigError
from saeserve_server.records import layout
from saeserve_server.records.layout import FileEntry, Manifest
from saeserve_server.records.made_of import MadeOf
from saeserve_server.records.syncing import sync
from saeserve_server.records.unfinished import Unfinished, beside, sweep

_PASSING: Final = ".work"
_ATTEMPTS: Final = 5
"""Builds that finish at the same place at the same moment may get in each other's way; the last one stays."""


class CannotWrite(ConfigError):
    """The place cannot be written to: a full disk, a folder that is read-only."""


@contextlib.contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """What the system refuses becomes CannotWrite, which names the file."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(f"{error.filename or path}: {error.strerror or error}") from error


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
        self._files: dict[str, FileEntry] = {}
        self._unfinished: Unfinished | None = None

    def __enter__(self) -> StoreWriter:
        if self.out.exists() and not layout.is_index(self.out) and not _is_empty_folder(self.out):
            raise ConfigError(f"{self.out}: exists and is not an index: choose another place, or move it away")
        with naming_errors(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            sweep(self.out.parent)
            self._unfinished = Unfinished.make(lambda: beside(self.out, "building"))
        self.folder = self._unfinished.folder
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._unfinished is not None:
            self._unfinished.remove()

    def passing(self) -> Path:
        """A place for what is needed until `commit`."""
        return self.folder / _PASSING

    def write(self, name: str, values: npt.NDArray[Any]) -> None:
        """A file of the index, by the name that the layout gives it."""
        path = self.folder / name
        values = np.ascontiguousarray(values, layout.dtype_of(name))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
        data = values.reshape(-1).view(np.uint8).data if values.size else memoryview(b"")
        digest = hashlib.sha256(header.getvalue())
        digest.update(data)
        with naming_errors(path):
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.write(header.getvalue())
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        self._files[name] = FileEntry(values.shape, digest.hexdigest())

    def commit(self, made_of: MadeOf, texts: int, tokens: int) -> None:
        """Write the manifest, and put the index in its place."""
        manifest = Manifest(made_of, texts, tokens, self._files)
        shutil.rmtree(self.passing(), ignore_errors=True)
        with naming_errors(self.folder):
            manifest.write(self.folder)
            sync(self.folder / layout.MANIFEST)
            for folder in (*(path for path in self.folder.iterdir() if path.is_dir()), self.folder):
                sync(folder)
        self._replace()
        with naming_errors(self.out.parent):
            sync(self.out.parent)

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
