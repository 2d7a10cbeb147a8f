"""Weight files: their headers without their contents, then their tensors, one by one. Nothing in them is ever run.

Read are safetensors (also cut into shards by an index), NumPy's npz, and PyTorch's state dicts (`weights_only`). What a
header claims is held against the file's size before memory is taken for it.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saeserve_server.errors import ConfigError

ZIP_MAGIC = b"PK\x03\x04"
INDEX = ".index.json"
MOST_PICKLE_BYTES = 2**24
"""Largest description of a state dict: names and shapes; its numbers lie apart."""
MOST_CONFIG_BYTES = 2**24
"""Largest JSON or YAML file read for facts."""
MOST_DEFLATED = 32
"""Times that a member of an npz file may be larger than what is stored of it, if it is large at all."""
LARGE_MEMBER = 2**24


@dataclass(frozen=True, slots=True)
class Entry:
    """What a header says of a tensor."""

    shape: tuple[int, ...]
    dtype: str
    """As torch names it: `float32`."""


@dataclass(frozen=True, slots=True, eq=False)
class WeightFile:
    """An opened file: what it holds, and how to read it."""

    path: Path
    entries: Mapping[str, Entry]
    read: Callable[[str], Tensor]
    """A tensor by name, as it is stored. Raises ConfigError."""
    extras: Mapping[str, Any] = field(default_factory=dict)
    """What a state dict holds beside tensors."""
    files: tuple[Path, ...] = ()
    """The files that hold the tensors."""


def open_weights(path: Path) -> WeightFile:
    """Opens a file by its name. Raises ConfigError, which says what is wrong with it but not which file it is."""
    if path.name.endswith(INDEX):
        return _open_shards(path)
    if not path.exists() and (index := path.with_name(path.name + INDEX)).exists():
        return _open_shards(index)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    return _open_npz(path) if path.suffix == ".npz" else _open_state_dict(path)


def has_weights(path: Path) -> bool:
    """Whether the file is there, whole or in shards."""
    return path.is_file() or path.with_name(path.name + INDEX).is_file()


def _open_safetensors(path: Path) -> WeightFile:
    try:
        file = safe_open(path, framework="pt", device="cpu")
        slices = {name: file.get_slice(name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
        entries = {name: Entry(tuple(one.get_shape()), _dtype(one.get_dtype())) for name, one in slices.items()}
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ConfigError(f"not a safetensors file, or truncated or damaged ({error})") from error

    def read(name: str) -> Tensor:
        try:
            tensor: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            raise ConfigError(f"{name}: cannot be read ({error})") from error
        return tensor

    return WeightFile(path, entries, read, files=(path,))


def _dtype(name: str) -> str:
    """torch's name of a dtype that safetensors names `F32`, `BF16`, `I64`."""
    kind = re.fullmatch(r"(BF|F|I|U)(\d+)", name)
    if kind is None:
        return name.lower()
    return {"BF": "bfloat", "F": "float", "I": "int", "U": "uint"}[kind[1]] + kind[2]


def _open_shards(index: Path) -> WeightFile:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise ConfigError("weight_map: missing, expected a table from tensors to files")
    shards: dict[str, WeightFile] = {}
    for name in sorted(set(listed.values())):
        if Path(name).name != name:
            raise ConfigError(f"weight_map: expected names of files in the same folder, got {name!r}")
        shard = index.with_name(name)
        if not shard.is_file():
            raise ConfigError(f"weight_map: {name} is missing; fetch the folder again")
        try:
            shards[name] = _open_safetensors(shard)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    for tensor, name in listed.items():
        if tensor not in shards[name].entries:
            raise ConfigError(f"weight_map: {tensor} is not in {name}")
    entries = {tensor: shards[name].entries[tensor] for tensor, name in listed.items()}
    files = (index, *(shard.path for shard in shards.values()))
    return WeightFile(index, entries, lambda tensor: shards[listed[tensor]].read(tensor), files=files)


def _open_npz(path: Path) -> WeightFile:
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ConfigError(f"not an npz file, or truncated or damaged ({error})") from error
    members: dict[str, zipfile.ZipInfo] = {}
    entries: dict[str, Entry] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if member.file_size > LARGE_MEMBER and member.file_size > MOST_DEFLATED * member.compress_size:
            raise ConfigError(
                f"{name}: refused: {member.compress_size} bytes that claim to unpack to {member.file_size}"
            )
        shape, dtype = _npy_header(archive, member, name)
        members[name], entries[name] = member, Entry(shape, dtype.name)

    def read(name: str) -> Tensor:
        try:
            with archive.open(members[name]) as stream:
                array = npy.read_array(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{name}: truncated or damaged ({error})") from error
        return torch.from_numpy(array)

    return WeightFile(path, entries, read, files=(path,))


def _npy_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array, which must be numbers, as many as its member has bytes for."""
    try:
        with archive.open(member) as stream:
            version = npy.read_magic(stream)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = header(stream)
            begins = stream.tell()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"{name}: not an array of numbers, or truncated or damaged ({error})") from error
    if dtype.hasobject or dtype.kind not in "fiub":
        raise ConfigError(f"{name}: refused: it holds {dtype}, expected numbers only")
    holds = (member.file_size - begins) // dtype.itemsize
    claims = 1
    for size in shape:
        claims *= size
    if claims != holds:
        raise ConfigError(f"{name}: its shape {list(shape)} says {claims} numbers, the file holds {holds}")
    return shape, dtype


def _open_state_dict(path: Path) -> WeightFile:
    state = _load(path)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    entries = {name: Entry(tuple(one.shape), str(one.dtype).removeprefix("torch.")) for name, one in tensors.items()}
    for name, one in tensors.items():
        if one.layout != torch.strided or one.is_meta:
            raise ConfigError(f"{name}: expected an array of numbers, got a tensor of layout {one.layout}")
        if one.numel() * one.element_size() > one.untyped_storage().nbytes():
            raise ConfigError(f"{name}: holds fewer numbers than its shape {list(one.shape)} says")
    extras = {name: value for name, value in state.items() if name not in tensors}
    return WeightFile(path, entries, lambda name: tensors[name].detach(), extras, files=(path,))


def _load(path: Path) -> Mapping[str, Any]:
    """The dictionary in the file, which never runs code: `weights_only`, and memory-mapped where the format allows."""
    try:
        with path.open("rb") as file:
            mapped = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    if mapped:
        _check_archive(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)  # noqa: TID251 - weights only
    except Exception as error:  # what a damaged or hostile file raises has no common type
        raise ConfigError(_explain(error)) from error
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ConfigError(f"expected a state dict, got {type(state).__name__}")
    return state


def _check_archive(path: Path) -> None:
    """A state dict's numbers are stored as they are, so that the file's size bounds what it can unpack to."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ConfigError(f"refused: {member.filename} is compressed, which PyTorch never does")
                if member.filename.endswith("data.pkl") and member.file_size > MOST_PICKLE_BYTES:
                    raise ConfigError(f"refused: a description of {member.file_size} bytes ({member.filename})")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ConfigError("not a PyTorch state dict of tensors, or truncated or damaged") from error


def _explain(error: Exception) -> str:
    """What is wrong with a file that `torch.load(weights_only=True)` refused."""
    code = re.search(r"\bGLOBAL ([\w.]+)", str(error))
    if code:
        return f"refused: it holds pickled code or objects ({code[1]}), expected tensors only"
    return "not a PyTorch state dict of tensors, or truncated or damaged"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of facts. Raises ConfigError."""
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"expected a JSON object, got {type(values).__name__}")
    return values


def read_text(path: Path) -> str:
    """A text file of facts. Raises ConfigError."""
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            raise ConfigError(f"{path.stat().st_size} bytes, expected at most {MOST_CONFIG_BYTES}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text: {error}") from error
