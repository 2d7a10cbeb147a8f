"""Opening what somebody else wrote: only plain files, of which no more is read than an honest one has of it.

Headers, directories and files of facts are small whatever the SAE. So each is bounded before it is parsed, which keeps
the cost of a hostile file to a few megabytes and a fraction of a second.
"""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import yaml

from saeserve_server.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 2**20
"""Largest header of a weight file, directory of an archive, or JSON file."""
MOST_YAML_BYTES = 2**15
"""Largest YAML file: its parser takes a millisecond for every few hundred bytes."""
MOST_TENSORS = 1000
"""Tensors in one file. SAEs have a dozen."""
ENCRYPTED = 1
"""The flag of a zip archive's member."""
AGAIN = "truncated or damaged: fetch it again"


Numbers = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor, as the header of its file describes it."""

    shape: tuple[int, ...]
    dtype: str
    """As torch names it: `float32`."""
    load: Callable[[], Tensor]
    """Reads it as it is stored. Raises ConfigError."""
    numbers: Callable[[], Numbers]
    """The same without torch, flat, and bfloat16 as float32: for the few facts that stand among weights."""
    is_mapped: bool = False
    """Whether `load` maps it from the file, row after row, instead of taking memory for it."""


def as_numbers(data: bytes | bytearray | memoryview, dtype: str) -> Numbers:
    """The numbers that bytes stand for. Raises TypeError for a type that NumPy lacks."""
    if dtype == "bfloat16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.dtype(dtype))


def check_file(path: Path) -> int:
    """The size of a file in bytes. Raises ConfigError for what is no file, empty, or only stands for one."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait forever
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise ConfigError(f"cannot be read: expected a file, got {kind}")
    if status.st_size == 0:
        raise ConfigError(f"empty: {AGAIN}")
    with path.open("rb") as file:
        begin = file.read(64).lstrip().lower()
    if begin.startswith(b"version https://git-lfs"):
        raise ConfigError("only the pointer that Git LFS leaves in place of the file: run `git lfs pull` beside it")
    if begin.startswith((b"<!doctype", b"<html")):
        raise ConfigError("a web page in place of the file: fetch it again")
    return status.st_size


def stands(path: Path) -> bool:
    """Whether anything stands there, were it a folder or a broken link: what is there is read or refused, never passed
    over."""
    return os.path.lexists(path)


def check_count(count: int) -> None:
    """Raises ConfigError for more tensors than an SAE can have."""
    if count > MOST_TENSORS:
        raise ConfigError(f"refused: {count} tensors, expected those of one SAE, at most {MOST_TENSORS}")


def open_archive(path: Path) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A zip archive and its members by name. Raises ConfigError for names that repeat and members beyond its end."""
    size = check_file(path)
    file = _Sparing(path)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        file.close()
        raise ConfigError(f"not an archive, or {AGAIN} ({error})") from error
    file.limit = None
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if member.filename in members:
            raise ConfigError(f"{member.filename}: stands in the archive twice")
        if member.flag_bits & ENCRYPTED:
            raise ConfigError(f"{member.filename}: locked with a password")
        if not 0 <= member.header_offset <= size - member.compress_size:
            raise ConfigError(f"{member.filename}: ends beyond the file: {AGAIN}")
        members[member.filename] = member
    check_count(len(members))
    return archive, members


class _Sparing(io.FileIO):
    """A file of which no large piece is read, while `limit` stands: a zip archive says how large its directory is."""

    limit: int | None = MOST_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None and size is not None and size > self.limit:
            raise ConfigError(f"refused: a directory of {size} bytes, expected at most {self.limit}")
        return super().read(size)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of facts. Raises ConfigError."""
    try:
        values = json.loads(_read_text(path, MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"expected a JSON object, got {type(values).__name__}")
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """The table in a YAML file of facts. Raises ConfigError."""
    try:
        values = yaml.load(_read_text(path, MOST_YAML_BYTES), _PlainLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"expected a table, got {type(values).__name__}")
    return values


class _PlainLoader(yaml.SafeLoader):
    """Without aliases: merged into each other (`<<`), a few lines of them expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported, write values out")
        return super().compose_node(parent, index)


def _read_text(path: Path, most: int) -> str:
    check_file(path)
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ConfigError(f"refused: {path.stat().st_size} bytes, expected at most {most}")
    try:
        return data.decode("utf-8-sig")  # some editors mark their files
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text: {error}") from error
