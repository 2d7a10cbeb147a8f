"""The one retry policy of a unary call: how often it is sent, how long it waits, and what is raised in the end.

gRPC could retry by itself, but a deadline that passes between its attempts would hide why they failed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection

from grpc import StatusCode

from saeserve.transport import channel
from saeserve.transport.errors import DeadlineExceeded, SaeserveError

RETRYABLE = (StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED)
_OF_GRPC = "Deadline Exceeded"
LOADING = "; wait_ready(), or --wait on the command line, waits until it has loaded"
"""What errors of a server that loads end with."""


def worth_another(error: SaeserveError) -> bool:
    """Whether the same call may succeed later."""
    return error.code in RETRYABLE and error.reason != "OVER_MAX_MESSAGE_BYTES"


class Attempts:
    """The attempts of one call, driven by either client."""

    def __init__(self, timeout: float | None, repeated: bool) -> None:
        """`timeout` is for all of them together. Not `repeated`: there is one."""
        self._most = channel.MAX_ATTEMPTS if repeated else 1
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._made = 0
        self._last: SaeserveError | None = None

    def left(self) -> float | None:
        """Seconds left for the next attempt; None for no limit."""
        return None if self._deadline is None else max(0.001, self._deadline - time.monotonic())

    def pause_after(self, error: SaeserveError, at_once: Collection[str] = ()) -> float:
        """Seconds to wait before the next attempt; raises what the caller gets where there is none.

        at_once: reasons after which there is none.
        """
        self._made += 1
        if isinstance(error, DeadlineExceeded):
            if error.message == _OF_GRPC and self._timeout is not None:
                error.message = f"no answer within {self._timeout:g} s"
            if self._last is not None:
                error.message += f"; the attempt before was refused: {self._last.message}"
                error.reason = error.reason or self._last.reason
            raise advised(error)
        if not worth_another(error) or self._made >= self._most or error.reason in at_once:
            raise advised(error)
        self._last = error
        pause = error.retry_delay
        if pause is None:
            pause = min(channel.MAX_BACKOFF, channel.INITIAL_BACKOFF * 2 ** (self._made - 1))
            pause *= random.uniform(0.8, 1.2)  # noqa: S311 (nothing secret)
        if self._deadline is not None and time.monotonic() + pause >= self._deadline:
            error.message += f"; the timeout of {self._timeout:g} s leaves no time to ask again"
            raise advised(error)
        return pause


def advised(error: SaeserveError) -> SaeserveError:
    """The error with what to do where the server loads."""
    if error.reason == "LOADING":
        error.message += LOADING
    return error
