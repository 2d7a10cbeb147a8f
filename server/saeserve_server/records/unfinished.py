"""Folders that are not finished, or not to stay: removed by who made them, and if he is gone by the next who comes by.

Who holds one keeps its inode locked (flock), which ends with the process however that ends, and holds between
containers that share a file system, where a process id would say nothing. Where a file system knows no such locks,
nothing is swept.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_BESIDE: Final = re.compile(r"\.(?P<place>.+)\.(?P<purpose>building|old)-[0-9a-f]{8}")
_PASSING: Final = "saeserve-index-"
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_made: Final[set[Unfinished]] = set()


class Unfinished:
    """A folder that this process holds."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor: int | None = descriptor

    @classmethod
    def make(cls, name: Callable[[], Path]) -> Unfinished:
        """A new folder, which ends with this process; `name` gives another path each time. Raises OSError."""
        while True:
            folder = name()
            folder.mkdir()
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(folder, _FLAGS)
                if _lock(folder, descriptor) is not False:
                    one = cls(folder, descriptor)
                    _made.add(one)
                    return one
                os.close(descriptor)
            # It was swept just now, before it could be locked: another.

    @classmethod
    def take(cls, folder: Path) -> Unfinished | None:
        """One that is there, unless somebody else holds it, or may without that it can be told."""
        descriptor = _open(folder)
        if descriptor is None:
            return None
        if not _lock(folder, descriptor):
            os.close(descriptor)
            return None
        return cls(folder, descriptor)

    def remove(self) -> None:
        """Removes the folder, unless it has been moved elsewhere, and lets go of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Lets go of the folder as it is."""
        _made.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def beside(place: Path, purpose: str) -> Path:
    """A new name beside a place, for the folder that is to move there (`building`) or was moved away (`old`)."""
    return place.with_name(f".{place.name}.{purpose}-{secrets.token_hex(4)}")


def passing_folder() -> Path:
    """A folder for an index that is kept nowhere; this process holds it. Raises OSError."""
    parent = Path(tempfile.gettempdir())
    return Unfinished.make(lambda: parent / (_PASSING + secrets.token_hex(8))).folder


def is_passing(index: Path | None) -> bool:
    """Whether this process made the folder that the index lies in with `passing_folder`."""
    return index is not None and any(one.folder == index.parent for one in list(_made))


def remove_unfinished() -> None:
    """Removes all that this process has made: it ends."""
    for one in list(_made):
        one.remove()


atexit.register(remove_unfinished)


def sweep(parent: Path) -> None:
    """Clears up after builds in a folder that were cut short; an index that stepped aside for one is put back."""
    for path in _children(parent):
        match = _BESIDE.fullmatch(path.name)
        one = Unfinished.take(path) if match else None
        if match is None or one is None:
            continue
        place = parent / match["place"]
        if match["purpose"] == "old" and not place.exists():
            with contextlib.suppress(OSError):
                path.rename(place)
                log.warning("%s: put back, since the build that was to replace it was cut short", place)
            one.release()
        else:
            one.remove()
            log.info("removed %s, left by a build that was cut short", path)


def sweep_passing() -> None:
    """Removes indexes kept nowhere whose processes are gone."""
    for path in _children(Path(tempfile.gettempdir())):
        if path.name.startswith(_PASSING) and (one := Unfinished.take(path)) is not None:
            one.remove()


def _children(parent: Path) -> list[Path]:
    try:
        return list(parent.iterdir())
    except OSError:  # it is not there, or not ours to look into
        return []


def _open(folder: Path) -> int | None:
    """None where it is gone, no folder, or not ours."""
    try:
        descriptor = os.open(folder, _FLAGS)
    except OSError:
        return None
    if os.fstat(descriptor).st_uid == os.geteuid():
        return descriptor
    os.close(descriptor)
    return None


def _lock(folder: Path, descriptor: int) -> bool | None:
    """Whether the folder is locked by us now, and still there; None where locks are not known."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        return None
