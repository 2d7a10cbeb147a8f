"""The texts of a file, one after another, however many there are: JSON lines, plain lines, CSV, Parquet."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from saeserve.arguments.extras import load
from saeserve.arguments.shown import shown

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "txt", ".csv": "csv", ".parquet": "parquet"}
"""By how a name ends, `.gz` behind it left out."""
MOST_BYTES = 2**24
"""Of a line, or of a field of CSV: many times what a server takes, and what is in memory at a time."""

_BOM = b"\xef\xbb\xbf"
"""Which some programs put before UTF-8."""


@dataclass(frozen=True, slots=True)
class Given:
    """A text to encode."""

    number: int
    """Which text of the input, from 0: lines that are blank do not count."""
    place: str
    """Where it stands, for people: `texts.jsonl, line 7`."""
    text: str | list[Any]
    """Or token ids, as JSON and Parquet may hold them; whether they are some is checked where they are sent."""
    id: str | None


@dataclass(frozen=True, slots=True)
class Bad:
    """What stands where a text was expected."""

    number: int
    place: str
    why: str


class Input:
    """The texts of a file, or of standard input (`-`). Iterating reads them once.

    Raises ValueError for what no reading can mend: a file that is not there, of no known format, or damaged.
    """

    def __init__(self, path: str, form: str | None, text_field: str | None, id_field: str | None) -> None:
        self.name = "standard input" if path == "-" else path
        self._path = path
        self._form = form or _form(path)
        if self._form == "txt" and (text_field, id_field) != (None, None):
            raise ValueError(f"{self.name} is read as a text a line, which have no fields")
        self._text_field = text_field or "text"
        self._id_field = id_field
        self._taken = 0
        """Bytes of its lines so far."""
        self._share: Callable[[], float | None] = lambda: None
        if path != "-" and not Path(path).exists():
            raise ValueError(f"{path} is not there")

    @property
    def share(self) -> float | None:
        """How much of it has been read, 0 to 1; None where that cannot be known."""
        return self._share()

    def __iter__(self) -> Iterator[Given | Bad]:
        try:
            if self._form == "parquet":
                yield from self._parquet()
                return
            with self._opened() as file:
                yield from {"jsonl": self._jsonl, "txt": self._txt, "csv": self._csv}[self._form](file)
        except (OSError, EOFError) as error:  # gzip's too
            raise ValueError(f"{self.name} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def _opened(self) -> BinaryIO:
        if self._path == "-":
            if sys.stdin is None:
                raise ValueError("standard input is closed: there are no texts to read")
            return sys.stdin.buffer
        file = Path(self._path).open("rb")  # noqa: SIM115 (closed with the reader around it)
        size = os.fstat(file.fileno()).st_size
        if not self._path.endswith(".gz"):
            self._share = lambda: self._taken / size if size else None  # without a size it is a pipe
            return file
        self._share = lambda: file.tell() / size if size and not file.closed else None
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))  # it is one in all that is used here

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, str | None, str]]:
        """Lines that are not blank, without their ends: number from 1, the line, or None and what is wrong with it."""
        number = 0
        while line := file.readline(MOST_BYTES + 1):
            number += 1
            self._taken += len(line)
            if len(line) > MOST_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MOST_BYTES)
                    self._taken += len(line)
                yield number, None, f"more than {MOST_BYTES:,} bytes"
                continue
            if number == 1:
                line = line.removeprefix(_BOM)
            try:
                text = line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                yield number, None, f"not UTF-8, byte 0x{line[error.start]:02x} at {error.start}"
                continue
            if text.strip():
                yield number, text, ""

    def _txt(self, file: BinaryIO) -> Iterator[Given | Bad]:
        for count, (number, line, why) in enumerate(self._lines(file)):
            place = f"{self.name}, line {number}"
            yield Bad(count, place, why) if line is None else Given(count, place, line, None)

    def _jsonl(self, file: BinaryIO) -> Iterator[Given | Bad]:
        for count, (number, line, why) in enumerate(self._lines(file)):
            place = f"{self.name}, line {number}"
            if line is None:
                yield Bad(count, place, why)
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Bad(count, place, f"no JSON: {error}{'' if number > 1 else self._hint()}")
                continue
            yield self._of(count, place, found if isinstance(found, dict) else {}, "an object")

    def _hint(self) -> str:
        return " (--input-format txt reads a text a line)" if self._path == "-" else ""

    def _csv(self, file: BinaryIO) -> Iterator[Given | Bad]:
        def lines() -> Iterator[str]:
            while line := file.readline(MOST_BYTES):
                self._taken += len(line)
                try:
                    yield (line if reader.line_num else line.removeprefix(_BOM)).decode()
                except UnicodeDecodeError as error:  # what follows cannot be told from it
                    wrong = f"not UTF-8, byte 0x{line[error.start]:02x} at {error.start}"
                    raise ValueError(f"{self.name}, line {reader.line_num + 1}: {wrong}") from None

        before = csv.field_size_limit(MOST_BYTES)
        reader = csv.reader(lines(), strict=True)
        try:
            header = next(reader, [])
            for field in (self._text_field, self._id_field):
                if field is not None and field not in header:
                    raise ValueError(
                        f"{self.name} has no column {field!r}, but {', '.join(map(repr, header)) or 'none'}"
                    )
            for count, row in enumerate(row for row in reader if row):
                place = f"{self.name}, line {reader.line_num}"
                yield self._of(count, place, dict(zip(header, row, strict=False)), "a row")
        except csv.Error as error:
            raise ValueError(f"{self.name}, line {reader.line_num}: {error}") from error
        finally:
            csv.field_size_limit(before)

    def _parquet(self) -> Iterator[Given | Bad]:
        parquet = load("pyarrow.parquet", f"{self.name}, a Parquet file,", "pyarrow", "arrow")
        arrow = load("pyarrow", f"{self.name}, a Parquet file,", "pyarrow", "arrow")
        if self._path == "-":
            raise ValueError("Parquet is read from a file, not from standard input")
        fields = [field for field in (self._text_field, self._id_field) if field is not None]
        count = 0
        try:
            with parquet.ParquetFile(self._path) as file:
                total = file.metadata.num_rows
                self._share = lambda: count / total if total else None
                for field in fields:
                    if field not in file.schema_arrow.names:
                        there = ", ".join(map(repr, file.schema_arrow.names))
                        raise ValueError(f"{self.name} has no column {field!r}, but {there}")
                for batch in file.iter_batches(256, columns=fields):
                    for row in batch.to_pylist():
                        yield self._of(count, f"{self.name}, row {count}", row, "a row")
                        count += 1
        except arrow.ArrowException as error:
            raise ValueError(f"{self.name} is no Parquet file, or a damaged one: {error}") from error

    def _of(self, count: int, place: str, found: dict[str, Any], what: str) -> Given | Bad:
        text, id_ = found.get(self._text_field), None
        if not isinstance(text, str | list):
            return Bad(
                count, place, f"expected {what} with a text in {self._text_field!r} (--text-field names another)"
            )
        if self._id_field is not None:
            value = found.get(self._id_field)
            if not isinstance(value, str | int) or isinstance(value, bool):
                return Bad(
                    count, place, f"expected an id in {self._id_field!r}, a text or a whole number, not {shown(value)}"
                )
            id_ = str(value)
            if not _is_text(id_):
                return Bad(count, place, f"the id in {self._id_field!r} has half of a surrogate pair")
        return Given(count, place, text, id_)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _form(path: str) -> str:
    if path == "-":
        return "jsonl"
    ends = Path(path.removesuffix(".gz")).suffix.lower()
    if ends not in FORMATS:
        raise ValueError(f"{path} ends with none of {', '.join(FORMATS)}: --input-format says what it is")
    return FORMATS[ends]
