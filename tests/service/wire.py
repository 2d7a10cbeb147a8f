"""Calls below the client: raw stubs, raw bytes, and everything that a refusal carries."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub

DEMO = Path(__file__).parents[2] / "server/saeserve_server/models/demo"
SERVICE = "saeserve.v1.FeatureService"
TIMEOUT = 60.0
LEAKS = re.compile(r"Traceback|\.py\b|site-packages|saeserve_server|File \"|/tmp/|/(?:home|root)/|object at 0x")


@dataclass(frozen=True)
class Refusal:
    """What a caller gets instead of an answer."""

    code: grpc.StatusCode
    message: str
    reason: str
    fields: dict[str, str]
    """Field path → description."""
    request_id: str
    retry_after: float | None
    """Seconds, of RetryInfo."""
    pushback: str | None
    """`grpc-retry-pushback-ms`, as sent."""
    metadata_bytes: int


@contextmanager
def connect(target: str, **options: int) -> Iterator[grpc.Channel]:
    """A plain channel, without retries."""
    chosen = {"grpc.enable_retries": 0, "grpc.max_receive_message_length": -1, "grpc.enable_http_proxy": 0} | options
    with grpc.insecure_channel(target, options=list(chosen.items())) as channel:
        yield channel


def stub_of(channel: grpc.Channel) -> FeatureServiceStub:
    return FeatureServiceStub(channel)


def send_bytes(channel: grpc.Channel, method: str, data: bytes, **options: Any) -> bytes:
    """Sends bytes as a unary method's request, whatever they are."""
    call = channel.unary_unary(method if method.startswith("/") else f"/{SERVICE}/{method}")
    return call(data, timeout=TIMEOUT, **options)


def refused(call: Callable[[], Any]) -> Refusal:
    """What the call is refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return read_refusal(caught.value)


def read_refusal(error: Any) -> Refusal:
    """The error's details. Holds what every refusal promises: a known code, one upper-case reason, a request id, one
    and the same message in both places, and nothing of the server's inside."""
    trailing = list(error.trailing_metadata() or ())
    status = rpc_status.from_call(error)
    assert status is not None, f"{error.code()}: no details: {error.details()}"
    assert error.code().value[0] == status.code
    assert error.details() == status.message
    refusal = read_status(status, trailing)
    assert (refusal.retry_after is None) == (refusal.pushback is None)
    return refusal


def read_status(status: status_pb2.Status, trailing: Iterable[tuple[str, Any]] = ()) -> Refusal:
    """The same of a google.rpc.Status, as a stream's items carry it."""
    code = next(one for one in grpc.StatusCode if one.value[0] == status.code)
    assert code not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.OK)
    infos = details(status, error_details_pb2.ErrorInfo)
    assert len(infos) == 1
    assert infos[0].domain == "saeserve.dev"
    assert re.fullmatch(r"[A-Z][A-Z0-9_]*[A-Z0-9]", infos[0].reason)
    ids = [detail.request_id for detail in details(status, error_details_pb2.RequestInfo)]
    assert len(ids) == 1
    assert ids[0]
    bad = details(status, error_details_pb2.BadRequest)
    assert len(bad) <= 1
    retry = [
        detail.retry_delay.ToTimedelta().total_seconds() for detail in details(status, error_details_pb2.RetryInfo)
    ]
    fields = {violation.field: violation.description for one in bad for violation in one.field_violations}
    for text in [status.message, *fields.values(), *infos[0].metadata.values()]:
        assert not LEAKS.search(text), text
    assert status.message
    return Refusal(
        code=code,
        message=status.message,
        reason=infos[0].reason,
        fields=fields,
        request_id=ids[0],
        retry_after=retry[0] if retry else None,
        pushback=next((value for key, value in trailing if key == "grpc-retry-pushback-ms"), None),
        metadata_bytes=sum(len(key) + len(value) for key, value in trailing),
    )


def details(status: status_pb2.Status, kind: type[Any]) -> list[Any]:
    """The details of one kind, unpacked."""
    found = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


def text_input(text: str) -> types.Input:
    return types.Input(text=text)


def ids_input(ids: Iterable[int]) -> types.Input:
    return types.Input(token_ids=types.TokenIds(ids=ids))


def config(**settings: Any) -> service.EncodeStreamRequest:
    """The first message of an EncodeStream."""
    return service.EncodeStreamRequest(config=service.EncodeStreamConfig(**settings))


def item(sequence: int, text: str) -> service.EncodeStreamRequest:
    """Any other."""
    return service.EncodeStreamRequest(item=service.EncodeStreamItem(sequence=sequence, input=text_input(text)))


def passages(count: int) -> list[str]:
    """Beginnings of the demo's passages, of many lengths."""
    lines = (DEMO / "passages.jsonl").read_text().splitlines()
    return [json.loads(line)["text"][: 20 + 37 * place % 300] for place, line in enumerate(lines[:count])]


class Slowly:
    """A stream whose requests are put one by one, and whose answers are read when asked for."""

    def __init__(self, stub: FeatureServiceStub, first: service.EncodeStreamRequest | None = None) -> None:
        self._requests: SimpleQueue[service.EncodeStreamRequest | None] = SimpleQueue()
        if first is not None:
            self._requests.put(first)
        self.call = stub.EncodeStream(self._read(), timeout=4 * TIMEOUT)

    def _read(self) -> Iterator[service.EncodeStreamRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def send(self, *requests: service.EncodeStreamRequest) -> None:
        for request in requests:
            self._requests.put(request)

    def close(self) -> None:
        self._requests.put(None)
