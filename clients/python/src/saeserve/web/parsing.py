"""From JSON to messages, with the path of the field that is wrong."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from saeserve.web.problems import Refused, malformed

M = TypeVar("M", bound=Message)

_LONGEST = 400
"""Characters of a message that says what is wrong: it may quote what it was given."""


def parsed(data: bytes) -> Any:
    """JSON from UTF-8; nothing is an empty object. Raises Refused, and reads no NaN and no name twice."""
    if not data.strip():
        return {}
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(f"the body is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from None
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise malformed("the body is nested too deep") from None
    except ValueError as error:
        raise malformed(f"the body is not JSON: {error}") from None


def message(found: Any, into: M, path: str = "") -> M:
    """Fill a message from parsed JSON. Raises Refused that names the field; `path` goes before it."""
    if not isinstance(found, dict):
        raise malformed(f"{path or 'the body'} is {_kind(found)}: expected an object, {into.DESCRIPTOR.name}", path)
    try:
        json_format.ParseDict(found, into)
    except json_format.ParseError as error:
        raise _refusal(str(error), into.DESCRIPTOR.name, path) from None
    except (RecursionError, ValueError, TypeError, AttributeError) as error:  # of values that ParseDict does not expect
        raise malformed(f"{path or 'the body'} is no {into.DESCRIPTOR.name}: {str(error)[:_LONGEST]}", path) from None
    return into


def _refusal(said: str, name: str, path: str) -> Refused:
    """json_format says `Failed to parse limit field: … at SearchRequest.limit.`, once for each message around it."""
    found = re.search(rf'\bat "?{name}((?:[.\[][\w.\[\]]*)?)', said)
    field = _snake((found[1] if found else "").strip("."))
    words = re.sub(r"^(Failed to parse \S+ field: )+", "", said.partition("\n")[0])
    words = re.sub(rf'\s*\bat "?{name}[\w.\[\]]*"?', "", words).rstrip(". ")
    full = ".".join(part for part in (path, field) if part)
    return malformed(f"{full}: {words}"[:_LONGEST] if full else words[:_LONGEST], full)


def _snake(path: str) -> str:
    """Paths are written as the server writes them: `filter.min_density`."""
    return re.sub(r"([a-z0-9])([A-Z])", lambda found: f"{found[1]}_{found[2].lower()}", path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in an object")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON; ProtoJSON writes it as a text, {constant!r}")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "a text"
    return "an array" if isinstance(value, list) else "an object" if isinstance(value, dict) else "a number"
