"""Requests out of bytes: measured and counted before they are parsed, and parsed before any handler sees them.

A message that cannot be parsed never reaches an aio handler of grpc, which answers UNKNOWN with the exception's text.
So gRPC hands on bytes, and what is wrong with them becomes an error of ours. A message of megabytes may be a million
fields, each of which becomes an object when it is looked at: they are counted first, by walking over their lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from saeserve_server.errors import InvalidArgument

COUNTED_BYTES = 16 * 1024
"""Smaller messages are not counted: their fields are few."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MALFORMED = "the message cannot be parsed as the method's request"


def parse(data: bytes, request: type[Message], most_bytes: int, most_fields: int) -> Any:
    """The request. Raises InvalidArgument for one that is too large, has too many fields, or cannot be parsed."""
    if len(data) > most_bytes:
        raise InvalidArgument(
            f"the message takes {len(data)} bytes; at most {most_bytes} are taken by this method",
            reason="REQUEST_TOO_LARGE",
        )
    if len(data) > COUNTED_BYTES and count_fields(data, request.DESCRIPTOR, most_fields) > most_fields:
        raise InvalidArgument(
            f"the message has more than {most_fields} fields (token ids count once if they are packed, as they are by "
            "default)",
            reason="REQUEST_TOO_LARGE",
        )
    try:
        return request.FromString(data)
    except Exception as error:  # DecodeError, or whatever the protobuf runtime raises
        raise InvalidArgument(_MALFORMED, reason="MALFORMED_REQUEST") from error


def count_fields(data: bytes, descriptor: Any, most: int) -> int:
    """Fields of a message and of those in it, known or not, by its descriptor; stops once there are more than `most`.

    What is malformed ends the count: parsing will say so.
    """
    count = 0
    waiting: list[tuple[int, int, Any]] = [(0, len(data), descriptor)]
    try:
        while waiting:
            place, end, kind = waiting.pop()
            known = kind.fields_by_number
            while place < end:
                count += 1
                if count > most:
                    return count
                key, place = _varint(data, place)
                wire = key & 7
                if wire == _LENGTH:
                    size, place = _varint(data, place)
                    field = known.get(key >> 3)
                    if field is not None and field.message_type is not None:
                        waiting.append((place, min(place + size, end), field.message_type))
                    place += size
                elif wire == _VARINT:
                    _, place = _varint(data, place)
                elif wire in (_FIXED32, _FIXED64):
                    place += 4 if wire == _FIXED32 else 8
                elif wire > _FIXED32:
                    break  # no protobuf
                # else the begin or end of a group, which is no field of ours: what is in it counts here
    except IndexError:
        pass
    return count


def _varint(data: bytes, place: int) -> tuple[int, int]:
    byte = data[place]
    if byte < 0x80:
        return byte, place + 1
    value, shift = byte & 0x7F, 7
    while shift < 70:
        place += 1
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise IndexError


def forgiving(deserializer: Callable[[bytes], Any] | None, most_bytes: int) -> Callable[[bytes], Any] | None:
    """The deserialiser of a service that is not ours: an error instead of a message that cannot be parsed."""
    if deserializer is None:
        return None

    def deserialize(data: bytes) -> Any:
        if len(data) > most_bytes:
            return InvalidArgument(
                f"the message takes {len(data)} bytes; at most {most_bytes} are taken", reason="REQUEST_TOO_LARGE"
            )
        try:
            return deserializer(data)
        except Exception:  # noqa: BLE001 (DecodeError, or whatever the protobuf runtime raises)
            return InvalidArgument(_MALFORMED, reason="MALFORMED_REQUEST")

    return deserialize
