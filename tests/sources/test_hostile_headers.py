"""Headers that lie, over every format of each kind of file: nothing is taken for a lie, neither memory nor time."""

import collections
import io
import json
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from tests.sources.hostile import Family, Victim, copy, first, of_kind, refusal

HUGE = 10**15

Header = dict[str, Any]


def split(path: Path) -> tuple[Header, bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: str | bytes, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else header.encode()
    return len(text).to_bytes(8, "little") + text + body


def main(header: Header) -> Header:
    """The facts of the largest tensor, which is part of every SAE."""
    tensors = [facts for name, facts in header.items() if name != "__metadata__"]
    largest: Header = max(tensors, key=lambda facts: facts["data_offsets"][1] - facts["data_offsets"][0])
    return largest


def setting(**facts: Any) -> Callable[[Header, bytes], bytes]:
    def change(header: Header, body: bytes) -> bytes:
        main(header).update(facts)
        return joined(json.dumps(header), body)

    return change


def moved(by: tuple[int, int]) -> Callable[[Header, bytes], bytes]:
    def change(header: Header, body: bytes) -> bytes:
        begin, end = main(header)["data_offsets"]
        main(header)["data_offsets"] = [begin + by[0], end + by[1]]
        return joined(json.dumps(header), body)

    return change


def adding(name: str, facts: Any) -> Callable[[Header, bytes], bytes]:
    return lambda header, body: joined(json.dumps(header | {name: facts}), body)


def many(header: Header, body: bytes, count: int) -> bytes:
    empty = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
    return joined(json.dumps(header | empty), body)


def twice(header: Header, body: bytes) -> bytes:
    text = json.dumps(header)
    name = next(name for name in header if name != "__metadata__")
    return joined("{" + json.dumps(name) + ": " + json.dumps(header[name]) + ", " + text[1:], body)


SAFETENSORS: dict[str, Callable[[Header, bytes], bytes]] = {
    "length 2^60": lambda header, body: (2**60).to_bytes(8, "little") + json.dumps(header).encode() + body,
    "length 2^64-1": lambda header, body: b"\xff" * 8 + json.dumps(header).encode() + body,
    "length beyond the file": lambda header, body: (10**6).to_bytes(8, "little") + json.dumps(header).encode() + body,
    "length 0": lambda header, body: bytes(8) + body,
    "length 1": lambda header, body: (1).to_bytes(8, "little") + json.dumps(header).encode() + body,
    "many bytes": lambda header, body: joined(json.dumps(header).encode() + b" " * 2**21, body),
    "a megabyte of tensors": lambda header, body: many(header, body, 20_000),
    "thousands of tensors": lambda header, body: many(header, body, 5000),
    "shape of 10^15": setting(shape=[HUGE, 2]),
    "shape that wraps round 2^64": setting(shape=[2**62, 2**62]),
    "shape beyond 64 bits": setting(shape=[10**30]),
    "shape of other product": setting(shape=[7, 5]),
    "negative shape": setting(shape=[-96, -64]),
    "half a number": setting(shape=[96.5, 64]),
    "shape of text": setting(shape="96x64"),
    "shape with a thousand axes": setting(shape=[1] * 1000),
    "unknown type": setting(dtype="F7"),
    "type of other width": setting(dtype="F64"),
    "no type": setting(dtype=None),
    "offsets beyond the file": setting(data_offsets=[0, 2**50]),
    "offsets beyond 64 bits": setting(data_offsets=[0, 2**70]),
    "negative offsets": setting(data_offsets=[-8, 24568]),
    "offsets reversed": setting(data_offsets=[24576, 0]),
    "offsets overlap": moved((-4, -4)),
    "a hole": moved((4, 4)),
    "more behind": lambda header, body: joined(json.dumps(header), body + bytes(64)),
    "less behind": lambda header, body: joined(json.dumps(header), body[:-64]),
    "a name twice": twice,
    "a list": lambda header, body: joined("[]", body),
    "nothing": lambda header, body: joined("{}", body),
    "deep": lambda header, body: joined('{"a":' * 10**5, body),
    "deep metadata": adding("__metadata__", {"a": [[[[]]]]}),
    "a tensor that is text": adding("W", "x" * 10**5),
    "no text": lambda header, body: joined(b'{"\xff\xfe": 1}', body),
    "terminal escapes": adding("\x1b]0;owned\x07\x1b[2J\n", {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
    "a name of a megabyte": adding("W" * 10**6, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_a_header_of_safetensors_that_lies_is_refused(kind: str, tmp_path: Path) -> None:
    for family in of_kind(".safetensors"):
        victim = copy(family, tmp_path / str(family))
        victim.weights.write_bytes(SAFETENSORS[kind](*split(victim.weights)))
        assert refusal(victim).startswith(f"{family.weights}: ")


def test_a_sparse_file_of_a_terabyte_costs_nothing(tmp_path: Path) -> None:
    for family in of_kind(".safetensors", ".npz", ".pt", ".pth"):
        victim = copy(family, tmp_path / str(family))
        with victim.weights.open("r+b") as file:
            file.truncate(2**40)
        assert refusal(victim).startswith(f"{family.weights}: ")


INDEXES: dict[str, tuple[Any, str]] = {
    "a shard that is missing": ({"W_enc": "no.safetensors"}, "weight_map: no.safetensors is missing: fetch"),
    "a shard elsewhere": ({"W_enc": "../other.safetensors"}, "weight_map: expected names of files in the same folder"),
    "an absolute path": ({"W_enc": "/etc/passwd"}, "weight_map: expected names of files in the same folder"),
    "an empty name": ({"W_enc": ""}, "weight_map: expected names of files in the same folder"),
    "the folder above": ({"W_enc": ".."}, "weight_map: .. is missing"),
    "a name with a zero": ({"W_enc": "a\0b"}, r"weight_map: a\x00b is missing"),
    "a table": ({"W_enc": {"file": "a"}}, "weight_map: missing, expected a table from tensors to files"),
    "no table": (None, "weight_map: missing, expected a table from tensors to files"),
    "thousands": ({f"W{i}": "one.safetensors" for i in range(5000)}, "refused: 5000 tensors"),
    "a tensor that is not there": ({"W_enc": "one.safetensors", "b": "one.safetensors"}, "weight_map: "),
    "a tensor left out": ({}, "weight_map: leaves out "),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_an_index_of_shards_that_lies_is_refused(kind: str, tmp_path: Path) -> None:
    for family in of_kind(".safetensors"):
        victim = copy(family, tmp_path / str(family))
        victim.weights.rename(victim.weights.with_name("one.safetensors"))
        listed, message = INDEXES[kind]
        if kind == "a tensor left out":
            names = list(split(victim.weights.with_name("one.safetensors"))[0])
            listed = dict.fromkeys([name for name in names if name != "__metadata__"][1:], "one.safetensors")
        index = victim.weights.with_name(victim.weights.name + ".index.json")
        index.write_text(json.dumps({"weight_map": listed}))
        if family.path == family.weights:
            victim = Victim(
                Family(family.form, f"{family.path}.index.json", family.weights, family.facts), tmp_path / str(family)
            )
        line = refusal(victim)
        assert line.startswith(str(Path(family.weights).parent))
        assert message in line


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


# State dicts: what a pickle may say.


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def whole(value: int) -> bytes:
    data = value.to_bytes(max(1, (value.bit_length() + 8) // 8), "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def row(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def tensor(
    *,
    kind: str = "FloatStorage",
    key: bytes = text("0"),
    count: int = 96,
    offset: int = 0,
    shape: tuple[int, ...] = (96,),
    strides: tuple[int, ...] = (1,),
    function: str = "_rebuild_tensor_v2",
    more: bytes = b"",
) -> bytes:
    """A tensor as torch.save describes it."""
    storage = row(text("storage"), b"ctorch\n" + kind.encode() + b"\n", key, text("cpu"), whole(count)) + b"Q"
    sizes, steps = row(*map(whole, shape)), row(*map(whole, strides))
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n"
        + function.encode()
        + b"\n"
        + row(storage, whole(offset), sizes, steps, b"\x89", hooks, more)
        + b"R"
    )


def table(value: bytes, key: bytes = text("W")) -> bytes:
    return b"\x80\x02}" + key + value + b"s."


def nested(count: int) -> bytes:
    """A tuple of twice a tuple of twice a tuple: hashing or printing it takes forever."""
    return b")" + b"q\x01h\x01\x86" * count


NO_SIZE = b"\x8a\x05" + (2**34).to_bytes(5, "little")
PICKLES: dict[str, bytes] = {
    "gigabytes by a call": table(b"cbuiltins\nbytearray\n" + NO_SIZE + b"\x85R"),
    "a storage by a call": table(b"ctorch\nFloatStorage\n" + NO_SIZE + b"\x85R"),
    "a tensor by a call": table(b"ctorch\nFloatTensor\n" + NO_SIZE + b"\x85\x81"),
    "a key that hashes forever": table(b"K\x01", nested(60)),
    "a value that prints forever": b"\x80\x02}" + text("activation") + nested(60) + b"s" + text("W") + b"K\x01s.",
    "a table that holds itself": b"\x80\x02}q\x01" + text("W") + b"h\x01s.",
    "no table": b"\x80\x02K\x01.",
    "a key that is no name": table(b"K\x01", b"K\x01"),
    "no storage": table(tensor(key=text("7"))),
    "a storage longer than stored": table(tensor(count=97)),
    "a storage shorter than stored": table(tensor(count=95, shape=(95,))),
    "a storage of 10^15": table(tensor(count=HUGE)),
    "a shape of 10^15": table(tensor(shape=(HUGE,))),
    "a shape of 10^15 in one number": table(tensor(shape=(HUGE,), strides=(0,))),
    "a shape that wraps round 2^64": table(tensor(shape=(2**32, 2**32), strides=(0, 0))),
    "a negative shape": table(tensor(shape=(-96,))),
    "a negative stride": table(tensor(strides=(-1,), offset=95)),
    "strides beyond the storage": table(tensor(shape=(2, 2), strides=(95, 1))),
    "an offset beyond the storage": table(tensor(offset=1)),
    "a negative offset": table(tensor(offset=-1)),
    "strides of another rank": table(tensor(strides=(1, 1))),
    "a shape with a thousand axes": table(tensor(shape=(1,) * 1000, strides=(1,) * 1000)),
    "marks": table(tensor(more=b"}" + text("neg") + b"\x88s")),
    "an unknown storage": table(tensor(kind="FlowStorage")),
    "complex numbers": table(tensor(kind="ComplexFloatStorage", count=48, shape=(48,))),
    "quantised numbers": table(tensor(kind="QInt8Storage", count=384, shape=(384,), function="_rebuild_qtensor")),
    "a sparse tensor": table(b"ctorch._utils\n_rebuild_sparse_tensor\n" + row(b"N", b"N") + b"R"),
    "a meta tensor": table(b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n" + row(b"N", b"N", b"N", b"N") + b"R"),
    "instructions of other pickles": b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.",
    "an instruction without its numbers": b"\x80\x02}X\xff\xff\xff\x7f.",
    "what was never kept": b"\x80\x02}h\x09.",
    "an empty stack": b"\x80\x02s.",
    "no end": b"\x80\x02" + b"]" * 2**15,
    "very many lists": b"\x80\x02" + b"]" * (2**16 - 3) + b".",
    "very many marks": b"\x80\x02" + b"(" * (2**16 - 3) + b".",
    "a deep tuple": b"\x80\x02)" + b"\x85" * (2**16 - 4) + b".",
    "a megabyte": b"\x80\x02" + text("x" * 2**20) + b".",
    "terminal escapes": b"\x80\x02c\x1b[2J\nos\x07\n)R.",
}


def archive(path: Path, pickled: bytes, **more: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in ({"data.pkl": pickled, "byteorder": b"little", "data/0": bytes(384)} | more).items():
            file.writestr(f"archive/{name}", data)


def legacy(
    path: Path, pickled: bytes, *, keys: bytes = b"](" + text("0") + b"e.", counts: tuple[int, ...] = (96,)
) -> None:
    begin = (
        b"\x80\x02"
        + whole(0x1950A86A20F9469CFC6C)
        + b".\x80\x02M\xe9\x03.\x80\x02}"
        + text("little_endian")
        + b"\x88s."
    )
    storages = b"".join(struct.pack("<q", count) + bytes(384) for count in counts)
    path.write_bytes(begin + pickled + b"\x80\x02" + keys + storages)


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("write", [archive, legacy])
def test_a_table_of_a_state_dict_that_lies_is_refused(write: Callable[..., None], kind: str, tmp_path: Path) -> None:
    for family in of_kind(".pt", ".pth")[: 1 if len(PICKLES[kind]) > 2**14 else None]:
        victim = copy(family, tmp_path / str(family))
        write(victim.weights, PICKLES[kind])
        assert refusal(victim).startswith(f"{family.weights}: ")


def test_the_tables_above_are_refused_for_what_is_wrong_in_them_alone(tmp_path: Path) -> None:
    for write in (archive, legacy):
        victim = copy(of_kind(".pth")[0], tmp_path)
        write(victim.weights, table(tensor()))
        assert "encoder_linear.weight: missing" in refusal(victim) or "encoder.weight: missing" in refusal(victim)


ARCHIVES: dict[str, dict[str, bytes]] = {
    "numbers of another byte order": {"byteorder": b"big"},
    "no numbers": {"data/0": b""},
    "fewer numbers": {"data/0": bytes(380)},
    "more numbers": {"data/0": bytes(388)},
    "two tables": {"inner/data.pkl": table(tensor())},
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_of_a_state_dict_that_lies_is_refused(kind: str, tmp_path: Path) -> None:
    for family in of_kind(".pt", ".pth"):
        victim = copy(family, tmp_path / str(family))
        archive(victim.weights, table(tensor()), **ARCHIVES[kind])
        line = refusal(victim)
        assert line.startswith(f"{family.weights}: ")
        assert ": missing" not in line


LEGACY: dict[str, dict[str, Any]] = {
    "more numbers than there are": {"counts": (97,)},
    "numbers of 10^15": {"counts": (HUGE,)},
    "less than no numbers": {"counts": (-1,)},
    "no numbers": {"counts": ()},
    "no keys": {"keys": b"]."},
    "keys that are no list": {"keys": b"N."},
    "keys that nobody knows": {"keys": b"](" + text("5") + b"e."},
    "keys that are no names": {"keys": b"](K\x05e."},
}


@pytest.mark.parametrize("kind", LEGACY)
def test_storages_of_an_old_state_dict_that_lie_are_refused(kind: str, tmp_path: Path) -> None:
    for family in of_kind(".pt", ".pth"):
        victim = copy(family, tmp_path / str(family))
        legacy(victim.weights, table(tensor()), **LEGACY[kind])
        line = refusal(victim)
        assert line.startswith(f"{family.weights}: ")
        assert "missing" not in line


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", of_kind(".pt", ".pth"), ids=str)
def test_odd_tensors_of_torch_itself_are_refused(family: Family, tmp_path: Path) -> None:
    victim = copy(family, tmp_path)
    whole_file = victim.tensors()
    name, plain = first(whole_file)
    square = torch.eye(8)
    for odd in (
        torch.zeros(1).expand(plain.shape),
        torch.empty(plain.shape, device="meta"),
        square.to_sparse(),
        square.to_sparse_csr(),
        torch.quantize_per_tensor(square, 0.1, 0, torch.qint8),
        square.to(torch.complex64),
        square.to(torch.float8_e4m3fn),
    ):
        torch.save(whole_file | {name: odd}, victim.weights)
        assert refusal(victim).startswith(f"{family.weights}: ")


@pytest.mark.parametrize("family", of_kind(".pt", ".pth"), ids=str)
@pytest.mark.parametrize("old", [False, True])
def test_state_dicts_however_torch_writes_them_are_read_alike(family: Family, old: bool, tmp_path: Path) -> None:
    victim = copy(family, tmp_path)
    plain = victim.read()
    state = victim.tensors()
    x = torch.randn(5, plain.d_in)
    shared = torch.cat([value.flatten().float() for value in state.values() if isinstance(value, torch.Tensor)])
    views, position = {}, 0
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            piece = shared[position : position + value.numel()].view(value.shape)
            views[name] = piece if value.is_floating_point() else value
            position += value.numel()
    turned = {
        name: value.t().contiguous().t() if isinstance(value, torch.Tensor) and value.ndim == 2 else value
        for name, value in state.items()
    }
    parameters = {
        name: torch.nn.Parameter(value) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in state.items()
    }
    for other in (state | views, turned, parameters, collections.OrderedDict(state)):
        torch.save(other, victim.weights, _use_new_zipfile_serialization=not old)
        assert torch.equal(victim.read().encode(x), plain.encode(x))
    named = torch.nn.Module()
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and "." not in name:
            named.register_buffer(name, value)
    kept = collections.OrderedDict(state)
    kept._metadata = named.state_dict()._metadata  # type: ignore[attr-defined]
    torch.save(kept, victim.weights, _use_new_zipfile_serialization=not old)
    assert torch.equal(victim.read().encode(x), plain.encode(x))
