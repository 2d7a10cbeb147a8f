"""Imports files into a store: which format they are of, line by line, and what was wrong with those that are not."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, Protocol

from saeserve_server.records.imported import neuron_records, neuronpedia, openai_explanations
from saeserve_server.records.imported.items import BadLine, Item, Naming
from saeserve_server.records.imported.lines import Line, find_files, read_lines
from saeserve_server.records.imported.schema import ImportedError
from saeserve_server.records.imported.writer import ImportWriter, StoreChange

AUTO: Final = "auto"
IMPORT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_. -]{0,63}")


class Format(Protocol):
    """A module that reads one format."""

    @property
    def NAME(self) -> str: ...  # noqa: N802 - a module's constant

    def recognises(self, line: Mapping[str, Any]) -> bool:
        """Whether it looks like one."""

    def read(self, line: Mapping[str, Any], file: PurePath, naming: Naming) -> Iterator[Item]:
        """What it holds. Raises BadLine."""


FORMATS: Final[Mapping[str, Format]] = {form.NAME: form for form in (neuron_records, openai_explanations, neuronpedia)}


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    format: str
    lines: int
    skipped: int


def import_files(
    store: Path,
    paths: Sequence[str],
    name: str,
    *,
    form: str = AUTO,
    naming: Naming | None = None,
    skip: bool = False,
    revisions: Callable[[Sequence[str]], Mapping[str, str]] = lambda sources: {},
    complain: Callable[[str], None] = lambda line: None,
) -> Imported:
    """Imports files and folders into the store under a name; an import of that name is replaced.

    `revisions` is asked, once all sources are known, for those of the SAEs. A bad line raises ImportedError with file
    and line, and the store stays as it was; with `skip` it is told to `complain` and passed over.
    """
    if not IMPORT_NAME.fullmatch(name):
        raise ImportedError(f"name: expected up to 64 letters, digits, '_', '.', '-' and spaces, got {name!r}")
    naming = naming or Naming()
    skipped = 0
    with StoreChange(store) as change:
        change.remove(name)
        writer: ImportWriter | None = None
        for file in find_files(paths):
            for line in read_lines(file):
                try:
                    if isinstance(line.value, BadLine):
                        raise line.value
                    if form == AUTO and not neuronpedia.is_beside(file):
                        form = _recognised(line)
                    reader = FORMATS[neuronpedia.NAME if form == AUTO else form]
                    read = list(reader.read(line.value, line.file, naming))
                    if writer is not None and writer.form != reader.NAME:
                        raise BadLine(f"of the format {reader.NAME}, after {writer.form}: make it an import of its own")
                    if writer is None:
                        writer = ImportWriter(change, name, reader.NAME)
                    writer.add(read)
                except BadLine as error:
                    skipped += 1
                    if not skip:
                        raise ImportedError(f"{line.place}: {error}; --on-error skip passes over such lines") from error
                    complain(f"{line.place}: {error}")
                except sqlite3.OperationalError as error:
                    raise ImportedError(f"{store}: cannot be written: {error}") from error
        if writer is None or not writer.sources:
            raise ImportedError(f"nothing to import: no line of a feature in {', '.join(paths)}")
        writer.finish(skipped, revisions(writer.sources))
        change.commit()
    return Imported(writer.form, writer.lines, skipped)


def _recognised(line: Line) -> str:
    """The format that a line looks like. Raises BadLine."""
    for name, form in FORMATS.items():
        if isinstance(line.value, dict) and form.recognises(line.value):
            return name
    raise BadLine(f"looks like none of {', '.join(FORMATS)}: say which with --format")
