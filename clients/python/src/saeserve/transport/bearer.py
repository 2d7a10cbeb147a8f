"""The bearer token that a server may ask for. It stands in no message and no repr."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from saeserve.transport.tls import File, read

_LOOK_INTERVAL = 1.0
"""Seconds between two looks at whether the file has changed."""


class Bearer:
    """A token, or a file that holds it and may be replaced while the client lives."""

    def __init__(self, token: str | None, token_file: File | None) -> None:
        """Raises ValueError for both, an unreadable file, or what cannot be a token."""
        if token is not None and token_file is not None:
            raise ValueError("give token or token_file, not both")
        self._path = None if token_file is None else Path(token_file)
        self._header: str | None = None
        self._next_look = 0.0
        self._stamp: tuple[int, int, int] | None = None
        if self._path is not None:
            self._stamp = self._look(self._path)
            self._header = written("token_file", _decoded(read("token_file", self._path)))
        elif token is not None:
            self._header = written("token", token)

    @property
    def header(self) -> str | None:
        """The value of `authorization`; None without a token."""
        if self._path is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_INTERVAL
            stamp = self._look(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                with contextlib.suppress(ValueError):  # half-written, or gone: what was read before is all there is
                    self._header = written("token_file", _decoded(read("token_file", self._path)))
        return self._header

    @staticmethod
    def _look(path: Path) -> tuple[int, int, int] | None:
        try:
            state = path.stat()
        except OSError:
            return None
        return state.st_ino, state.st_size, state.st_mtime_ns


def _decoded(data: bytes) -> str:
    return data.decode("ascii", "replace")


def written(name: str, token: str) -> str:
    """The value of `authorization` with this token. Raises ValueError, naming `name`, for what cannot be one."""
    token = token.strip()
    if not token:
        raise ValueError(f"{name}: the token is empty")
    if not token.isascii() or any(not char.isprintable() or char == " " for char in token):
        raise ValueError(f"{name}: a token is one word of printable ASCII characters")
    return f"Bearer {token}"
