"""Protobuf's wire format, for messages whose parts are serialised once and joined for each answer.

Keys come from the descriptors. What is joined must stand in the order of its numbers, without what is 0 or empty: then
the bytes are those of protobuf's own serialiser, which the tests hold them to.
"""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIRES = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_BYTES: _LENGTH,
    FieldDescriptor.TYPE_STRING: _LENGTH,
    FieldDescriptor.TYPE_MESSAGE: _LENGTH,
}


def key(message: type[Message], name: str) -> bytes:
    """What stands before a field's value, or before all values of a repeated field of numbers, which is packed."""
    field = message.DESCRIPTOR.fields_by_name[name]
    wire = _LENGTH if field.is_packed else _WIRES.get(field.type, _VARINT)
    return varint(field.number << 3 | wire)


def varint(value: int) -> bytes:
    """A number that is not negative."""
    return _SHORT[value] if value < len(_SHORT) else _long(value)


def sized(body: bytes) -> bytes:
    """A message, text or packed numbers, led by its length."""
    return varint(len(body)) + body


def _long(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_SHORT = tuple(_long(value) for value in range(2**12))
"""Most lengths, places and offsets."""
