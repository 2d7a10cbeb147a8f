"""What is refused, as HTTP has it: a status, and a body of one shape."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from grpc import StatusCode

from saeserve.transport.errors import FieldViolation, SaeserveError

HTTP = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ABORTED: 409,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
"""The HTTP status of a gRPC status; of all others 500."""


class Refused(SaeserveError):
    """What the gateway itself refuses. `http` where it is not that of the gRPC status."""

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode = StatusCode.INVALID_ARGUMENT,
        reason: str,
        violations: Iterable[FieldViolation] = (),
        retry_delay: float | None = None,
        http: int | None = None,
    ) -> None:
        super().__init__(message, code=code, reason=reason, violations=violations, retry_delay=retry_delay)
        self.http = http


def malformed(message: str, field: str = "") -> Refused:
    """A body that is no request, as the server says of a message that it cannot parse."""
    violations = [FieldViolation(field, message.removeprefix(f"{field}: "))] if field else []
    return Refused(message, reason="MALFORMED_REQUEST", violations=violations)


def busy(what: str) -> Refused:
    """The gateway has no place left."""
    return Refused(
        f"{what}; come again in a moment",
        code=StatusCode.UNAVAILABLE,
        reason="GATEWAY_BUSY",
        retry_delay=1.0,
    )


def status_of(error: SaeserveError) -> int:
    """The HTTP status of an error."""
    own = error.http if isinstance(error, Refused) else None
    return own or HTTP.get(error.code, 500)


def body_of(error: SaeserveError, request_id: str) -> dict[str, Any]:
    """The body of an error's answer: `error`, as an event of a stream carries it too."""
    said: dict[str, Any] = {
        "code": status_of(error),
        "status": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "fieldViolations": [{"field": one.field, "description": one.description} for one in error.violations],
    }
    if error.retry_delay is not None:
        said["retryDelaySeconds"] = round(error.retry_delay, 6)
    said["requestId"] = error.request_id or request_id
    return {"error": said}


def headers_of(error: SaeserveError) -> dict[str, str]:
    """What stands in the head of an error's answer."""
    found = {}
    if error.retry_delay is not None:
        found["retry-after"] = str(max(1, math.ceil(error.retry_delay)))  # whole seconds, by HTTP
    if error.code is StatusCode.UNAUTHENTICATED:
        found["www-authenticate"] = 'Bearer realm="saeserve"'
    return found
