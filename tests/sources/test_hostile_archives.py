"""Archives and arrays that lie, `.npz` and the outside of `.pt`: nothing is unpacked for a lie, and none believed."""

import io
import struct
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from tests.sources.hostile import Family, copy, of_kind, refusal

HUGE = 10**15


def array(shape: str = "(96,)", descr: str = "'<f4'", order: str = "False", body: bytes = bytes(384)) -> bytes:
    """An npy file with such words in its header."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return npy.MAGIC_PREFIX + b"\x01\x00" + struct.pack("<H", len(text)) + text + body


def objects() -> bytes:
    stream = io.BytesIO()
    npy.write_array(stream, np.array([{"a": 1}] * 96, dtype=object), allow_pickle=True)
    return stream.getvalue()


def long_header(size: int) -> bytes:
    return npy.MAGIC_PREFIX + b"\x02\x00" + struct.pack("<I", size) + b"{" * 10**5


NPY: dict[str, bytes] = {
    "shape of 10^15": array(shape=f"({HUGE},)"),
    "shape that wraps round 2^64": array(shape="(4294967296, 4294967296)"),
    "shape beyond 64 bits": array(shape=f"({10**40},)"),
    "negative shape": array(shape="(-8, -12)"),
    "shape of other product": array(shape="(95,)"),
    "half a number": array(shape="(96.0,)"),
    "shape of text": array(shape="'96'"),
    "deep shape": array(shape="(" * 3000 + ")" * 3000),
    "shape of a million sums": array(shape="(" + "1+" * 3000 + "1,)"),
    "shape of a great power": array(shape="(9**9**9,)"),
    "code": array(shape="(__import__('os').getpid(),)"),
    "not closed": array(shape="((96,)"),
    "objects": objects(),
    "objects by name": array(descr="'|O'"),
    "text": array(descr="'<U1'"),
    "bytes": array(descr="'|S4'"),
    "nothing wide": array(descr="'|V0'"),
    "records": array(descr="[('a', '<f4')]"),
    "deep records": array(descr="[('a', " * 90 + "'<f4'" + ")]" * 90),
    "complex": array(descr="'<c8'", shape="(48,)"),
    "dates": array(descr="'<M8[s]'", shape="(48,)"),
    "unknown type": array(descr="'<q9'"),
    "no magic": b"hello" * 100,
    "version 9": npy.MAGIC_PREFIX + b"\x09\x00" + bytes(400),
    "long header": long_header(10**5),
    "header of 4 GB": long_header(2**32 - 1),
    "nothing": b"",
    "half a header": array()[:20],
    "half a number behind": array(body=bytes(383)),
}


@pytest.mark.parametrize("name", ["threshold", "unknown"])
@pytest.mark.parametrize("kind", NPY)
def test_a_header_of_an_array_that_lies_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    victim = copy(of_kind(".npz")[0], tmp_path)
    others = {f"{key}.npy": data for key, data in members(victim.weights).items() if key != "threshold"}
    with zipfile.ZipFile(victim.weights, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in (others | {f"{name}.npy": NPY[kind]}).items():
            archive.writestr(member, data)
    line = refusal(victim)
    assert line.startswith(f"{victim.family.weights}: {name}: ")


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}


def test_arrays_of_either_order_and_byte_order_are_read_alike(tmp_path: Path) -> None:
    victim = copy(of_kind(".npz")[0], tmp_path)
    plain = victim.read()
    arrays = {name: tensor.numpy() for name, tensor in victim.tensors().items()}
    x = torch.randn(5, plain.d_in)
    for other in (
        {name: np.asfortranarray(array) for name, array in arrays.items()},
        {name: array.astype(">f4") for name, array in arrays.items()},
        {name: array.astype("<f8") for name, array in arrays.items()},
    ):
        np.savez(victim.weights, **other)
        assert torch.equal(victim.read().encode(x), plain.encode(x))
    np.savez_compressed(victim.weights, **arrays)
    assert torch.equal(victim.read().encode(x), plain.encode(x))


def patched(path: Path, name: str, *, field: int, value: bytes) -> None:
    """Changes a field of a member's entry in the directory of a zip archive."""
    data = bytearray(path.read_bytes())
    place = data.find(b"PK\x01\x02")
    while data[place + 46 : place + 46 + len(name)] != name.encode():
        place = data.find(b"PK\x01\x02", place + 1)
    data[place + field : place + field + len(value)] = value
    path.write_bytes(data)


METHOD, FLAGS, CRC, STORED, SIZE, OFFSET = 10, 8, 16, 20, 24, 42
ENTRIES: dict[str, list[tuple[int, bytes]]] = {
    "stored 4 GB": [(STORED, struct.pack("<I", 2**32 - 2)), (SIZE, struct.pack("<I", 2**32 - 2))],
    "unpacks to 4 GB": [(SIZE, struct.pack("<I", 2**32 - 2))],
    "begins beyond the file": [(OFFSET, struct.pack("<I", 2**31))],
    "begins elsewhere": [(OFFSET, struct.pack("<I", 5))],
    "locked": [(FLAGS, struct.pack("<H", 1))],
    "packed in an unknown way": [(METHOD, struct.pack("<H", 77))],
    "said to be deflated": [(METHOD, struct.pack("<H", zipfile.ZIP_DEFLATED))],
    "said to be bzip2": [(METHOD, struct.pack("<H", zipfile.ZIP_BZIP2))],
    "said to be lzma": [(METHOD, struct.pack("<H", zipfile.ZIP_LZMA))],
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_directory_that_lies_is_refused(kind: str, tmp_path: Path) -> None:
    for family in of_kind(".npz", ".pt", ".pth"):
        victim = copy(family, tmp_path / str(family))
        if not zipfile.is_zipfile(victim.weights):
            victim.write(victim.tensors())
        with zipfile.ZipFile(victim.weights) as archive:
            name = next(name for name in archive.namelist() if name.endswith(("/data/0", "W_enc.npy")))
        for field, value in ENTRIES[kind]:
            patched(victim.weights, name, field=field, value=value)
        assert refusal(victim).startswith(f"{family.weights}: ")


def test_wrong_bytes_of_an_array_are_found_by_their_sum(tmp_path: Path) -> None:
    victim = copy(of_kind(".npz")[0], tmp_path)
    patched(victim.weights, "W_enc.npy", field=CRC, value=b"abcd")
    assert "W_enc: truncated or damaged: fetch it again (Bad CRC-32" in refusal(victim)


@cache
def bomb(name: str) -> bytes:
    """An archive with a member of 32 MiB of zeros, of which a thousandth is stored."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, array(shape=f"({2**23},)", body=bytes(2**25)))
    return stream.getvalue()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    for family in of_kind(".npz", ".pt", ".pth"):
        victim = copy(family, tmp_path / str(family))
        for name in ("W_enc.npy", "archive/data.pkl", "archive/data/0"):
            victim.weights.write_bytes(bomb(name))
            assert ": refused: " in refusal(victim)
            with zipfile.ZipFile(victim.weights, "w", zipfile.ZIP_DEFLATED) as archive:  # one inside another
                archive.writestr(name, bomb(name))
            assert refusal(victim).startswith(f"{family.weights}: ")


@pytest.mark.parametrize("family", of_kind(".npz", ".pt", ".pth"), ids=str)
def test_an_archive_of_very_many_members_is_not_listed(family: Family, tmp_path: Path) -> None:
    victim = copy(family, tmp_path)
    for count, message in ((30_000, "refused: a directory of "), (5000, "refused: 5000 tensors")):
        entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 5) + bytes(16)
        directory = b"".join(entry + b"%05d" % i for i in range(count))
        end = b"PK\x05\x06" + bytes(8) + struct.pack("<II", len(directory), 30) + bytes(2)
        victim.weights.write_bytes(b"PK\x03\x04" + bytes(26) + directory + end)
        assert message in refusal(victim)


@pytest.mark.parametrize("family", of_kind(".npz", ".pt", ".pth"), ids=str)
def test_a_member_that_stands_twice_is_refused(family: Family, tmp_path: Path) -> None:
    victim = copy(family, tmp_path)
    if not zipfile.is_zipfile(victim.weights):
        victim.write(victim.tensors())
    with zipfile.ZipFile(victim.weights, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith(("/data/0", "W_enc.npy")))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, b"")
    assert "stands in the archive twice" in refusal(victim)


def test_a_sparse_file_of_a_terabyte_costs_nothing(tmp_path: Path) -> None:
    for family in of_kind(".safetensors", ".npz", ".pt", ".pth"):
        victim = copy(family, tmp_path / str(family))
        with victim.weights.open("r+b") as file:
            file.truncate(2**40)
        assert refusal(victim).startswith(f"{family.weights}: ")
