"""NumPy's `.npz`: a zip archive with an array in each member. Arrays of objects, which would be unpickled, are
refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.lib import format as npy

from saeserve_server.errors import ConfigError
from saeserve_server.sources.weights.files import AGAIN, Entry, Numbers, open_archive

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADER_BYTES = 2**14
MOST_DEFLATED = 32
"""Times that a member may be larger than what is stored of it, if it is large at all."""
LARGE_MEMBER = 2**24


def open_npz(path: Path) -> dict[str, Entry]:
    """The arrays of the file. Raises ConfigError."""
    archive, members = open_archive(path)
    entries: dict[str, Entry] = {}
    for member in members.values():
        name = member.filename.removesuffix(".npy")
        if name in entries:
            raise ConfigError(f"{name}: stands in the archive twice")
        entries[name] = _entry(archive, member, name)
    return entries


def _entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Entry:
    """An array, which must be of numbers, as many as its member has bytes for."""
    if member.file_size > LARGE_MEMBER and member.file_size > MOST_DEFLATED * member.compress_size:
        raise ConfigError(f"{name}: refused: {member.compress_size} bytes that claim to unpack to {member.file_size}")
    try:
        with archive.open(member) as stream:
            begin = io.BytesIO(stream.read(MOST_HEADER_BYTES))
        version = npy.read_magic(begin)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(begin)
    except Exception as error:  # what a hostile header or stream raises has no common type
        raise ConfigError(f"{name}: not an array of numbers, or {AGAIN} ({error})") from error
    if dtype.hasobject or dtype.kind not in "fiub":
        raise ConfigError(f"{name}: refused: it holds {dtype}, expected numbers only")
    holds, rest = divmod(member.file_size - begin.tell(), dtype.itemsize)
    claims = 1
    for size in shape:
        claims *= size
    if claims != holds or rest or any(size < 0 for size in shape):
        raise ConfigError(f"{name}: its shape {list(shape)} says {claims} numbers, the file holds {holds}")
    return Entry(
        shape,
        dtype.name,
        lambda: _tensor(_array(archive, member, name), name),
        lambda: _array(archive, member, name).reshape(-1),
    )


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Numbers:
    try:
        with archive.open(member) as stream:
            array: Numbers = npy.read_array(stream, allow_pickle=False)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    except Exception as error:  # nor has what a damaged stream raises
        raise ConfigError(f"{name}: {AGAIN} ({error})") from error


def _tensor(array: Numbers, name: str) -> Tensor:
    import torch

    try:
        return torch.from_numpy(array)
    except TypeError as error:  # a type that torch lacks
        raise ConfigError(f"{name}: cannot be read ({error})") from error
