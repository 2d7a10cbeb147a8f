"""The headers of a call: the caller's, and a request id for each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

REQUEST_ID = "x-request-id"
_KEY = re.compile(r"[0-9a-z_.-]+")

Metadata: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]
"""Headers of a call; keys that end in `-bin` carry bytes."""


def headers(default: Metadata, metadata: Metadata | None, request_id: str | None) -> list[tuple[str, str | bytes]]:
    """A call's metadata, with a request id whatever the caller gave: calls that time out can be found by it too."""
    if request_id is not None and not isinstance(request_id, str):
        raise TypeError(f"request_id is {request_id!r}, not a text")
    if request_id is not None:
        _value("request_id", request_id)
    sent = [*pairs(default), *pairs(metadata or ())]
    if request_id is not None:
        sent = [(key, value) for key, value in sent if key != REQUEST_ID]
    if request_id is not None or all(key != REQUEST_ID for key, _ in sent):
        sent.append((REQUEST_ID, request_id or os.urandom(8).hex()))
    return sent


def pairs(metadata: Metadata) -> list[tuple[str, str | bytes]]:
    """Metadata as gRPC takes it: lower-case keys. Raises TypeError and ValueError for what cannot be a header."""
    sent = []
    for key, value in metadata if not hasattr(metadata, "items") else metadata.items():
        if not isinstance(key, str) or not isinstance(value, str | bytes):
            raise TypeError(f"metadata: {key!r} is {type(value).__name__}: expected a text by a text")
        sent.append((key.lower(), _value(key, value)))
        if not _KEY.fullmatch(key.lower()):
            raise ValueError(f"metadata: {key!r} is no name of a header: expected letters, digits, '-', '_' and '.'")
    return sent


def _value(key: str, value: str | bytes) -> str | bytes:
    """gRPC itself would only say that metadata are invalid."""
    if key.lower().endswith("-bin"):
        return value
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"metadata: {key}: {value!r} is not printable ASCII; names that end in -bin carry bytes")
    return value


def sent_request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The request id among a call's metadata."""
    return next((str(value) for key, value in metadata if key == REQUEST_ID), "")
