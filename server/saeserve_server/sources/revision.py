"""Content hashes of files, so that two servers agree on what they serve and a cache never outlives its weights.

Hashing gigabytes takes seconds, so a file's digest is remembered by absolute path, size, modification time and inode
in a small JSON file under `$XDG_CACHE_HOME/saeserve/`. Where that cannot be written, files are hashed every time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from saeserve_server.config import cache_folder
from saeserve_server.notes import note, recall

NAME = "content-hashes.json"
BLOCK = 1 << 20

SETTLED_NS = 2_000_000_000
"""A file written less than this ago may change again without a new modification time: it is not remembered."""

Memo = dict[str, tuple[list[int], str]]
"""Absolute path → [size, mtime_ns, inode], SHA-256."""


def content_hash(paths: Sequence[Path], extra: str = "") -> str:
    """SHA-256, in hex, over names and bytes of the files and over `extra`.

    Names are relative to the deepest folder that holds all files, so a moved copy has the same hash. The order of
    `paths` does not matter. Raises OSError for a file that cannot be read.
    """
    absolute = sorted({path.absolute() for path in paths})
    memo, fresh = _read_memo(), {}
    digest = hashlib.sha256()
    folder = os.path.commonpath([path.parent for path in absolute]) if absolute else ""
    for path in absolute:
        stamp = _stamp(path)
        known = memo.get(str(path))
        if known is not None and known[0] == stamp:
            file_digest = known[1]
        else:
            file_digest = _file_hash(path)
            if _stamp(path) == stamp and time.time_ns() - stamp[1] > SETTLED_NS:
                fresh[str(path)] = (stamp, file_digest)
        _add(digest, os.path.relpath(path, folder))
        _add(digest, file_digest)
    _add(digest, extra)
    if fresh:
        _write_memo({**memo, **fresh})
    return digest.hexdigest()


def text_hash(*parts: str) -> str:
    """SHA-256, in hex, over strings and where each ends: the revision of a source without files."""
    digest = hashlib.sha256()
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()


def memo_path() -> Path:
    """Where digests are remembered."""
    return cache_folder() / NAME


def _add(digest: hashlib._Hash, part: str) -> None:
    data = part.encode("utf-8", "surrogateescape")
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_memo() -> Memo:
    try:
        return {
            path: ([int(size), int(mtime), int(inode)], str(digest))
            for path, ((size, mtime, inode), digest) in recall(NAME).items()
        }
    except (ValueError, TypeError, AttributeError):  # none, or damaged
        return {}


def _write_memo(memo: Memo) -> None:
    """Of two servers that start together the later wins: the other hashes again."""
    note(NAME, {path: entry for path, entry in memo.items() if Path(path).exists()})
