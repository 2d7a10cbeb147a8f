"""From JSON to messages, with the path of the field that is wrong."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from saeserve.web.problems import Refused, malformed

M = TypeVar("M", bound=Message)
T = TypeVar("T")

_SMALL = 64 * 1024
"""Bytes that are read on the event loop, in some milliseconds."""

_FAILURES = (json_format.ParseError, RecursionError, ValueError, TypeError, AttributeError, OverflowError)
"""What ParseDict raises, of kinds of values too that it does not expect."""
_LONGEST = 60
"""Characters of a value that an error shows."""
_EXPECTED = {
    FieldDescriptor.CPPTYPE_INT32: "a whole number of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "a whole number of 64 bits, or a text of one",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number from 0 to 4294967295",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number from 0 on, or a text of one",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number of 32 bits",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
}


def parsed(data: bytes, what: str = "the body") -> Any:
    """JSON from UTF-8; nothing is an empty object. Raises Refused, also for NaN, and for a name that stands twice."""
    if not data.strip():
        return {}
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(f"{what} is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from None
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise malformed(f"{what} is nested too deep") from None
    except ValueError as error:
        raise malformed(f"{what} is not JSON: {error}") from None


async def aside(data: bytes, read: Callable[[Any], T]) -> T:
    """What `read` makes of the JSON: large bodies, which take their time, in a thread. Raises Refused."""
    if len(data) <= _SMALL:
        return read(parsed(data))
    return await asyncio.to_thread(lambda: read(parsed(data)))


def message(found: Any, into: M, path: str = "") -> M:
    """Fill a message from parsed JSON. Raises Refused that names the field; `path` goes before it."""
    try:
        if isinstance(found, dict):
            json_format.ParseDict(found, into)
            return into
    except _FAILURES:
        pass
    raise _explained(found, into.DESCRIPTOR, path)


def _explained(found: Any, kind: Any, path: str) -> Refused:
    """What is wrong with it, and where: field by field, by what can be read alone."""
    if not isinstance(found, dict):
        return malformed(f"{path or 'the body'}: expected an object, {kind.name}, not {_shown(found)}", path)
    named = {field.json_name: field for field in kind.fields} | dict(kind.fields_by_name)
    for name, value in found.items():
        field = named.get(name)
        if field is None:
            near = difflib.get_close_matches(name, [one.json_name for one in kind.fields], 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(one.json_name for one in kind.fields)}"
            where = f"{path}: " if path else ""
            return malformed(f"{where}field {_shown(name)}: {kind.name} has no such field; {hint}", path)
        if not _reads(kind, name, value):
            return _of_field(field, name, value, f"{path}.{field.name}" if path else field.name)
    taken = [name for name in found if named[name].containing_oneof is not None and found[name] is not None]
    said = f"{' and '.join(taken)} are given, of which only one may be" if len(taken) > 1 else "it cannot be read"
    return malformed(f"{path or 'the body'}: {said}", path)


def _of_field(field: FieldDescriptor, name: str, value: Any, path: str) -> Refused:
    kind = field.message_type
    if field.is_repeated and not (kind is not None and kind.GetOptions().map_entry):
        if not isinstance(value, list):
            return malformed(f"{path}: expected an array, not {_shown(value)}", path)
        place = _first_bad(field.containing_type, name, value)
        path, value = f"{path}[{place}]", value[place]
    if kind is not None:
        return _explained(value, kind, path)
    if field.enum_type is not None:
        expected = f"one of {', '.join(field.enum_type.values_by_name)}"
    elif field.type == FieldDescriptor.TYPE_BYTES:
        expected = "a text in base64"
    else:
        expected = _EXPECTED.get(field.cpp_type, "a text of Unicode characters")
    return malformed(f"{path}: expected {expected}, not {_shown(value)}", path)


def _first_bad(kind: Any, name: str, values: list[Any]) -> int:
    """The place of the first that cannot be read: by halves, since there may be a hundred thousand."""
    first, end = 0, len(values)
    while end - first > 1:
        middle = (first + end) // 2
        if _reads(kind, name, values[first:middle]):
            first = middle
        else:
            end = middle
    return first


def _reads(kind: Any, name: str, value: Any) -> bool:
    try:
        json_format.ParseDict({name: value}, GetMessageClass(kind)())
    except _FAILURES:
        return False
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{_shown(twice)} stands twice in one object")
    return found


def _no_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON; ProtoJSON writes it as a text, {constant!r}")


def _shown(value: Any) -> str:
    """A value of JSON, short."""
    if isinstance(value, list):
        return "an array"
    if isinstance(value, dict):
        return "an object"
    text = json.dumps(value if not isinstance(value, str) else value[:_LONGEST], ensure_ascii=False)
    return text if len(text) <= _LONGEST + 2 else f"{text[:_LONGEST]}…"
