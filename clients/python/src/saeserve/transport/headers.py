"""The headers of a call: the caller's, and a request id for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TypeAlias

REQUEST_ID = "x-request-id"

Metadata: TypeAlias = Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]
"""Headers of a call; keys that end in `-bin` carry bytes."""


def headers(default: Metadata, metadata: Metadata | None, request_id: str | None) -> list[tuple[str, str | bytes]]:
    """A call's metadata, with a request id whatever the caller gave: calls that time out can be found by it too."""
    if request_id is not None and not isinstance(request_id, str):
        raise TypeError(f"request_id is {request_id!r}, not a text")
    sent = [*pairs(default), *pairs(metadata or ())]
    if request_id is not None:
        sent = [(key, value) for key, value in sent if key != REQUEST_ID]
    if request_id is not None or all(key != REQUEST_ID for key, _ in sent):
        sent.append((REQUEST_ID, request_id or os.urandom(8).hex()))
    return sent


def pairs(metadata: Metadata) -> list[tuple[str, str | bytes]]:
    """Metadata as gRPC takes it: lower-case keys. Raises TypeError for what is no header."""
    sent = []
    for key, value in metadata if not hasattr(metadata, "items") else metadata.items():
        if not isinstance(key, str) or not isinstance(value, str | bytes):
            raise TypeError(f"metadata: {key!r} is {type(value).__name__}: expected a text by a text")
        sent.append((key.lower(), value))
    return sent


def sent_request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The request id among a call's metadata."""
    return next((str(value) for key, value in metadata if key == REQUEST_ID), "")
