"""PyTorch's state dicts, `.pt` and `.pth`, read without unpickling them: nothing in them can be run.

`torch.load(weights_only=True)` runs no code, but believes what it reads: a file of 60 bytes makes it allocate gigabytes
or hash a key forever, and of a storage that is shorter than it says it reads on into the next one. Here descriptions of
tensors (`pickles.py`) are held against the file before anything is loaded; the numbers are mapped.

    zip       {prefix}/data.pkl, and the storage KEY as it is in {prefix}/data/KEY
    legacy    before PyTorch 1.6: five pickles (a magic number, a version, the machine, the table, the keys of its
              storages), then each storage behind its count of numbers
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from saeserve_server.errors import ConfigError
from saeserve_server.sources.weights.files import (
    AGAIN,
    Entry,
    Numbers,
    as_numbers,
    check_count,
    check_file,
    open_archive,
)
from saeserve_server.sources.weights.pickles import NO_STATE_DICT, Stored, interpret

if TYPE_CHECKING:
    from torch import Tensor

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MOST_PICKLE_BYTES = 2**16
"""Largest description of a state dict: names and shapes, some 200 bytes for each tensor."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where the bytes of a storage lie in the file."""

    begin: int
    nbytes: int


def open_state_dict(path: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The tensors of the file, and what it holds beside them. Raises ConfigError."""
    size = check_file(path)
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        file.seek(0)
        state, pieces = _open_zip(path, file) if is_zip else _open_legacy(file, size)
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        got = "a tensor alone" if isinstance(state, Stored) else type(state).__name__
        raise ConfigError(f"expected a state dict, got {got}")
    check_count(len(state))
    entries, extras = {}, {}
    for name, value in state.items():
        if isinstance(value, Stored):
            entries[name] = _entry(path, name, value, pieces)
        elif isinstance(value, dict):
            extras[name] = {key: _number(path, str(key), one, pieces) for key, one in value.items()}
        else:
            extras[name] = value
    return entries, extras


def _number(path: Path, name: str, value: Any, pieces: Mapping[str, _Piece]) -> Any:
    """The number of a tensor of one; else the value itself."""
    if not isinstance(value, Stored) or any(one != 1 for one in value.shape):
        return value
    return _entry(path, name, value, pieces).numbers().item()


def _entry(path: Path, name: str, tensor: Stored, pieces: Mapping[str, _Piece]) -> Entry:
    storage, count, last, in_rows = tensor.storage, 1, tensor.offset, True
    for length, stride in reversed([*zip(tensor.shape, tensor.strides, strict=True)]):
        in_rows &= stride == count or length == 1
        count *= length
        last += (length - 1) * stride
    piece = pieces.get(storage.key)
    if piece is None or piece.nbytes != storage.nbytes:
        held = 0 if piece is None else piece.nbytes
        raise ConfigError(f"{name}: expected {storage.nbytes} bytes, the file holds {held}: {AGAIN}")
    if count and (count > storage.numel or last >= storage.numel):
        raise ConfigError(f"{name}: holds fewer numbers than its shape {list(tensor.shape)} says")

    def load() -> Tensor:
        import torch

        dtype: torch.dtype = getattr(torch, storage.dtype)
        if not count:
            return torch.empty(tensor.shape, dtype=dtype)
        try:
            mapped = np.memmap(path, np.uint8, "c", piece.begin, (piece.nbytes,))  # copied where it is written to
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}: {AGAIN} ({error})") from error
        part = torch.from_numpy(mapped)
        if piece.begin % storage.itemsize:
            part = part.clone()
        numbers = torch.empty(0, dtype=dtype)
        return numbers.set_(part.untyped_storage(), tensor.offset, tensor.shape, tensor.strides)

    def numbers() -> Numbers:
        try:
            with path.open("rb") as file:
                file.seek(piece.begin + tensor.offset * storage.itemsize)
                held = as_numbers(file.read((last - tensor.offset + 1) * storage.itemsize), storage.dtype)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}: {AGAIN} ({error})") from error
        strides = tuple(stride * held.itemsize for stride in tensor.strides)
        return np.lib.stride_tricks.as_strided(held, tensor.shape, strides).reshape(-1) if count else held[:0]

    return Entry(tensor.shape, storage.dtype, load, numbers, in_rows and not piece.begin % storage.itemsize)


def _open_zip(path: Path, file: BinaryIO) -> tuple[object, dict[str, _Piece]]:
    archive, members = open_archive(path)
    with archive:
        for member in members.values():
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise ConfigError(f"refused: {member.filename} is compressed, which PyTorch never does")
        tables = [name for name in members if name.endswith("/data.pkl")]
        if len(tables) != 1:
            raise ConfigError(f"{NO_STATE_DICT} (expected one data.pkl in the archive, found {len(tables)})")
        prefix = tables[0].removesuffix("data.pkl")
        order = members.get(f"{prefix}byteorder")
        if order is not None and _bytes_of(file, order, 16) != sys.byteorder.encode():
            raise ConfigError(f"expected numbers stored as {sys.byteorder} endian")
        table = members[tables[0]]
        if table.file_size > MOST_PICKLE_BYTES:
            raise ConfigError(f"refused: a table of {table.file_size} bytes, expected at most {MOST_PICKLE_BYTES}")
        state, _ = interpret(io.BytesIO(_bytes_of(file, table, MOST_PICKLE_BYTES)))
        folder = f"{prefix}data/"
        pieces = {
            name.removeprefix(folder): _Piece(_begin(file, member), member.file_size)
            for name, member in members.items()
            if name.startswith(folder)
        }
    return state, pieces


def _bytes_of(file: BinaryIO, member: zipfile.ZipInfo, most: int) -> bytes:
    """The bytes of a member that is stored as it is, up to a number of them."""
    file.seek(_begin(file, member))
    return file.read(min(member.file_size, most))


def _begin(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its header, which is 30 bytes, a name and further facts."""
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(ZIP_MAGIC):
        raise ConfigError(f"{member.filename}: {AGAIN}")
    lengths = struct.unpack("<HH", header[26:])
    begin: int = member.header_offset + 30 + sum(lengths)
    if begin + member.file_size > file.seek(0, io.SEEK_END):
        raise ConfigError(f"{member.filename}: ends beyond the file: {AGAIN}")
    return begin


def _open_legacy(file: BinaryIO, size: int) -> tuple[object, dict[str, _Piece]]:
    begin = io.BytesIO(file.read(MOST_PICKLE_BYTES))
    magic, _ = interpret(begin)
    if magic != LEGACY_MAGIC:
        raise ConfigError(NO_STATE_DICT)
    interpret(begin)
    machine, _ = interpret(begin)
    if not isinstance(machine, dict) or machine.get("little_endian") is not (sys.byteorder == "little"):
        raise ConfigError(f"expected numbers stored as {sys.byteorder} endian")
    state, storages = interpret(begin)
    keys, _ = interpret(begin)
    if not isinstance(keys, list):
        raise ConfigError(NO_STATE_DICT)
    pieces: dict[str, _Piece] = {}
    position = begin.tell()
    for key in keys:
        storage = storages.get(key) if isinstance(key, str) else None
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        if storage is None or count != storage.numel or position + 8 + storage.nbytes > size:
            raise ConfigError(NO_STATE_DICT)
        pieces[storage.key] = _Piece(position + 8, storage.nbytes)
        position += 8 + storage.nbytes
    return state, pieces
