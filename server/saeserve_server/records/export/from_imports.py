"""The features of a store of imports, import by import: what a file said of them, whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeserve_server.errors import ConfigError
from saeserve_server.records.export.features import Chosen, OutExplanation, OutFeature, OutRecord
from saeserve_server.records.imported import schema
from saeserve_server.records.imported.contents import Contents, ImportSummary, Part, open_file, read_contents
from saeserve_server.records.imported.schema import key_of, unpack, unpack_values


@dataclass(frozen=True, slots=True)
class Beside:
    """A line about model, release or source of an import."""

    file: str
    line: dict[str, Any]


class ImportedFeatures:
    """One import of a store, to be exported."""

    def __init__(self, folder: Path, name: str | None) -> None:
        """Of a store with a single import the name may be None. Raises ConfigError."""
        contents = read_contents(folder)
        self.summary = _named(folder, contents, name)
        self.parts = [part for part in contents.parts if part.import_id == self.summary.id]
        self._file = folder / schema.FILE

    @property
    def sources(self) -> list[str]:
        """Ids of its sources."""
        return [part.source for part in self.parts]

    def beside(self) -> list[Beside]:
        """Lines about the whole, in their order."""
        database = open_file(self._file)
        try:
            query = "SELECT file, kept FROM beside WHERE import = ? ORDER BY place"
            return [Beside(file, unpack(kept)) for file, kept in database.execute(query, (self.summary.id,))]
        finally:
            database.close()

    def features(self, chosen: Chosen) -> Iterator[OutFeature]:
        """Its features, source by source, by index; one in memory at a time."""
        chosen.check(self.sources)
        database = open_file(self._file)
        try:
            for part in self.parts:
                if chosen.takes(part.source):
                    yield from _features(database, part, chosen)
        finally:
            database.close()


def _features(database: sqlite3.Connection, part: Part, chosen: Chosen) -> Iterator[OutFeature]:
    first, last = chosen.indices or (0, schema.MOST_INDEX)
    keys = (key_of(part.row, first), key_of(part.row, last))
    named = database.execute(
        "SELECT key FROM features WHERE key BETWEEN ?1 AND ?2 "
        "UNION SELECT key FROM records WHERE key BETWEEN ?1 AND ?2 "
        "UNION SELECT key FROM explanations WHERE key BETWEEN ?1 AND ?2 ORDER BY key",
        keys,
    )
    for (key,) in named:
        facts = database.execute("SELECT density, maximum, kept FROM features WHERE key = ?", (key,)).fetchone()
        records = [
            OutRecord(group, unpack(tokens), unpack_values(values), peak, maximum, kept=unpack(kept))
            for group, maximum, peak, tokens, values, kept in database.execute(
                "SELECT grp, maximum, peak, tokens, activations, kept FROM records WHERE key = ? ORDER BY place", (key,)
            )
        ]
        explanations = [
            OutExplanation(text, score, kind, model, unpack(kept))
            for text, score, kind, model, kept in database.execute(
                "SELECT text, score, type, model, kept FROM explanations WHERE key = ? ORDER BY id", (key,)
            )
        ]
        density, maximum, kept = facts or (None, None, None)
        if maximum is None:
            maximum = max((record.maximum for record in records), default=None)
        yield OutFeature(
            source=part.source,
            index=key & schema.MOST_INDEX,
            density=density,
            maximum=maximum,
            records=records,
            explanations=explanations,
            kept=None if kept is None else unpack(kept),
        )


def _named(folder: Path, contents: Contents, name: str | None) -> ImportSummary:
    names = [one.name for one in contents.imports]
    if name is None and len(names) == 1:
        return contents.imports[0]
    if name not in names:
        given = "several imports: say which with --name" if name is None else f"no import {name!r}"
        raise ConfigError(f"{folder}: {given}; there are {', '.join(names) or 'none'}")
    return contents.imports[names.index(name)]
