"""Weight files: their headers without their contents, then their tensors, one by one. Nothing in them is ever run.

Read are safetensors (also cut into shards by an index), NumPy's npz, and PyTorch's state dicts. What a header claims is
held against the file's size before memory is taken for it. Opening needs no torch, which takes seconds to import; only
what reads a tensor does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from saeserve_server.errors import ConfigError, shown
from saeserve_server.sources.weights.files import (
    AGAIN,
    MOST_BYTES,
    Entry,
    Numbers,
    as_numbers,
    check_count,
    check_file,
    read_json,
)
from saeserve_server.sources.weights.npz import open_npz
from saeserve_server.sources.weights.state_dict import open_state_dict

if TYPE_CHECKING:
    from torch import Tensor

INDEX = ".index.json"


@dataclass(frozen=True, slots=True, eq=False)
class WeightFile:
    """An opened file: what it holds, and how to read it."""

    path: Path
    entries: Mapping[str, Entry]
    extras: Mapping[str, Any] = field(default_factory=dict)
    """What a state dict holds beside tensors."""
    files: tuple[Path, ...] = ()
    """The files that hold the tensors."""

    def numbers(self, name: str) -> Numbers:
        """A tensor by name, without torch: [numbers]. Raises ConfigError."""
        return self.entries[name].numbers()

    def read(self, name: str) -> Tensor:
        """A tensor by name, as it is stored. Raises ConfigError."""
        return self.entries[name].load()


def open_weights(path: Path) -> WeightFile:
    """Opens a file by its name. Raises ConfigError, which says what is wrong with it but not which file it is."""
    try:
        if path.name.endswith(INDEX):
            return _open_shards(path)
        if not path.exists() and (index := path.with_name(path.name + INDEX)).exists():
            return _open_shards(index)
        if path.suffix == ".safetensors":
            return WeightFile(path, _open_safetensors(path), files=(path,))
        if path.suffix == ".npz":
            return WeightFile(path, open_npz(path), files=(path,))
        entries, extras = open_state_dict(path)
        return WeightFile(path, entries, extras, files=(path,))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}") from error


def has_weights(path: Path) -> bool:
    """Whether the file is there, whole or in shards."""
    return path.is_file() or path.with_name(path.name + INDEX).is_file()


def _open_safetensors(path: Path) -> dict[str, Entry]:
    size = check_file(path)
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(MOST_BYTES, size):
            whose = f"the file has {size}" if length > size else f"expected at most {MOST_BYTES}"
            raise ConfigError(f"not a safetensors file, or {AGAIN} (a header of {length} bytes, {whose})")
        header = stream.read(length)
    try:
        file = safe_open(path, framework="np")
        table = json.loads(header, object_pairs_hook=_once)
        names = list(file.keys())  # type: ignore[no-untyped-call]
        check_count(len(names))
        slices = {name: file.get_slice(name) for name in names}  # type: ignore[no-untyped-call]
    except (SafetensorError, ValueError) as error:
        raise ConfigError(f"not a safetensors file, or {AGAIN} ({error})") from error

    @cache
    def tensors() -> Any:
        return safe_open(path, framework="pt", device="cpu")

    def load(name: str) -> Tensor:
        try:
            tensor: Tensor = tensors().get_tensor(name)
        except (SafetensorError, RuntimeError, AttributeError) as error:  # the last for a type that torch lacks
            raise ConfigError(f"{name}: cannot be read ({error})") from error
        return tensor

    def numbers(name: str) -> Numbers:
        begin, end = table[name]["data_offsets"]
        try:
            with path.open("rb") as stream:
                stream.seek(8 + length + begin)
                return as_numbers(stream.read(end - begin), _dtype(table[name]["dtype"]))
        except (OSError, TypeError, ValueError) as error:
            raise ConfigError(f"{name}: cannot be read ({error})") from error

    return {
        name: Entry(tuple(one.get_shape()), _dtype(one.get_dtype()), partial(load, name), partial(numbers, name), True)
        for name, one in slices.items()
    }


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table of a header. Raises ConfigError for a name that it has twice."""
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ConfigError(f"{name}: stands in the header twice")
        table[name] = value
    return table


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
    check_count(len(listed))
    shards: dict[str, dict[str, Entry]] = {}
    for name in sorted(set(listed.values())):
        if not name or Path(name).name != name:
            raise ConfigError(f"weight_map: expected names of files in the same folder, got {shown(name)}")
        shard = index.with_name(name)
        if not shard.is_file():
            raise ConfigError(f"weight_map: {name} is missing: fetch the folder again")
        try:
            shards[name] = _open_safetensors(shard)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    for name, entries in shards.items():
        for tensor in entries:
            if listed.get(tensor) != name:
                raise ConfigError(f"weight_map: leaves out {tensor} of {name}: fetch the folder again")
    for tensor, name in listed.items():
        if tensor not in shards[name]:
            raise ConfigError(f"weight_map: {tensor} is not in {name}: fetch the folder again")
    files = (index, *(index.with_name(name) for name in shards))
    return WeightFile(index, {tensor: shards[name][tensor] for tensor, name in listed.items()}, files=files)
