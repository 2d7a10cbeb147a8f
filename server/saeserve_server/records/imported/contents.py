"""What a store of imported records holds, without its records: imports, and their parts by source."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeserve_server.records.imported import schema
from saeserve_server.records.imported.schema import ImportedError


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """One import."""

    id: int
    name: str
    format: str
    lines: int
    skipped: int
    features: int
    """With records."""
    records: int
    explanations: int
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one import holds of one source."""

    row: int
    import_id: int
    source: str
    """Its id as the file has it, or as the import was told."""
    revision: str
    """Of the SAE; empty where nobody said."""
    features: int
    records: int
    explanations: int
    largest: int
    """The largest index of a feature."""
    indices: npt.NDArray[np.uint32]
    densities: npt.NDArray[np.float64]
    """[indices] NaN where unknown."""
    maxima: npt.NDArray[np.float32]
    """[indices] NaN where unknown."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Imports in their order, and their parts."""

    imports: tuple[ImportSummary, ...]
    parts: tuple[Part, ...]
    revision: str


def read_contents(folder: Path) -> Contents:
    """What the store in that folder holds. Raises ImportedError for what is none, or is damaged."""
    file = folder / schema.FILE
    if not file.is_file():
        raise ImportedError(
            f"{folder}: not a store of imported records: it has no {schema.FILE}; "
            "`saeserve-server records import` makes one"
        )
    check_version(file)
    try:
        with contextlib.closing(open_file(file)) as database:
            imports = tuple(ImportSummary(*row) for row in database.execute("SELECT * FROM imports ORDER BY id"))
            rows = database.execute("SELECT * FROM sources ORDER BY import, id").fetchall()
    except sqlite3.Error as error:
        raise ImportedError(f"{file}: damaged: {error}") from error
    types = ("<u4", "<f8", "<f4")
    parts = tuple(
        Part(*row[:8], *(np.frombuffer(blob, kind) for blob, kind in zip(row[8:], types, strict=True))) for row in rows
    )
    digest = json.dumps([schema.VERSION, *(one.digest for one in imports)])
    return Contents(imports, parts, hashlib.sha256(digest.encode()).hexdigest()[:32])


def check_version(file: Path) -> None:
    """Raises ImportedError for a file that is no store, or of another version."""
    try:
        with contextlib.closing(open_file(file)) as database:
            about = dict(database.execute("SELECT key, value FROM meta"))
    except sqlite3.Error as error:
        raise ImportedError(f"{file}: not a store of imported records, or damaged: {error}") from error
    if about.get("magic") != schema.MAGIC:
        raise ImportedError(f"{file}: not a store of imported records")
    if about.get("version") != str(schema.VERSION):
        raise ImportedError(
            f"{file}: store format {about.get('version')}, but this version of the server reads {schema.VERSION}: "
            "import the files again into another place"
        )


def open_file(file: Path) -> sqlite3.Connection:
    """The database, to be read, by one thread at a time. It never changes: other imports write another file."""
    return sqlite3.connect(
        f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False, isolation_level=None
    )
