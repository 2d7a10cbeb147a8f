"""The texts from which an index is built: text files, JSON lines, Parquet and Arrow files, read one at a time."""

from __future__ import annotations

import codecs
import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from saeserve_server.errors import ConfigError
from saeserve_server.records.corpora.data_sets import in_hub_cache, of_split, saved_files
from saeserve_server.records.corpora.tables import PARQUET, TABLES, column

JSON_LINES = (".jsonl", ".ndjson")
_FOLDER_SUFFIXES = (".txt", *JSON_LINES, *PARQUET)


class Corpus:
    """Texts of files, in their order. Iterating reads them; it can be done again.

    A `.jsonl` or `.ndjson` file holds one JSON object a line, the text in `field`; blank lines are passed over. A
    `.parquet` or `.arrow` file holds a text a row, in the column `field`. Any other file is UTF-8 text: the whole file
    is one text, or with `lines` each line that is not blank is one. A text may be empty in JSON lines and in rows only,
    so that texts keep their numbers.
    """

    def __init__(self, files: Sequence[Path], *, lines: bool = False, field: str = "text") -> None:
        self.files = tuple(files)
        self.size = sum(_size(file) for file in self.files)
        """Bytes of all files."""
        self.read = 0
        """Bytes of the texts handed out so far, in this iteration: against `size`, how far it is."""
        self._lines = lines
        self._field = field

    def __iter__(self) -> Iterator[str]:
        """The texts. Raises ConfigError naming file and line, or row, for what cannot be read."""
        self.read = 0
        for file in self.files:
            try:
                if file.suffix.lower() in JSON_LINES:
                    yield from self._json_lines(file)
                elif file.suffix.lower() in TABLES:
                    yield from self._rows(file)
                elif self._lines:
                    yield from self._text_lines(file)
                else:
                    yield from self._whole(file)
            except OSError as error:
                raise ConfigError(f"{file}: {error.strerror}") from error

    def check(self) -> None:
        """Opens every file, and reads the first text of those that have one a line. Raises ConfigError.

        What a later line may hold is not known before: this is for what would fail at once, after the model has loaded.
        """
        for file in self.files:
            try:
                with file.open("rb"):
                    pass
                if file.suffix.lower() in JSON_LINES:
                    next(self._json_lines(file), None)
                elif file.suffix.lower() in TABLES:
                    next(self._rows(file), None)
                elif self._lines:
                    next(self._text_lines(file), None)
            except OSError as error:
                raise ConfigError(f"{file}: {error.strerror}") from error
        if not self.size:
            raise ConfigError(f"nothing to index: {', '.join(map(str, self.files[:3]))} hold nothing")

    def _rows(self, file: Path) -> Iterator[str]:
        for texts, size in column(file, self._field):
            self.read += size
            yield from texts

    def _whole(self, file: Path) -> Iterator[str]:
        raw = file.read_bytes()
        self.read += len(raw)
        try:
            text = raw.removeprefix(codecs.BOM_UTF8).decode()
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{file}:{line}: not UTF-8 text (byte {error.start}: {error.reason})") from error
        if text:
            yield text

    def _text_lines(self, file: Path) -> Iterator[str]:
        for _, line in self._numbered_lines(file):
            if line.strip():
                yield line

    def _json_lines(self, file: Path) -> Iterator[str]:
        for number, line in self._numbered_lines(file):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{file}:{number}: not valid JSON: {error}") from error
            if not isinstance(value, dict):
                raise ConfigError(f"{file}:{number}: expected a JSON object, got {line.strip()[:40]!r}")
            if self._field not in value:
                raise ConfigError(f"{file}:{number}: no field {self._field!r}; it has {', '.join(value) or 'none'}")
            text = value[self._field]
            if not isinstance(text, str):
                raise ConfigError(f"{file}:{number}: field {self._field!r}: expected a string, got {str(text)[:40]!r}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ConfigError(f"{file}:{number}: field {self._field!r}: half of a surrogate pair") from error
            yield text

    def _numbered_lines(self, file: Path) -> Iterator[tuple[int, str]]:
        # Lines end at \n alone: str.splitlines would also cut at characters that JSON and prose may hold.
        with file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                self.read += len(raw)
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                try:
                    yield number, line.decode().rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise ConfigError(f"{file}:{number}: not UTF-8 text ({error.reason})") from error


def find_files(paths: Iterable[str | Path], split: str | None = None) -> list[Path]:
    """The files that paths name: a file itself; of a data set that was saved its files; another folder's `.txt`,
    `.jsonl`, `.ndjson` and `.parquet` files at any depth, sorted; what a pattern (`*`, `?`, `[…]`, `**`) matches,
    sorted; of a data set's hub name, OWNER/NAME, what the local hub cache has of it. A file that several name stands
    once, where it came first.

    Of folders that hold splits the files of `split` are taken, by default those of `train`, or of the only one.
    Raises ConfigError for a path that does not exist, for a folder or a pattern without files, and without the split.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for file in _expand(str(path), split):
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _expand(name: str, split: str | None) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        return _of_folder(path, split)
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        found = in_hub_cache(name)
        return _of_folder(found, split) if found.is_dir() else [found]
    files = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]  # noqa: PTH207
    if not files:
        raise ConfigError(f"{path}: no file matches this pattern")
    return files


def _of_folder(folder: Path, split: str | None) -> list[Path]:
    saved = saved_files(folder, split)
    if saved is not None:
        return saved
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in _FOLDER_SUFFIXES and file.is_file() and not _is_hidden(file.relative_to(folder))
    ]
    if not files:
        raise ConfigError(f"{folder}: no {', '.join(_FOLDER_SUFFIXES)} file in this folder; name other files singly")
    return of_split(folder, files, split)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
