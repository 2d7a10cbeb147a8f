"""A lock on a folder that several machines may see: held by a process until it ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from saeserve_server.errors import ConfigError

SECONDS: Final = 60.0
"""So long it is waited for a process of a build that was killed, perhaps on a machine that fell away."""


class FolderLock:
    """Held until `release`, or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Lets go."""
        os.close(self._descriptor)


def lock_folder(folder: Path, seconds: float = SECONDS) -> FolderLock:
    """Locks a folder, which need not exist, by a file beside it. Raises ConfigError where another process holds it."""
    path = folder.with_name(folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return FolderLock(descriptor)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise ConfigError(f"{path}: cannot be locked: {error.strerror}") from error
            if time.monotonic() > until:
                os.close(descriptor)
                raise ConfigError(f"{folder}: another build works here: wait for its end, or stop it") from None
        time.sleep(0.1)
