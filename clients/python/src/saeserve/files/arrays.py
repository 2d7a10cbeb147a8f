"""Activations as plain arrays: the layout of parts and of `.npz` files, and how one follows another.

`data`, `indices`, `indptr`, `shape`, `format` and `_is_array` are those of `scipy.sparse.save_npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from saeserve.answers.activations import Csr
from saeserve.files.activations import Activations
from saeserve.files.settings import About
from saeserve.files.strings import Strings

Array: TypeAlias = npt.NDArray[Any]

ARRAYS: dict[str, np.dtype[Any]] = {
    "data": np.dtype("<f4"),
    "indices": np.dtype("<i4"),
    "indptr": np.dtype("<i8"),
    "text_numbers": np.dtype("<i8"),
    "text_offsets": np.dtype("<i8"),
    "id_bytes": np.dtype("u1"),
    "id_offsets": np.dtype("<i8"),
    "token_bytes": np.dtype("u1"),
    "token_offsets": np.dtype("<i8"),
    "token_ids": np.dtype("<u4"),
    "positions": np.dtype("<i4"),
    "is_bos": np.dtype("?"),
    "starts": np.dtype("<i4"),
    "ends": np.dtype("<i4"),
}
"""Those that grow with the texts, and their types. Those of ids, and `is_bos`, are there where they were asked for."""
OFFSETS = ("indptr", "text_offsets", "id_offsets", "token_offsets")
"""Those that begin with 0 and count what comes before: of what follows the first is dropped, the others are shifted."""


def names(about: About) -> list[str]:
    """Which arrays there are."""
    settings = about.settings
    asked = {"id_bytes": settings.has_ids, "id_offsets": settings.has_ids, "is_bos": settings.include_bos}
    return [name for name in ARRAYS if asked.get(name, True)]


def fixed(about: About, rows: int) -> dict[str, Array]:
    """The arrays that do not grow."""
    return {
        "shape": np.array([rows, about.settings.columns], np.int64),
        "format": np.array(b"csr"),
        "_is_array": np.array(True),
        "about": np.frombuffer(about.as_json().encode(), np.uint8),
    }


def arrays(given: Activations) -> dict[str, Array]:
    """Those that grow."""
    made: dict[str, Array] = {
        "data": given.csr.data,
        "indices": given.csr.indices,
        "indptr": given.csr.indptr,
        "text_numbers": given.text_numbers,
        "text_offsets": given.text_offsets,
        "token_bytes": given.tokens.buffer,
        "token_offsets": given.tokens.offsets,
        "token_ids": given.token_ids,
        "positions": given.positions,
        "starts": given.starts,
        "ends": given.ends,
    }
    if given.about.settings.include_bos:
        made["is_bos"] = given.is_bos
    if given.ids is not None:
        made |= {"id_bytes": given.ids.buffer, "id_offsets": given.ids.offsets}
    return {name: np.ascontiguousarray(array.astype(ARRAYS[name], copy=False)) for name, array in made.items()}


def activations(about: About, given: Mapping[str, Array]) -> Activations:
    """Raises ValueError and KeyError for arrays that do not belong together."""
    rows, texts = len(given["token_ids"]), len(given["text_numbers"])
    for name in names(about):
        expected = {"indptr": rows + 1, "token_offsets": rows + 1, "text_offsets": texts + 1, "id_offsets": texts + 1}
        expected |= {"positions": rows, "is_bos": rows, "starts": rows, "ends": rows}
        if given[name].dtype != ARRAYS[name] or len(given[name]) != expected.get(name, len(given[name])):
            raise ValueError(f"{name} has {len(given[name])} entries of {given[name].dtype}")
    if given["text_offsets"][-1] != rows:
        raise ValueError(f"texts with {given['text_offsets'][-1]} tokens, and {rows} tokens")
    indptr, indices = given["indptr"], given["indices"].view(np.uint32)
    if indptr[0] != 0 or not len(given["data"]) == len(indices) == indptr[-1] or np.any(np.diff(indptr) < 0):
        raise ValueError(f"{len(indices)} indices and {len(given['data'])} values for {indptr[-1]} entries")
    if len(indices) and int(indices.max()) >= about.settings.columns:
        raise ValueError(f"feature {int(indices.max())} of {about.settings.columns}")
    return Activations(
        about=about,
        csr=Csr((rows, about.settings.columns), indptr, indices, given["data"]),
        text_numbers=given["text_numbers"],
        text_offsets=given["text_offsets"],
        ids=Strings(given["id_bytes"], given["id_offsets"]) if about.settings.has_ids else None,
        tokens=Strings(given["token_bytes"], given["token_offsets"]),
        token_ids=given["token_ids"],
        positions=given["positions"],
        is_bos=given["is_bos"] if about.settings.include_bos else np.zeros(rows, np.bool_),
        starts=given["starts"],
        ends=given["ends"],
    )


def concatenate(about: About, parts: list[Activations]) -> Activations:
    """One behind the other, at least one."""
    if len(parts) == 1:
        return parts[0]
    given = [arrays(part) for part in parts]
    made = {}
    for name in names(about):
        following = Following(name)
        made[name] = np.concatenate([following.next(part[name]) for part in given])
    return activations(about, made)


class Following:
    """One array of part after part."""

    def __init__(self, name: str) -> None:
        self._offsets = name in OFFSETS
        self._base: int | None = None

    def next(self, array: Array) -> Array:
        """What this part adds."""
        if not self._offsets:
            return array
        added = array if self._base is None else array[1:] + self._base
        self._base = int(array[-1]) + (self._base or 0)
        return added
