"""Reads a store of imported records: what of it belongs to the SAEs that are served, feature by feature.

The file never changes while it is open: an import puts another in its place. Every look-up takes well under a
millisecond; `find` (explanations by their words) may take longer, and is done elsewhere than in an event loop.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from saeserve_server.catalog import Catalog, SourceInfo
from saeserve_server.records.imported import schema
from saeserve_server.records.imported.contents import ImportSummary, Part, open_file, read_contents
from saeserve_server.records.imported.items import as_bytes
from saeserve_server.records.imported.schema import ImportedError, key_of, unpack, unpack_values

log = logging.getLogger(__name__)

Real = TypeVar("Real", np.float32, np.float64)
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]

WINDOW = 16
"""Tokens of a record that are shown on either side of its peak, as of the index's records."""
MOST_COUNTED = 1000
"""Of a feature's strongest records, whose peak tokens are counted."""

_OF = "FROM records WHERE key IN (SELECT value FROM json_each(?)) AND grp BETWEEN ? AND ?"
_COUNT = f"SELECT count(*) {_OF}"
_RECORDS = f"SELECT key, maximum, peak, tokens, activations {_OF} ORDER BY maximum DESC, key, place LIMIT ? OFFSET ?"
_USUAL = """
SELECT piece, count(*) AS n, max(maximum) AS most FROM (
    SELECT piece, maximum FROM records WHERE key IN (SELECT value FROM json_each(?)) AND grp = 0 AND maximum > 0
    ORDER BY maximum DESC LIMIT ?)
GROUP BY piece ORDER BY n DESC, most DESC, piece LIMIT ?"""
_EXPLANATIONS = """
SELECT key, text, score, type, model FROM explanations WHERE key IN (SELECT value FROM json_each(?))
ORDER BY score IS NULL, score DESC, id LIMIT ?"""
_EXPLANATION = "SELECT key, text, score, type, model FROM explanations WHERE id = ?"
_FIND = """
SELECT explanations.id, explanations.key, found.relevance FROM
    (SELECT rowid, -bm25(words) AS relevance FROM words WHERE words MATCH ?) AS found
    JOIN explanations ON explanations.id = found.rowid"""


@dataclass(frozen=True, slots=True, eq=False)
class ImportedRecord:
    """A window of an imported record."""

    pieces: tuple[bytes, ...]
    """The file's tokens."""
    activations: FloatArray
    max_activation: float
    max_position: int
    position: int
    """Where the window begins in the record, in tokens."""
    import_name: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What somebody, or a program, says that a feature is about."""

    text: str
    score: float | None
    type: str
    model: str
    import_name: str


@dataclass(frozen=True, slots=True)
class UsualPiece:
    """A token on which a feature peaks in its imported records."""

    piece: bytes
    count: int
    maximum: float


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Explanations that hold all the words that were looked for."""

    ranks: npt.NDArray[np.int64]
    """[found] rank of the served source of each."""
    indices: npt.NDArray[np.int64]
    """[found] index of the feature."""
    rows: npt.NDArray[np.int64]
    """[found] by which `explanation` gives it."""
    relevance: DoubleArray
    """[found] bm25, larger is better."""


class ImportedStore:
    """An open store, as far as it belongs to what is served. Safe to use from many threads."""

    def __init__(self, folder: Path, catalog: Catalog, find_source: Callable[[str], int | None]) -> None:
        """`find_source` gives the rank of the served source of an id or alias. Raises ImportedError."""
        self.folder = folder
        contents = read_contents(folder)
        self.revision = contents.revision
        """Digest of what was imported."""
        self.imports: tuple[ImportSummary, ...] = contents.imports
        self.warnings: dict[str, list[str]] = defaultdict(list)
        """By source, what was imported for it and is not shown, and why."""
        self._names = {one.id: one.name for one in contents.imports}
        self._parts: dict[str, list[Part]] = defaultdict(list)
        self._ranks: dict[int, int] = {}
        for part in contents.parts:
            rank = find_source(part.source)
            if rank is None:
                log.info("%s: import %s: no source %s is served", folder, self._names[part.import_id], part.source)
                continue
            source = catalog.sources[rank]
            why = _misfit(part, source)
            if why is not None:
                self.warnings[source.id].append(f"import {self._names[part.import_id]!r} is not shown: {why}")
                log.warning(
                    "%s: import %s is not shown for %s: %s", folder, self._names[part.import_id], source.id, why
                )
                continue
            self._parts[source.id].append(part)
            self._ranks[part.row] = rank
        self._densities = {source.id: self._gathered(source, "densities", np.float64) for source in catalog.sources}
        self._maxima = {source.id: self._gathered(source, "maxima", np.float32) for source in catalog.sources}
        self._lookups = _Reader(folder)
        self._searches = _Reader(folder)

    def density(self, source_id: str) -> DoubleArray | None:
        """[n_features] share of tokens on which each feature fires, NaN where nobody said; None if of all."""
        return self._densities.get(source_id)

    def maximum(self, source_id: str) -> FloatArray | None:
        """[n_features] largest activation of each feature, NaN where nobody said; None if of all."""
        return self._maxima.get(source_id)

    def covers(self, source_id: str) -> bool:
        """Whether there are records of the source."""
        return any(part.records for part in self._parts.get(source_id, ()))

    def record_count(self, source_id: str, index: int, group: int | None = schema.TOP) -> int:
        """How many records of a group the feature has; of all samples by quantile for None."""
        return int(self._lookups.all(_COUNT, (self._keys(source_id, index), *_groups(group)))[0][0])

    def records(
        self, source_id: str, index: int, offset: int = 0, count: int = 10, group: int | None = schema.TOP
    ) -> list[ImportedRecord]:
        """Records of a group by falling maximum, then as they came."""
        rows = self._lookups.all(_RECORDS, (self._keys(source_id, index), *_groups(group), count, offset))
        return [self._record(*row) for row in rows]

    def usual_tokens(self, source_id: str, index: int, k: int = 5) -> list[UsualPiece]:
        """Tokens on which the feature peaks in its strongest records, by count, then by maximum, then by bytes."""
        rows = self._lookups.all(_USUAL, (self._keys(source_id, index), MOST_COUNTED, k))
        return [UsualPiece(*row) for row in rows]

    def explanations(self, source_id: str, index: int, count: int = 3) -> list[Explanation]:
        """What was imported about the feature, the best score first, those without one last, then as they came."""
        rows = self._lookups.all(_EXPLANATIONS, (self._keys(source_id, index), count))
        return [self._explanation(*row) for row in rows]

    def explanation(self, row: int) -> Explanation:
        """One that was found."""
        return self._explanation(*self._lookups.all(_EXPLANATION, (row,))[0])

    def find(self, match: str) -> Found:
        """Explanations of served features for an FTS5 expression: see `query.py`. In no order."""
        rows = self._searches.all(_FIND, (match,))
        ids = np.array([row[0] for row in rows], np.int64)
        keys = np.array([row[1] for row in rows], np.int64)
        relevance = np.array([row[2] for row in rows], np.float64)
        sources, places = np.unique(keys >> 32, return_inverse=True)
        ranks = np.array([self._ranks.get(row, -1) for row in sources.tolist()], np.int64)
        rank = ranks[places] if len(rows) else np.zeros(0, np.int64)
        kept = rank >= 0
        return Found(rank[kept], (keys & schema.MOST_INDEX)[kept], ids[kept], relevance[kept])

    def close(self) -> None:
        """Lets go of the file."""
        self._lookups.close()
        self._searches.close()

    def _keys(self, source_id: str, index: int) -> str:
        """As JSON, which a query takes for a table."""
        return json.dumps([key_of(part.row, index) for part in self._parts.get(source_id, ())])

    def _record(self, key: int, maximum: float, peak: int, tokens: bytes, activations: bytes) -> ImportedRecord:
        first = max(0, peak - WINDOW)
        window = slice(first, peak + WINDOW + 1)
        return ImportedRecord(
            pieces=tuple(as_bytes(token) for token in unpack(tokens)[window]),
            activations=unpack_values(activations)[window],
            max_activation=maximum,
            max_position=peak - first,
            position=first,
            import_name=self._import_of(key),
        )

    def _explanation(self, key: int, text: str, score: float | None, kind: str, model: str) -> Explanation:
        return Explanation(text, score, kind, model, self._import_of(key))

    def _import_of(self, key: int) -> str:
        return next(
            self._names[part.import_id] for parts in self._parts.values() for part in parts if part.row == key >> 32
        )

    def _gathered(self, source: SourceInfo, name: str, kind: type[Real]) -> npt.NDArray[Real] | None:
        """[n_features] of a source; of several imports the last that says counts."""
        found: npt.NDArray[Real] | None = None
        for part in self._parts.get(source.id, ()):
            values: npt.NDArray[Real] = getattr(part, name)
            known = ~np.isnan(values)
            if known.any():
                if found is None:
                    found = np.full(source.n_features, np.nan, kind)
                found[part.indices[known]] = values[known]
        if found is not None:
            found.flags.writeable = False
        return found


class _Reader:
    """A connection of its own, one query at a time."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        file = folder / schema.FILE
        try:
            self._database = open_file(file)
        except sqlite3.Error as error:
            raise ImportedError(f"{file}: cannot be opened: {error}") from error

    def all(self, query: str, values: Iterable[object]) -> list[Any]:
        with self._lock:
            return self._database.execute(query, tuple(values)).fetchall()

    def close(self) -> None:
        with self._lock:
            self._database.close()


def open_imported(folder: Path | None, catalog: Catalog) -> ImportedStore | None:
    """The store in that folder, with what of it belongs to the sources that are served. Raises ImportedError."""
    if folder is None:
        return None
    names = {
        name.casefold(): rank for rank, source in enumerate(catalog.sources) for name in (source.id, *source.aliases)
    }
    return ImportedStore(folder, catalog, lambda name: names.get(name.casefold()))


def _misfit(part: Part, source: SourceInfo) -> str | None:
    """Why it cannot be about the source that is served; None if nothing says so."""
    if part.revision and part.revision != source.revision:
        return f"it was made for revision {part.revision}, and {source.revision} is served"
    if part.largest >= source.n_features:
        return f"it has a feature {part.largest}, and the features of {source.name} end at {source.n_features - 1}"
    return None


def _groups(group: int | None) -> tuple[int, int]:
    """The first and the last of those meant."""
    return (schema.FIRST_QUANTILE, schema.MOST_INDEX) if group is None else (group, group)
