"""The log lines of a call. What a caller sent stands in them only with `log_texts`."""

from __future__ import annotations

import logging
from typing import Any

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api.call import Call

log = logging.getLogger(__name__)

MOST_CHARACTERS = 500
"""Of each text of a request."""
MOST_TEXTS = 8
"""Of each request."""

_QUIET = ("OK", "CANCELLED", "DEADLINE_EXCEEDED")
_OWN_WORDS = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAUTHENTICATED")
"""Codes whose messages are the server's alone. Those of the others may quote names and tokens of the text."""


def log_call(name: str, call: Call, code: str, reason: str, seconds: float, message: str, *, texts: bool) -> None:
    """One line for a call that has ended: at level debug if nothing is wrong with the server or the request."""
    if code == "OK" and not log.isEnabledFor(logging.DEBUG):
        return
    extra: dict[str, object] = {"request_id": call.request_id}
    if call.client:
        extra["client"] = call.client
    extra["code"] = code
    if reason:
        extra["reason"] = reason
    extra["ms"] = round(seconds * 1000, 1)
    if message and (texts or code in _OWN_WORDS):
        extra["error"] = message
    log.log(logging.DEBUG if code in _QUIET else logging.INFO, "%s", name, extra=extra)


def log_request(name: str, call: Call, request: Any) -> None:
    """One line with the beginnings of the texts of a request, if it has any."""
    inputs = _inputs_of(request)
    if not inputs:
        return
    extra: dict[str, object] = {"request_id": call.request_id, "texts": [_text_of(one) for one in inputs[:MOST_TEXTS]]}
    if len(inputs) > MOST_TEXTS:
        extra["and_more"] = len(inputs) - MOST_TEXTS
    log.info("%s asked", name, extra=extra)


def _inputs_of(request: Any) -> list[types.Input]:
    match request:
        case service.SearchRequest() | service.TokenizeRequest():
            return [request.input]
        case service.EncodeRequest():
            return list(request.inputs)
        case service.EncodeStreamRequest() if request.HasField("item"):
            return [request.item.input]
    return []


def _text_of(given: types.Input) -> str:
    if given.WhichOneof("input") == "token_ids":
        return f"{len(given.token_ids.ids)} ids: " + " ".join(map(str, given.token_ids.ids[:MOST_TEXTS]))
    return given.text if len(given.text) <= MOST_CHARACTERS else given.text[:MOST_CHARACTERS] + "…"
