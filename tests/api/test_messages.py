"""Fields are counted on the wire as parsing would make them, and no further than to the limit."""

from __future__ import annotations

from typing import Any, cast

import pytest
from google.protobuf.internal.encoder import _VarintBytes
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from saeserve.v1 import feature_service_pb2 as service
from saeserve_server.api.messages import count_fields, forgiving, parse
from saeserve_server.errors import InvalidArgument
from saeserve_server.serving.limits import MAX_FIELDS, MAX_REQUEST_BYTES

PLENTY = 10**9
SEARCH = service.SearchRequest.DESCRIPTOR
KINDS = [service.SearchRequest, service.EncodeRequest, service.EncodeStreamRequest, service.TokenizeRequest]


def count(data: bytes, most: int = PLENTY) -> int:
    return count_fields(data, SEARCH, most)


def parsed_fields(message: Message) -> int:
    """Fields of a parsed message and of those in it: an entry each where they are repeated, once where packed."""
    found = unknown_fields(UnknownFieldSet(message))
    for field, value in message.ListFields():
        entries = list(value) if field.is_repeated else [value]
        found += 1 if field.is_packed else len(entries)
        if field.message_type is not None:
            found += sum(map(parsed_fields, entries))
    return found


def unknown_fields(fields: Any) -> int:
    """Those that the descriptor does not name; of a group its two ends, and what is in it."""
    return sum(1 if one.wire_type != 3 else 2 + unknown_fields(one.data) for one in fields)


def scalars(field: Any) -> st.SearchStrategy[Any]:
    """Values of a field that is no message, none of which is the default."""
    kinds = {
        field.CPPTYPE_STRING: st.text(min_size=1, max_size=20),
        field.CPPTYPE_BOOL: st.just(True),
        field.CPPTYPE_FLOAT: st.just(0.25),
        field.CPPTYPE_DOUBLE: st.just(0.25),
        field.CPPTYPE_ENUM: st.integers(1, 200),
    }
    return kinds.get(field.cpp_type, st.integers(1, 2**31 - 1))


@st.composite
def filled(draw: st.DrawFn, kind: Any) -> Any:
    """A message with any of its fields, to any depth."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        one = filled(type_of(message, field)) if field.message_type is not None else scalars(field)
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(one, max_size=4)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(one))
        else:
            setattr(message, field.name, draw(one))
    return message


def type_of(message: Any, field: Any) -> Any:
    """The class of a field's messages."""
    value = getattr(message, field.name)
    return type(value.add()) if field.is_repeated else type(value)


@given(st.sampled_from(KINDS).flatmap(filled))
def test_what_is_counted_is_what_is_parsed(message: Message) -> None:
    data = message.SerializeToString()
    assert count_fields(data, message.DESCRIPTOR, PLENTY) == parsed_fields(type(message).FromString(data))


@given(
    st.sampled_from(KINDS).flatmap(filled),
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=6))),
)
def test_nothing_that_can_be_parsed_has_more_than_was_counted(
    message: Message, kind: Any, changes: list[tuple[int, bytes]]
) -> None:
    """Whatever bytes they are: cut, overwritten, or another method's."""
    data = message.SerializeToString()
    for place, piece in changes:
        data = data[:place] + piece + data[place + len(piece) // 2 :]
    counted = count_fields(data, kind.DESCRIPTOR, PLENTY)
    assert counted <= len(data)
    try:
        parsed = kind.FromString(data)
    except DecodeError:
        return
    assert counted >= parsed_fields(parsed)


def test_by_hand() -> None:
    assert count(b"") == 0
    assert count(b"\x0a\x01m") == 1  # model
    assert count(b"\x12\x05\x0a\x03red") == 2  # input, and its text
    assert count(b"\x1a\x08\x0a\x06" + b"\x2a\x00" * 3) == 2 + 3  # filter, include, three features
    assert count(b"\x1a\x05\x0a\x03\x0a\x01\x01") == 3  # packed kinds count once
    assert count(b"\x1a\x06\x0a\x04\x08\x01\x08\x01") == 4  # and each where they are not packed


def test_what_the_descriptor_does_not_name_counts_too() -> None:
    unknown = [b"\xf8\x07\x01", b"\xf9\x07" + bytes(8), b"\xfd\x07" + bytes(4), b"\xfa\x07\x02\x0a\x00"]
    assert count(b"".join(unknown)) == 4
    assert count(b"\xfb\x07\x08\x01\x08\x01\xfc\x07") == 4  # a group with two fields


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\xff", b"\x08\xff\xff", b"\x0a\x7f", b"\x80" * 20, b"\x0e\x00", b"\x12\x7f\x0a\x7f", b"\xf9\x07"],
)
def test_what_is_cut_or_no_protobuf_ends_the_count(data: bytes) -> None:
    assert count(data) <= len(data)
    with pytest.raises(InvalidArgument, match="cannot be parsed") as caught:
        parse(data, service.SearchRequest, MAX_REQUEST_BYTES, MAX_FIELDS)
    assert caught.value.reason == "MALFORMED_REQUEST"


SIZE = MAX_REQUEST_BYTES - 64
BOMBS = {
    "features": lambda: selecting(b"\x2a\x03\x10\x80\x01" * (SIZE // 5)),
    "kinds that are not packed": lambda: selecting(b"\x08\x01" * (SIZE // 2)),
    "sort tokens": lambda: b"\x22\x00" * (SIZE // 2),
    "unknown": lambda: b"\xf8\x07\x01" * (SIZE // 3),
    "groups": lambda: b"\xfb\x07\xfc\x07" * (SIZE // 4),
    "one field again and again": lambda: b"\x0a\x00" * (SIZE // 2),
}
"""As large as a message may be, and as many fields as fit."""


def selecting(selector: bytes) -> bytes:
    """A search whose filter includes that."""
    inner = b"\x0a" + _VarintBytes(len(selector)) + selector
    return b"\x1a" + _VarintBytes(len(inner)) + inner


class NeverParsed:
    """A search whose parsing is a failure."""

    DESCRIPTOR = SEARCH

    @staticmethod
    def FromString(data: bytes) -> Message:
        raise AssertionError(f"{len(data)} bytes were parsed")


@pytest.mark.parametrize("name", BOMBS)
def test_a_message_of_millions_of_fields_is_refused_before_it_is_parsed(name: str) -> None:
    data = BOMBS[name]()
    assert count(data, 1000) == 1001  # no further
    with pytest.raises(InvalidArgument, match=f"more than {MAX_FIELDS} fields") as caught:
        parse(data, cast("type[Message]", NeverParsed), MAX_REQUEST_BYTES, MAX_FIELDS)
    assert caught.value.reason == "REQUEST_TOO_LARGE"


def test_a_message_that_is_too_large_for_its_method_is_not_looked_at() -> None:
    with pytest.raises(InvalidArgument, match="1001 bytes; at most 1000 are taken by this method") as caught:
        parse(b"\xff" * 1001, service.SearchRequest, 1000, MAX_FIELDS)
    assert caught.value.reason == "REQUEST_TOO_LARGE"


def test_services_that_are_not_ours_get_errors_instead_of_what_cannot_be_parsed() -> None:
    read = forgiving(service.TokenizeRequest.FromString, 100)
    assert read is not None
    assert read(b"") == service.TokenizeRequest()
    assert read(b"\xff" * 101).reason == "REQUEST_TOO_LARGE"
    assert read(b"\xff").reason == "MALFORMED_REQUEST"
    assert forgiving(None, 100) is None
