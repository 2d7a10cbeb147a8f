"""The one place where errors become status codes and rich details."""

from __future__ import annotations

import logging

from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from saeserve_server.errors import Internal, ServeError

log = logging.getLogger(__name__)

DOMAIN = "saeserve.dev"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""gRPC's retryPolicy ignores RetryInfo and honours this."""

MOST_MESSAGE_BYTES = 1000
MOST_VIOLATION_BYTES = 600
MOST_VIOLATIONS = 4
"""Metadata over 8 KiB turns into RESOURCE_EXHAUSTED on the way: what is echoed is cut."""

Trailing = tuple[tuple[str, str | bytes], ...]


def to_status(error: BaseException, request_id: str) -> status_pb2.Status:
    """Any error as the rich status that callers get: one ErrorInfo, the request id, and what applies.

    Faults of the server are logged here, with their cause, once however many wait for the same; callers get their
    request id and nothing else.
    """
    if not isinstance(error, ServeError) or isinstance(error, Internal):
        if not (isinstance(error, Internal) and error.logged):
            log.error("a call failed: %s", type(error).__name__, extra={"request_id": request_id}, exc_info=error)
        reason = error.reason if isinstance(error, Internal) else None
        error = Internal(f"internal error; request id {request_id}", reason=reason)
    details = [
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=DOMAIN, metadata={key: clip(text, 200) for key, text in error.metadata.items()}
        ),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=clip(violation.description, MOST_VIOLATION_BYTES)
                    )
                    for violation in error.violations[:MOST_VIOLATIONS]
                ]
            )
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for target, detail in zip(packed, details, strict=True):
        target.Pack(detail)
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.status.value), message=clip(error.message, MOST_MESSAGE_BYTES), details=packed
    )


def trailing_metadata(status: status_pb2.Status, retry_after: float | None) -> Trailing:
    """The trailing metadata that carries a rich status, and when a retry may succeed."""
    metadata: Trailing = tuple(rpc_status.to_status(status).trailing_metadata)
    if retry_after is not None:
        metadata += ((PUSHBACK_KEY, str(round(retry_after * 1000))),)
    return metadata


def clip(text: str, most: int) -> str:
    """The text, or as much of it as fits into `most` bytes of UTF-8 with an ellipsis."""
    data = text.encode("utf-8", "replace")
    if len(data) <= most:
        return text
    return data[: most - 3].decode("utf-8", "ignore") + "…"
