"""Headers of safetensors and indexes of shards that lie: nothing is taken for a lie, neither memory nor time."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sources.hostile import Family, Victim, copy, of_kind, refusal

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
