"""Files of the configuration that are read again when they change: certificates, tokens, keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from saeserve_server.errors import ConfigError

LOOK_INTERVAL = 1.0
"""Seconds between two looks at whether a file has changed."""


class Watch:
    """Whether files have changed, looked at only so often. Made before they are read, it misses no change."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._stamp = self._look()
        self._next = time.monotonic() + LOOK_INTERVAL

    def changed(self) -> bool:
        """Whether a file is another than when this last said so."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + LOOK_INTERVAL
        before, self._stamp = self._stamp, self._look()
        return self._stamp != before

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in self._paths]


def read_named(setting: str, path: Path) -> bytes:
    """What a file holds that a setting names. Raises ConfigError naming both."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: {error.strerror}") from error


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns
