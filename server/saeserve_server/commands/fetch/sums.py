"""`SHA256SUMS` of a folder: what `sha256sum -c` reads, and what a later fetch compares with."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from pathlib import Path

FILE = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
CHUNK = 1 << 22


class Sums:
    """The checksums of a folder's files, by name relative to it; written anew whenever one is added."""

    def __init__(self, folder: Path) -> None:
        """Reads the file, if there is one; lines of any other form are dropped."""
        self._file = folder / FILE
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        self._sums = {match[2]: match[1] for match in map(LINE.fullmatch, lines) if match}
        self._lock = threading.Lock()

    def get(self, name: str) -> str | None:
        """SHA-256 of the file when it was fetched, in hexadecimal."""
        return self._sums.get(name)

    def holds_any_under(self, folder: str) -> bool:
        """Whether a file of the folder was fetched."""
        return any(name.startswith(folder + "/") for name in self._sums)

    def add(self, name: str, sha256: str) -> None:
        """Adds a file that is whole, and writes all; callable from any thread."""
        with self._lock:
            if self._sums.get(name) == sha256:
                return
            self._sums[name] = sha256
            new = self._file.with_name(f".{FILE}.{os.getpid()}")
            new.write_text("".join(f"{self._sums[one]}  {one}\n" for one in sorted(self._sums)), encoding="utf-8")
            new.replace(self._file)


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_oid_of(path: Path) -> str:
    """The name that git gives the file's content, in hexadecimal."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
