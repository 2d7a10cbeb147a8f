"""State dicts that lie, `.pt` and `.pth`: pickles are never run, and no tensor has numbers that are not its own."""

import collections
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.sources.hostile import Family, copy, first, of_kind, refusal

HUGE = 10**15


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
    expected = plain.encode(x)  # before its file is written to
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
        assert torch.equal(victim.read().encode(x), expected)
    named = torch.nn.Module()
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and "." not in name:
            named.register_buffer(name, value)
    kept = collections.OrderedDict(state)
    kept._metadata = named.state_dict()._metadata  # type: ignore[attr-defined]
    torch.save(kept, victim.weights, _use_new_zipfile_serialization=not old)
    assert torch.equal(victim.read().encode(x), expected)
