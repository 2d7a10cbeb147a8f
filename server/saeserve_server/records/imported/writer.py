"""Writes a store anew, beside the one that is there, and moves it into its place whole.

So an import that is stopped leaves the store as it was, and a server that has it open goes on reading what it opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from saeserve_server.records.imported import items, schema
from saeserve_server.records.imported.contents import check_version
from saeserve_server.records.imported.items import BadLine, Item, as_bytes
from saeserve_server.records.imported.schema import ImportedError, key_of, pack, pack_values
from saeserve_server.records.syncing import sync
from saeserve_server.records.unfinished import Unfinished, beside, sweep

MOST_SOURCES: Final = 10_000
"""Of an import."""


class StoreChange:
    """A context manager: what is done to `database` appears at once on `commit`, and not at all otherwise."""

    database: sqlite3.Connection

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._made_folder = False
        self._has_holes = False

    def __enter__(self) -> StoreChange:
        with _named(self.folder), contextlib.ExitStack() as stack:
            self._made_folder = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            stack.callback(self._clear_up)
            stack.enter_context(_alone(self.folder))
            place = self.folder / schema.FILE
            if not place.exists() and any(not path.name.startswith(".") for path in self.folder.iterdir()):
                raise ImportedError(f"{self.folder}: holds other files and no {schema.FILE}: choose another place")
            sweep(self.folder)
            unfinished = Unfinished.make(lambda: beside(place, "building"))
            stack.callback(unfinished.remove)
            self._file = unfinished.folder / schema.FILE
            if place.exists():
                check_version(place)
                shutil.copyfile(place, self._file)
            self.database = sqlite3.connect(self._file, isolation_level=None)
            stack.callback(self.database.close)
            # Nothing of it is read until it is whole: no journal, and to the disk once, at the end.
            self.database.execute("PRAGMA journal_mode = OFF")
            self.database.execute("PRAGMA synchronous = OFF")
            if not place.exists():
                self.database.executescript(schema.TABLES)
                about = {"magic": schema.MAGIC, "version": str(schema.VERSION)}
                self.database.executemany("INSERT INTO meta VALUES (?, ?)", about.items())
            self.database.execute("BEGIN")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def commit(self) -> None:
        """Puts the store in its place. Raises ImportedError where it cannot be written."""
        with _named(self.folder):
            self.database.execute("INSERT INTO words (words) VALUES ('rebuild')")
            self.database.execute("COMMIT")
            if self._has_holes:
                self.database.execute("VACUUM")
            self.database.close()
            sync(self._file)
            self._file.replace(self.folder / schema.FILE)
            self._made_folder = False
            sync(self.folder)

    def remove(self, name: str) -> bool:
        """Takes an import out; whether it was there."""
        found = self.database.execute("SELECT id FROM imports WHERE name = ?", (name,)).fetchone()
        if found is None:
            return False
        self._has_holes = True
        for (source,) in self.database.execute("SELECT id FROM sources WHERE import = ?", found).fetchall():
            keys = (key_of(source, 0), key_of(source + 1, 0))
            self.database.execute("DELETE FROM features WHERE key >= ? AND key < ?", keys)
            self.database.execute("DELETE FROM records WHERE key >= ? AND key < ?", keys)
            self.database.execute("DELETE FROM explanations WHERE key >= ? AND key < ?", keys)
        self.database.execute("DELETE FROM sources WHERE import = ?", found)
        self.database.execute("DELETE FROM beside WHERE import = ?", found)
        self.database.execute("DELETE FROM imports WHERE id = ?", found)
        return True

    def _clear_up(self) -> None:
        if self._made_folder:
            with contextlib.suppress(OSError):
                self.folder.rmdir()


class ImportWriter:
    """One import into a store that is being changed. Add items, a line's together, then finish."""

    def __init__(self, change: StoreChange, name: str, form: str) -> None:
        self._database = change.database
        self._name, self.form = name, form
        made = self._database.execute("SELECT 1 + coalesce(max(id), 0) FROM imports").fetchone()
        self._import = int(made[0])
        made = self._database.execute("SELECT 1 + coalesce(max(id), 0) FROM sources").fetchone()
        self._first_source = int(made[0])
        self._sources: dict[str, int] = {}
        self._digest = hashlib.sha256(json.dumps([name, form]).encode())
        self._place = 0
        self.lines = 0

    @property
    def sources(self) -> list[str]:
        """Ids of the sources so far, as lines name them."""
        return list(self._sources)

    def add(self, line: list[Item]) -> None:
        """Adds all of a line's items or, where it raises BadLine, none."""
        known = len(self._sources)
        self._database.execute("SAVEPOINT line")
        try:
            for item in line:
                self._place += 1
                self._add(item)
        except (BadLine, sqlite3.IntegrityError) as error:
            self._database.execute("ROLLBACK TO line")
            self._sources = dict(list(self._sources.items())[:known])
            if isinstance(error, BadLine):
                raise
            raise BadLine(f"{_called(line)} comes twice in this import") from None
        finally:
            self._database.execute("RELEASE line")
        self.lines += 1
        for item in line:
            self._count(item)

    def finish(self, skipped: int, revisions: Mapping[str, str]) -> None:
        """Sums up what was added. `revisions` are those of the SAEs that it belongs to, by source, where known."""
        sums = np.zeros(3, np.int64)
        for source, row in self._sources.items():
            revision = revisions.get(source, "")
            self._digest.update(json.dumps([source, revision]).encode())
            sums += self._sum_up(row, revision)
        self._database.execute(
            "INSERT INTO imports VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._import, self._name, self.form, self.lines, skipped, *sums.tolist(), self._digest.hexdigest()),
        )

    def _add(self, item: Item) -> None:
        if isinstance(item, items.Beside):
            row = (self._import, item.file, self._place, pack(item.kept))
            self._database.execute("INSERT INTO beside VALUES (?, ?, ?, ?)", row)
            return
        key = key_of(self._source(item.feature.source), item.feature.index)
        kept = pack(item.kept)
        if isinstance(item, items.Facts):
            facts = (key, self._place, item.density, item.maximum, kept)
            self._database.execute("INSERT INTO features VALUES (?, ?, ?, ?, ?)", facts)
        elif isinstance(item, items.Words):
            words = (key, item.text, item.score, item.type, item.model, kept)
            self._database.execute(
                "INSERT INTO explanations (key, text, score, type, model, kept) VALUES (?, ?, ?, ?, ?, ?)", words
            )
        else:
            peak = item.peak
            piece = as_bytes(item.tokens[peak])
            record = (key, item.group, float(item.values[peak]), self._place, peak, piece)
            packed = (pack(item.tokens), pack_values(item.values), kept)
            self._database.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*record, *packed))

    def _count(self, item: Item) -> None:
        """Into the digest, which is of what was read: packed bytes may differ among versions of zlib."""
        about: list[object] = [type(item).__name__]
        for name in item.__slots__:
            value = getattr(item, name)
            about.append(value.tobytes().hex() if isinstance(value, np.ndarray) else value)
        self._digest.update(json.dumps(about, default=_plain).encode())

    def _source(self, name: str) -> int:
        if name not in self._sources:
            if len(self._sources) >= MOST_SOURCES:
                raise BadLine(f"layer: more than {MOST_SOURCES} sources in one import")
            row = self._first_source + len(self._sources)
            self._database.execute(
                "INSERT INTO sources (id, import, source) VALUES (?, ?, ?)", (row, self._import, name)
            )
            self._sources[name] = row
        return self._sources[name]

    def _sum_up(self, source: int, revision: str) -> tuple[int, int, int]:
        """What is known of each feature of a source, in arrays that a server reads at once."""
        execute, keys = self._database.execute, (key_of(source, 0), key_of(source + 1, 0))
        density: dict[int, float] = {}
        maximum: dict[int, float] = {}
        records = explanations = largest = 0
        query = "SELECT key, count(*), max(maximum) FROM records WHERE key >= ? AND key < ? GROUP BY key"
        for key, count, most in execute(query, keys):
            records += count
            maximum[key & schema.MOST_INDEX] = max(most, 0.0)
        with_records = len(maximum)
        query = "SELECT key, density, maximum FROM features WHERE key >= ? AND key < ?"
        for key, share, most in execute(query, keys):
            index = key & schema.MOST_INDEX
            largest = max(largest, index)
            if share is not None:
                density[index] = share
            if most is not None:
                maximum[index] = most
        query = "SELECT count(*), coalesce(max(key), 0) FROM explanations WHERE key >= ? AND key < ?"
        explanations, last = execute(query, keys).fetchone()
        indices = np.array(sorted(density.keys() | maximum.keys()), "<u4")
        largest = max(largest, last & schema.MOST_INDEX, *indices[-1:].tolist())
        densities = np.array([density.get(index, np.nan) for index in indices.tolist()], "<f8")
        maxima = np.array([maximum.get(index, np.nan) for index in indices.tolist()], "<f4")
        blobs = (indices.tobytes(), densities.tobytes(), maxima.tobytes())
        row = (revision, with_records, records, explanations, largest, *blobs, source)
        execute(
            "UPDATE sources SET revision = ?, features = ?, records = ?, explanations = ?, largest = ?, indices = ?, "
            "densities = ?, maxima = ? WHERE id = ?",
            row,
        )
        return with_records, records, explanations


def _called(line: list[Item]) -> str:
    first = next((item for item in line if not isinstance(item, items.Beside)), None)
    return "the line" if first is None else f"{first.feature.source}:{first.feature.index}"


def _plain(value: object) -> object:
    """What JSON has no word for: the small classes of an item."""
    return [getattr(value, name) for name in getattr(value, "__slots__", ())]


@contextlib.contextmanager
def _named(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImportedError(f"{error.filename or place}: {error.strerror or error}") from error
    except sqlite3.OperationalError as error:
        raise ImportedError(f"{place}: cannot be written: {error}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else changes the store meanwhile; where the file system knows no locks, that is not known."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImportedError(f"{folder}: another import into it runs: wait until it has ended") from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
