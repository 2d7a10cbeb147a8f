"""Files onto the disk: whole and right, or not there under their name.

What arrives is written beside its place as `.NAME.KEY.part`, goes on after an interruption from where it stopped (the
hub's own download begins anew then), is compared with the published checksum, and only then gets its name.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, tqdm  # type: ignore[attr-defined] # loaded when asked for

import saeserve_server
from saeserve_server.commands.fetch.remote import RemoteFile
from saeserve_server.commands.fetch.sums import Sums, git_oid_of, sha256_of
from saeserve_server.errors import ConfigError

WORKERS = 4
"""Files at a time."""


class Stopped(Exception):
    """Another file failed, or the user pressed Ctrl-C."""


def checksum_if_there(file: RemoteFile, folder: Path, recorded: str | None) -> str | None:
    """SHA-256 of the file if it lies in the folder as it should, else None. Every byte is read.

    Where no checksum is published, `recorded` counts, that of the first fetch; without that, the size.
    """
    path = folder / file.name
    if not path.is_file() or path.stat().st_size != file.size:
        return None
    try:
        return _checked(file, path, recorded)
    except ConfigError:
        return None


def half_there(file: RemoteFile, folder: Path) -> int:
    """How many bytes of the file an interrupted fetch left."""
    part = part_of(file, folder)
    return part.stat().st_size if part.is_file() else 0


def download(files: Sequence[RemoteFile], folder: Path, sums: Sums) -> None:
    """Brings the files into the folder, some at a time. Raises ConfigError for the first that cannot be had."""
    stop = threading.Event()
    size = sum(file.size for file in files)
    # disable=None: quiet where there is no terminal.
    with tqdm(total=size, unit="B", unit_scale=True, desc=f"{len(files)} files", disable=None) as bar:  # type: ignore[no-untyped-call]
        pool = ThreadPoolExecutor(WORKERS)
        futures: list[Future[None]] = []
        try:
            futures = [pool.submit(_bring, file, folder, sums, bar, stop) for file in files]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                if error := future.exception():
                    raise error
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)  # whoever is waiting for the network stops when it answers


def _bring(file: RemoteFile, folder: Path, sums: Sums, bar: tqdm, stop: threading.Event) -> None:
    path, part = folder / file.name, part_of(file, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.cached is None or not _take(file, file.cached, part):
        if half_there(file, folder) > file.size:
            part.unlink()
        with part.open("ab") as target:
            progress = _FileProgress(bar, stop)
            resumed = target.tell()
            bar.update(resumed)
            try:
                http_get(
                    file.url,
                    target,
                    resume_size=resumed,
                    headers=_headers(file),
                    expected_size=file.size,
                    tqdm_class=lambda **_: progress,  # type: ignore[arg-type]
                )
            except Stopped:
                raise
            except Exception as error:  # the hub's client raises its own kinds and those of its HTTP client
                raise _explain(error, file) from error
    else:
        bar.update(file.size)
    try:
        sha256 = _checked(file, part, None)
    except ConfigError:
        part.unlink()
        raise
    part.replace(path)
    for old in path.parent.glob(f".{path.name}.*.part"):
        old.unlink()
    sums.add(file.name, sha256)


def _take(file: RemoteFile, cached: Path, part: Path) -> bool:
    """Takes the file from the hub cache, if it is whole there; as a link where it is large: nobody edits those."""
    part.unlink(missing_ok=True)
    original = cached.resolve()
    try:
        if file.sha256 is None:
            raise OSError("small")
        os.link(original, part)
    except OSError:  # another file system
        shutil.copyfile(original, part)
    try:
        _checked(file, part, None)
    except ConfigError:  # damaged there
        part.unlink()
        return False
    return True


def _checked(file: RemoteFile, path: Path, recorded: str | None) -> str:
    """The file's SHA-256. Raises ConfigError if it is not what was published, or `recorded` where nothing was."""
    sha256 = sha256_of(path)
    if file.git_oid is not None:
        found, expected = git_oid_of(path), file.git_oid
    else:
        found, expected = sha256, file.sha256 or recorded or sha256
    if path.stat().st_size != file.size or found != expected:
        raise ConfigError(
            f"{file.name}: damaged on its way: expected {file.size} bytes with checksum {expected}, got "
            f"{path.stat().st_size} with {found}; try again"
        )
    return sha256


def _headers(file: RemoteFile) -> dict[str, str]:
    own: dict[str, str] = build_hf_headers(
        token=None if file.on_hub else False,
        library_name="saeserve-server",
        library_version=saeserve_server.__version__,
    )
    # What was begun goes on only if it is still the same file; if not, it comes anew.
    return own | {"Accept-Encoding": "identity"} | ({"If-Range": file.etag} if file.etag else {})


def part_of(file: RemoteFile, folder: Path) -> Path:
    """Where what has arrived of the file lies until it is whole."""
    path = folder / file.name
    return path.with_name(f".{path.name}.{file.key}.part")


def _explain(error: Exception, file: RemoteFile) -> ConfigError:
    message = (str(error).strip().splitlines() or [""])[0]
    return ConfigError(f"{file.name}: {type(error).__name__}: {message}; run the same again to go on")


class _FileProgress:
    """What one file adds to the bar of all; ends the transfer when it is to stop."""

    def __init__(self, bar: tqdm, stop: threading.Event) -> None:
        self._bar, self._stop = bar, stop

    def update(self, size: float) -> None:
        self._bar.update(size)
        if self._stop.is_set():
            raise Stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass
