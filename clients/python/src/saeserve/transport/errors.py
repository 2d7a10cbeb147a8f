"""What the service refuses, as one hierarchy: a subclass for each gRPC status, with the details the server sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import RpcError, StatusCode

from saeserve.arguments.printable import printable

if TYPE_CHECKING:
    from google.protobuf.message import Message

_STATUS_DETAILS = "grpc-status-details-bin"
_PUSHBACK = "grpc-retry-pushback-ms"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that the service cannot accept."""

    field: str
    """Its path, for example `filter.include.sources[1]`."""
    description: str
    """What was expected."""


class SaeserveError(Exception):
    """A call that the service, or the way to it, did not answer. The gRPC error is its `__cause__`."""

    code: StatusCode
    """The gRPC status."""
    message: str
    """What went wrong, in words."""
    reason: str
    """Upper-case name of the cause (`UNKNOWN_SOURCE`); empty where none was sent."""
    metadata: Mapping[str, str]
    """Facts that belong to the reason."""
    violations: tuple[FieldViolation, ...]
    """The fields at fault, with INVALID_ARGUMENT and NOT_FOUND."""
    retry_delay: float | None
    """Seconds after which the server expects a retry to succeed; None where it did not say."""
    request_id: str
    """Names the call in the server's log."""

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode = StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[FieldViolation] = (),
        retry_delay: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_delay = retry_delay
        self.request_id = request_id

    def __str__(self) -> str:
        """Status, reason, message and the fields at fault that the message does not already explain: safe to print."""
        parts = [self.message or "no message"]
        parts += [f"{v.field}: {v.description}" for v in self.violations if v.description not in self.message]
        if self.retry_delay is not None:
            parts.append(f"retry after {self.retry_delay:g} s")
        head = f"{self.code.name} {self.reason}".rstrip()
        return "\n".join(map(printable, f"{head}: {'; '.join(parts)}".split("\n")))

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders with all their fields."""
        fields = {name: value for name, value in self.__dict__.items() if name != "message"}
        return _rebuild, (type(self), self.message, fields)


def _rebuild(kind: type[SaeserveError], message: str, fields: dict[str, Any]) -> SaeserveError:
    return kind(message, **fields)


class InvalidArgument(SaeserveError):
    """The request cannot be answered by any server like this: see `violations`."""


class NotFound(SaeserveError):
    """A model, source, set or feature that is not served; the message names the nearest."""


class FailedPrecondition(SaeserveError):
    """The server lacks what the request needs, for example an index (reason INDEX_REQUIRED)."""


class Aborted(SaeserveError):
    """What the request continued is gone, for example pages of an index that was replaced (reason STORE_CHANGED)."""


class ResourceExhausted(SaeserveError):
    """The server is over its budget: see `retry_delay`. Or an answer is over the client's `max_message_bytes`."""


class DeadlineExceeded(SaeserveError):
    """No answer came within the timeout."""


class Cancelled(SaeserveError):
    """The call was cancelled, or the client closed (reason CLIENT_CLOSED)."""


class Unavailable(SaeserveError):
    """No server answers there, or it is starting, draining or restarting its worker."""


class Unauthenticated(SaeserveError):
    """The call carried no credentials that the server accepts."""


class PermissionDenied(SaeserveError):
    """The caller may not do this."""


class Unimplemented(SaeserveError):
    """The server does not know this call: it is older than the client, or another service."""


class Internal(SaeserveError):
    """The server failed; `request_id` finds the cause in its log."""


_CLASSES: dict[StatusCode, type[SaeserveError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidArgument,
    StatusCode.NOT_FOUND: NotFound,
    StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    StatusCode.ABORTED: Aborted,
    StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.CANCELLED: Cancelled,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.UNAUTHENTICATED: Unauthenticated,
    StatusCode.PERMISSION_DENIED: PermissionDenied,
    StatusCode.UNIMPLEMENTED: Unimplemented,
    StatusCode.INTERNAL: Internal,
}
_CODES: dict[int, StatusCode] = {code.value[0]: code for code in StatusCode}


class RpcFailure(Protocol):
    """What a finished call of `grpc` and an error of `grpc.aio` have in common."""

    def code(self) -> StatusCode | None: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def from_rpc(failure: RpcFailure | RpcError, request_id: str = "") -> SaeserveError:
    """The typed error of a failed call. `request_id` is what the call sent, for failures that never saw a server."""
    failure = cast(RpcFailure, failure)  # what grpc raises is a call too, though its declared type does not say so
    code = failure.code() or StatusCode.UNKNOWN
    message = failure.details() or ""
    # `iter`: to `dict`, grpc.aio's Metadata looks like a mapping, which in older versions it is not.
    trailing = dict(iter(failure.trailing_metadata() or ()))
    status = status_pb2.Status(code=code.value[0], message=message)
    packed = trailing.get(_STATUS_DETAILS)
    if isinstance(packed, bytes):
        try:
            status.MergeFromString(packed)
        except DecodeError:  # a proxy's, or damaged: the status code and its message still stand
            status = status_pb2.Status(code=code.value[0], message=message)
    error = from_status(status, request_id)
    if error.retry_delay is None:
        error.retry_delay = _pushback(trailing.get(_PUSHBACK))
    if code is StatusCode.RESOURCE_EXHAUSTED and not error.reason and "larger than max" in message:
        # gRPC's own limit on this side, which must not look like an overloaded server.
        error.reason = "OVER_MAX_MESSAGE_BYTES"
        error.message += "; ask for less, stream, or give the client a larger max_message_bytes"
    return error


def closed() -> Cancelled:
    """The one error of a client that was closed, before a call or in the middle of it."""
    return Cancelled("the client is closed", code=StatusCode.CANCELLED, reason="CLIENT_CLOSED")


def from_status(status: status_pb2.Status, request_id: str = "") -> SaeserveError:
    """The typed error of a google.rpc.Status, as the items of a stream carry."""
    code = _CODES.get(status.code, StatusCode.UNKNOWN)
    error = _CLASSES.get(code, SaeserveError)(status.message, code=code, request_id=request_id)
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        request = error_details_pb2.RequestInfo()
        if _unpacked(packed, info):
            error.reason = info.reason
            error.metadata = dict(info.metadata)
        elif _unpacked(packed, bad):
            error.violations = tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)
        elif _unpacked(packed, retry):
            error.retry_delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        elif _unpacked(packed, request) and request.request_id:
            error.request_id = request.request_id
    return error


def _unpacked(packed: Any, into: Message) -> bool:
    """Whether an Any holds this message and could be read; a damaged detail is as good as none."""
    if not packed.Is(into.DESCRIPTOR):
        return False
    try:
        return bool(packed.Unpack(into))
    except DecodeError:
        return False


def _pushback(value: str | bytes | None) -> float | None:
    """Seconds of `grpc-retry-pushback-ms`. Negative ("do not retry") and unreadable values are no delay."""
    try:
        milliseconds = int(value) if value is not None else -1
    except ValueError:
        return None
    return milliseconds / 1000 if milliseconds >= 0 else None
