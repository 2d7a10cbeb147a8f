"""Activations as `.npz`, which NumPy reads without this package, and of it SciPy the activations. Not compressed.

`scipy.sparse.load_npz` gives the `csr_array` [tokens, features]. `arrays.py` has the other arrays; texts are bytes of
UTF-8 and offsets into them, and `about` is JSON.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from saeserve.files.activations import Activations
from saeserve.files.arrays import ARRAYS, Array, Following, activations, fixed, names
from saeserve.files.settings import About

_DATE = (1980, 1, 1, 0, 0, 0)
"""The same bytes for the same contents."""


def write(file: BinaryIO, about: About, pieces: Callable[[str], Iterable[Array]], lengths: Mapping[str, int]) -> None:
    """One array after the other, a piece at a time.

    pieces: of an array those of all parts, in order.
    lengths: of each array as a whole.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in fixed(about, lengths["token_ids"]).items():
            with _member(archive, name, array.dtype, array.shape) as member:
                member.write(array.tobytes())
        for name in names(about):
            following = Following(name)
            with _member(archive, name, ARRAYS[name], (lengths[name],)) as member:
                for piece in pieces(name):
                    member.write(np.ascontiguousarray(following.next(piece)).data.cast("B"))


def _member(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> IO[bytes]:
    member = archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True)
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(member, header)
    return member


def described(path: str | PathLike[str]) -> About:
    """What it says of itself. Raises ValueError, as `read` does."""
    with _opened(path) as given:
        return About.from_json(given["about"].tobytes())


def lengths(path: str | PathLike[str]) -> dict[str, int]:
    """How long its arrays are that grow with the texts, read from their headers."""
    made = {}
    with _opened(path), zipfile.ZipFile(path) as archive:
        for name in ARRAYS:
            if f"{name}.npy" in archive.namelist():
                with archive.open(f"{name}.npy") as member:
                    npy.read_magic(member)
                    made[name] = int(npy.read_array_header_1_0(member)[0][0])
    return made


def array(path: str | PathLike[str], name: str) -> Array:
    """One of its arrays. Raises ValueError, as `read` does."""
    with _opened(path) as given:
        return given[name]


def read(path: str | PathLike[str]) -> Activations:
    """Raises ValueError for an `.npz` that is none of ours, or damaged."""
    with _opened(path) as given:
        about = About.from_json(given["about"].tobytes())
        found: dict[str, Array] = {name: given[name] for name in names(about)}
        return activations(about, found)


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[Mapping[str, Array]]:
    try:
        with zipfile.ZipFile(path):  # np.load would take anything else for a pickle, and say so
            pass
        with np.load(path, allow_pickle=False) as given:
            if "about" not in given:
                raise ValueError("it has no description by saeserve")
            yield given
    except (zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ValueError(f"no .npz file, or a damaged one: {error}") from error
