"""Waiting for a server that starts: how long, how often, and what to say if it does not."""

from __future__ import annotations

import time

from grpc import StatusCode

from saeserve.transport.errors import DeadlineExceeded, ResourceExhausted, SaeserveError, Unavailable

_PAUSE = 0.1


class Readiness:
    """One wait, driven by either client."""

    def __init__(self, target: str, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._said = ""

    def left(self) -> float:
        """Seconds left for the next question; a little even at the end, so that one is always asked."""
        return max(0.05, self._deadline - time.monotonic())

    def pause_after(self, error: SaeserveError) -> float:
        """Seconds to wait before asking again; raises what no waiting can mend, and DeadlineExceeded at the end."""
        if not isinstance(error, Unavailable | ResourceExhausted | DeadlineExceeded):
            raise error
        if not isinstance(error, DeadlineExceeded):
            self._said = f"; it last said: {error.message}"
        if isinstance(error, DeadlineExceeded) or time.monotonic() + _PAUSE >= self._deadline:
            message = f"{self._target} is not ready after {self._timeout:g} s{self._said}"
            raise DeadlineExceeded(message, code=StatusCode.DEADLINE_EXCEEDED) from error
        return _PAUSE
