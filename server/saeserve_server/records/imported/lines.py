"""The lines of files to import: JSON lines or whole documents, plain or gzipped, of folders, or of standard input."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from saeserve_server.errors import shown
from saeserve_server.records.imported.items import BadLine
from saeserve_server.records.imported.schema import ImportedError

STDIN: Final = "-"
MOST_BYTES: Final = 2**28
"""Of a line, or of a document."""
_ENDINGS: Final = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_OURS: Final = "not_held.json"
"""In an export of ours, about the export."""
_GZIP: Final = b"\x1f\x8b"

Stream: TypeAlias = io.BufferedReader | gzip.GzipFile


@dataclass(frozen=True, slots=True)
class Line:
    """An object of a file, or why there is none."""

    file: Path
    number: int
    """Of the line, from 1."""
    value: dict[str, Any] | BadLine

    @property
    def place(self) -> str:
        """As messages name it."""
        return f"{'standard input' if str(self.file) == STDIN else self.file}:{self.number}"


def find_files(paths: Sequence[str]) -> Iterator[Path]:
    """The files named, and those of folders by natural order, each once. Raises ImportedError for what is not there."""
    seen: set[tuple[int, int]] = set()
    for given in paths:
        path = Path(given)
        if given != STDIN and not path.exists():
            raise ImportedError(f"{path}: no such file or folder")
        found = False
        for file in _walk(path) if path.is_dir() else (path,):
            found = True
            if given != STDIN:
                status = file.stat()
                if not path.is_dir():  # of folders no file comes twice, and there may be millions
                    if (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
            yield file
        if not found:
            raise ImportedError(f"{path}: holds no {', '.join(_ENDINGS)} file")


def read_lines(file: Path) -> Iterator[Line]:
    """The objects of a file, one in memory at a time. What cannot be read on ends it with a BadLine."""
    number = 0
    try:
        with _opened(file) as stream:
            if file.name.removesuffix(".gz").endswith(".json"):
                yield from _document(file, stream)
                return
            while data := stream.readline(MOST_BYTES + 1):
                number += 1
                if len(data) > MOST_BYTES:
                    yield Line(file, number, BadLine(f"longer than {MOST_BYTES} bytes"))
                    while data and not data.endswith(b"\n"):
                        data = stream.readline(MOST_BYTES)
                elif data.strip():
                    yield Line(file, number, _parse(data))
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        yield Line(file, number + 1, BadLine(f"cannot be read on: {why}"))


def _document(file: Path, stream: Stream) -> Iterator[Line]:
    """One object, a list of them, or, in spite of the file's name, a line for each."""
    data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        yield Line(file, 1, BadLine(f"longer than {MOST_BYTES} bytes: give JSON lines (.jsonl)"))
        return
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
        if len(lines) < 2 or isinstance(_parse(lines[0][1]), BadLine):
            lines = [(1, data)]
        for number, line in lines:
            yield Line(file, number, _parse(line))
        return
    for one in value if isinstance(value, list) else [value]:
        yield Line(file, 1, one if isinstance(one, dict) else BadLine(f"expected a JSON object, got {shown(one)}"))


def _parse(data: bytes) -> dict[str, Any] | BadLine:
    try:
        value = json.loads(data.strip())
    except json.JSONDecodeError as error:
        return BadLine(f"not JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return BadLine(f"not JSON that can be read: {error}")
    return value if isinstance(value, dict) else BadLine(f"expected a JSON object, got {shown(value)}")


def _opened(file: Path) -> Stream:
    opened: Any = sys.stdin.buffer if str(file) == STDIN else file.open("rb")
    raw = opened if isinstance(opened, io.BufferedReader) else io.BufferedReader(opened)
    return gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        for name in sorted(files, key=_natural):
            if name.endswith(_ENDINGS) and not name.startswith(".") and name != _OURS:
                yield Path(place, name)


def _natural(name: str) -> list[tuple[int, str]]:
    """Numbers in names sort as numbers."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", name)]
