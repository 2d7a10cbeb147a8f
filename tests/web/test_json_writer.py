"""The own writer of JSON says what MessageToDict says, of every type and whatever stands in it."""

from __future__ import annotations

import json
import math
import random
import string
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from saeserve.answers import json_writer
from saeserve.answers.as_json import as_json
from saeserve.answers.json_writer import json_text
from saeserve.answers.shortest import float32, shortest
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire

KINDS = [kind for file in (service, wire) for kind in file.DESCRIPTOR.message_types_by_name.values()]
BUFFERS = ("saeserve.v1.SparseActivations", "saeserve.v1.DenseActivations")
FLOATS = [0.0, -0.0, 0.1, 1e-30, 3.4e38, -7.25, 16777217.0, math.nan, math.inf, -math.inf, 1 / 3, 1e10, 123456.79]
NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: [0, 1, -(2**31), 2**31 - 1],
    FieldDescriptor.CPPTYPE_UINT32: [0, 7, 2**32 - 1],
    FieldDescriptor.CPPTYPE_INT64: [0, -(2**63), 2**63 - 1],
    FieldDescriptor.CPPTYPE_UINT64: [0, 2**64 - 1],
    FieldDescriptor.CPPTYPE_FLOAT: FLOATS,
    FieldDescriptor.CPPTYPE_DOUBLE: [*FLOATS, 1e308, 5e-324],
    FieldDescriptor.CPPTYPE_BOOL: [False, True],
}
TEXTS = ["", "a", 'say "no"\\', "\u2028\u0000\x7f\n\t", "ⵣ🎈", "</script>", "\ufeff"]


def fill(message, chance: random.Random, share: float, depth: int = 0) -> None:
    """Put values into a share of the fields."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() > share or depth > 6:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in chance.sample(TEXTS, 3):
                getattr(message, field.name)[key] = chance.choice(TEXTS)
        elif field.full_name.startswith(BUFFERS) and field.type == FieldDescriptor.TYPE_BYTES:
            continue  # made to fit below
        elif field.message_type is not None:
            if field.message_type.full_name == "google.rpc.Status":
                message.error.CopyFrom(status_pb2.Status(code=5, message="no"))
            elif field.is_repeated:
                for _ in range(chance.randrange(3)):
                    fill(getattr(message, field.name).add(), chance, share, depth + 1)
            else:
                getattr(message, field.name).SetInParent()
                fill(getattr(message, field.name), chance, share, depth + 1)
        elif field.is_repeated:
            many = 300 if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT and chance.random() < 0.3 else 4
            getattr(message, field.name).extend([value(field, chance) for _ in range(chance.randrange(many))])
        else:
            setattr(message, field.name, value(field, chance))
    if message.DESCRIPTOR.full_name in BUFFERS:
        fit(message, chance)


def value(field, chance):
    if field.enum_type is not None:
        return chance.choice([*field.enum_type.values_by_number, 99])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.choice([b"", b"\xff\x00", b" red"])
    if field.type == FieldDescriptor.TYPE_STRING:
        return chance.choice([*TEXTS, "".join(chance.choices(string.printable, k=9))])
    return chance.choice(NUMBERS[field.cpp_type])


def fit(message, chance):
    """Buffers that belong together."""
    rows, columns = chance.choice([(0, 0), (1, 1), (2, 200), (3, 7), (1, 9000)])
    dense = np.where(np.random.default_rng(chance.randrange(99)).random((rows, columns)) < 0.5, 0, 0.1)
    dense = (dense * chance.choice([1, 3.7, 1e-9, 1e12])).astype("<f4")
    message.rows, message.columns = rows, columns
    if message.DESCRIPTOR.full_name == BUFFERS[1]:
        message.data = dense.tobytes()
        return
    message.indptr = np.concatenate([[0], np.cumsum((dense > 0).sum(1))]).astype("<i8").tobytes()
    message.indices = np.nonzero(dense)[1].astype("<u4").tobytes()
    message.data = dense[dense > 0].tobytes()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_it_says_what_message_to_dict_says(kind):
    if kind.name in ("SparseActivations", "DenseActivations", "EncodeChunk"):
        return  # within EncodeResponse and EncodeStreamResponse
    chance = random.Random(kind.full_name)
    for share in (0.0, 1.0, *[0.6] * 20):
        message = GetMessageClass(kind)()
        fill(message, chance, share)
        if kind.name == "EncodeStreamResponse":
            assert json.loads(json_text(message)) == streamed(message)
        else:
            assert json.loads(json_text(message)) == as_json(message)


def streamed(message):
    """By way of an EncodeResponse, whose buffers as_json knows."""
    found = as_json(message)
    if message.HasField("chunk"):
        whole = service.EncodeResponse()
        if message.chunk.HasField("sparse"):
            whole.sparse.append(message.chunk.sparse)
            found["chunk"]["sparse"] = as_json(whole)["sparse"][0]
        elif message.chunk.HasField("dense"):
            whole.dense.CopyFrom(message.chunk.dense)
            found["chunk"]["dense"] = as_json(whole)["dense"]
    return found


def test_every_type_was_tried_with_every_field():
    """What the test above fills, it fills: a writer that forgot a field would be seen."""
    chance = random.Random(1)
    for kind in KINDS:
        names: set[str] = set()
        for _ in range(40):
            message = GetMessageClass(kind)()
            fill(message, chance, 1.0)
            names |= {field.name for field, _ in message.ListFields()}
        choices = {field.name for one in kind.oneofs if not one.name.startswith("_") for field in one.fields}
        assert {field.name for field in kind.fields} - names <= choices, kind.name


def test_a_writer_is_known_to_other_threads_only_when_it_is_whole(monkeypatch):
    begun, value_of = threading.Event(), json_writer._value

    def slow(*args):
        begun.set()
        time.sleep(0.02)
        return value_of(*args)

    monkeypatch.setattr(json_writer, "_writers", {})
    monkeypatch.setattr(json_writer, "_value", slow)
    message = service.SearchResponse(tokens=[wire.Token(id=1, piece=b"a")])
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(json_text, message)
        assert begun.wait(10)
        second = pool.submit(json_text, message)
        assert json.loads(first.result()) == json.loads(second.result()) == as_json(message)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=50))
def test_float32_are_written_short_and_read_back_the_same(values):
    array = np.array(values, np.float32)
    for one, text in zip(array, map(repr, shortest(array)), strict=True):
        assert np.float32(float(text)) == one
        assert len(text) <= len(repr(float(str(one)))) + 1
    for one in array:
        assert np.float32(float(float32(float(one)))) == one
