"""The calls as documents show them: from the contract's descriptors, its comments, and an example for each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from saeserve.v1 import feature_service_pb2 as service
from saeserve.web.calls import RPCS, path_of

COMMENTS: dict[str, str] = json.loads(Path(__file__).with_name("comments.json").read_text(encoding="utf-8"))
"""By full names. `make proto` writes them."""

_RED = {"text": "My favorite color is red."}
_FEATURE = {"source": "0-demo", "index": 1633}
_SIDES = {
    "A": ("Red.", "A red hat.", "The red door.", "Her red coat.", "Red apples."),
    "B": ("Seven.", "Two of nine.", "The third day.", "Ten of them.", "Eight bells."),
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "Search": {"input": _RED, "limit": 3},
    "Encode": {"inputs": [_RED], "features": [_FEATURE]},
    "EncodeStream": {"config": {"features": [_FEATURE]}, "items": [{"input": _RED}]},
    "TopActivations": {"feature": _FEATURE, "pageSize": 2},
    "GetFeature": {"feature": _FEATURE},
    "GetVectors": {"feature": _FEATURE},
    "Tokenize": {"input": _RED},
    "SimilarFeatures": {"feature": _FEATURE, "limit": 3},
    "SearchExplanations": {"query": "color"},
    "Contrast": {
        "config": {"limit": 2},
        "items": [
            {"side": f"CONTRAST_SIDE_{side}", "input": {"text": text}}
            for side, texts in _SIDES.items()
            for text in texts
        ],
    },
}
"""Requests that the demo's server answers. A call without one is asked with an empty body."""

STREAMED = {"Contrast": ("ContrastConfig", "ContrastItem"), "EncodeStream": ("EncodeStreamConfig", "EncodeStreamItem")}
"""Of calls whose messages stand in one body: the types of `config` and of each of `items`."""
EVENTS = "EncodeStream"
"""The call that is answered by server-sent events."""

ARRAYS = {
    "saeserve.v1.SparseActivations.indptr": {"type": "array", "items": {"type": "integer"}},
    "saeserve.v1.SparseActivations.indices": {"type": "array", "items": {"type": "integer"}},
    "saeserve.v1.SparseActivations.data": {"type": "array", "items": {"type": "number"}},
    "saeserve.v1.DenseActivations.data": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
}
"""Buffers, which are arrays of numbers here."""

ERRORS = {
    400: "INVALID_ARGUMENT, FAILED_PRECONDITION: the request, or what the server has, does not allow an answer",
    401: "UNAUTHENTICATED: the server asks for a token, as `Authorization: Bearer TOKEN`",
    403: "PERMISSION_DENIED: a page of another origin asked",
    404: "NOT_FOUND: no such path, or what the request names is not served",
    405: "UNIMPLEMENTED: another method than the path takes",
    408: "INVALID_ARGUMENT, reason SLOW_REQUEST: the body did not arrive in time",
    409: "ABORTED: what the request continues is gone",
    413: "INVALID_ARGUMENT, reason REQUEST_TOO_LARGE: the body is over the gateway's limit",
    421: "PERMISSION_DENIED, reason HOST_NOT_ALLOWED: the gateway does not answer under that name",
    429: "RESOURCE_EXHAUSTED: the server is over its budget; `Retry-After` says when to come again",
    499: "CANCELLED: the call was cancelled, or nobody waited for it any more",
    500: "INTERNAL: a fault; the request id finds it in the log",
    501: "UNIMPLEMENTED: the server is older than the gateway",
    503: "UNAVAILABLE: no server answers, or the gateway has no place left; `Retry-After` says when to come again",
    504: "DEADLINE_EXCEEDED: no answer came in time",
}
"""What each HTTP status means here, with the gRPC statuses that become it."""

HEADERS = {
    "X-Saeserve-Client": "Who asks, at most 64 printable ASCII characters: callers take turns by it. By default the "
    "caller's address.",
    "X-Saeserve-Timeout": "Seconds that the answer may take; of encode-stream, that each item may.",
    "X-Request-Id": "Names the call in the server's log and in the answer; one is made where it is missing.",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC."""

    name: str
    path: str
    about: str
    request: str
    """Name of the message; of calls whose messages stand in one body, that of the RPC and `Body`."""
    response: str
    example: dict[str, Any]

    @property
    def curl(self) -> str:
        """Its arguments for curl, `URL` in place of the gateway's address."""
        options = "-N " if self.name == EVENTS else ""
        return f"curl {options}URL{self.path} -d '{json.dumps(self.example)}'"


@cache
def calls() -> tuple[Call, ...]:
    """In the order of the contract."""
    return tuple(
        Call(
            name,
            path_of(name),
            comment(rpc.full_name),
            f"{name}Body" if name in STREAMED else rpc.input_type.name,
            rpc.output_type.name,
            EXAMPLES.get(name, {}),
        )
        for name, rpc in RPCS.items()
    )


def comment(full_name: str) -> str:
    """What the contract says of something; empty where it says nothing."""
    return COMMENTS.get(full_name, "")


def asked() -> dict[str, Any]:
    """Types that requests hold, by name."""
    found: dict[str, Any] = {}
    for name, rpc in RPCS.items():
        kinds = [service.DESCRIPTOR.message_types_by_name[kind] for kind in STREAMED[name]] if name in STREAMED else ()
        for kind in kinds or [rpc.input_type]:
            found |= {one.name: one for one in within(kind)}
    return found


def answered() -> dict[str, Any]:
    """Types that answers hold, by name."""
    return {one.name: one for rpc in RPCS.values() for one in within(rpc.output_type)}


def within(kind: Any) -> Iterator[Any]:
    """A type and those that it holds, messages and enums, each once."""
    seen: dict[str, Any] = {}
    left = [kind]
    while left:
        one = left.pop(0)
        if one.full_name in seen:
            continue
        seen[one.full_name] = one
        for field in getattr(one, "fields", ()):
            inner = field.message_type or field.enum_type
            if inner is None:
                continue
            if is_map(field):
                value = field.message_type.fields_by_name["value"]
                inner = value.message_type or value.enum_type
            if inner is not None and not inner.full_name.startswith("google."):
                left.append(inner)
    yield from seen.values()


def is_map(field: Any) -> bool:
    """Whether a field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)
