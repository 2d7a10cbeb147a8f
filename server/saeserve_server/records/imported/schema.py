"""The store of imported records on disk: a folder with one SQLite file, its tables, and how their cells are packed.

A feature's key is `source row << 32 | index`, so that whatever belongs to a feature is found without a look-up, and all
of a source lies in one range. `kept` holds a file's other fields as they were read, for exports.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from saeserve_server.errors import ConfigError

FILE: Final = "records.sqlite"
MAGIC: Final = "saeserve-imported-records"
VERSION: Final = 1

TOP: Final = 0
RANDOM: Final = 1
FIRST_QUANTILE: Final = 2
"""Groups of a feature's records; quantile q is group `FIRST_QUANTILE + q`."""

MOST_INDEX: Final = 2**32 - 1

TABLES: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE imports (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, format TEXT NOT NULL, lines INTEGER NOT NULL,
    skipped INTEGER NOT NULL, features INTEGER NOT NULL, records INTEGER NOT NULL, explanations INTEGER NOT NULL,
    digest TEXT NOT NULL);
CREATE TABLE sources (
    id INTEGER PRIMARY KEY, import INTEGER NOT NULL, source TEXT NOT NULL, revision TEXT NOT NULL DEFAULT '',
    features INTEGER NOT NULL DEFAULT 0, records INTEGER NOT NULL DEFAULT 0, explanations INTEGER NOT NULL DEFAULT 0,
    largest INTEGER NOT NULL DEFAULT 0, indices BLOB, densities BLOB, maxima BLOB, UNIQUE (import, source));
CREATE TABLE features (key INTEGER PRIMARY KEY, place INTEGER NOT NULL, density REAL, maximum REAL, kept BLOB NOT NULL);
CREATE TABLE records (
    key INTEGER NOT NULL, grp INTEGER NOT NULL, maximum REAL NOT NULL, place INTEGER NOT NULL, peak INTEGER NOT NULL,
    piece BLOB NOT NULL, tokens BLOB NOT NULL, activations BLOB NOT NULL, kept BLOB NOT NULL,
    PRIMARY KEY (key, grp, maximum DESC, place)) WITHOUT ROWID;
CREATE TABLE explanations (
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL, text TEXT NOT NULL, score REAL, type TEXT NOT NULL,
    model TEXT NOT NULL, kept BLOB NOT NULL);
CREATE INDEX explanations_of ON explanations (key);
CREATE TABLE beside (import INTEGER NOT NULL, file TEXT NOT NULL, place INTEGER NOT NULL, kept BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5 (
    text, content='explanations', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2');
"""
"""`place` counts lines in the order in which they were read. Porter's stemmer takes off the ends of English words."""


class ImportedError(ConfigError):
    """A store of imported records that cannot be used, or files that cannot be imported: what is wrong, what to do."""


def key_of(source: int, index: int) -> int:
    """The key of a feature, by the row of its source."""
    return source << 32 | index


def pack(value: Any) -> bytes:
    """JSON, packed. What is not Unicode (half a surrogate pair) and what is not JSON (NaN) comes back as it was."""
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 1)


def unpack(cell: bytes) -> Any:
    """What was packed."""
    return json.loads(zlib.decompress(cell))


def pack_values(values: npt.NDArray[np.float32]) -> bytes:
    """[n] float32, packed: most are zero."""
    return zlib.compress(values.astype("<f4", copy=False).tobytes(), 1)


def unpack_values(cell: bytes) -> npt.NDArray[np.float32]:
    """What was packed."""
    return np.frombuffer(zlib.decompress(cell), "<f4")
