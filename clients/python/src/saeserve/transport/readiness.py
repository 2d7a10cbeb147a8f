"""Waiting for a server that starts: how long, how often, and what to say if it does not."""

from __future__ import annotations

import time

from grpc import StatusCode

from saeserve.arguments.timeouts import Seconds, seconds
from saeserve.transport.errors import DeadlineExceeded, ResourceExhausted, SaeserveError, Unavailable

_PAUSE = 0.1
_ANSWER = 10.0
"""Seconds in which a server that is there answers the question."""
_FOR_GOOD = ("SERVER_NOT_TLS", "CERTIFICATE_NOT_TRUSTED", "CERTIFICATE_NAME")
"""Reasons that lie in how the client was told to connect."""


class Readiness:
    """One wait, driven by either client."""

    def __init__(self, target: str, timeout: Seconds) -> None:
        """No limit: for as long as it takes; 0: ask once."""
        self._target = target
        self._timeout = seconds(timeout, zero=True)
        self._deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._said = ""

    def left(self) -> float:
        """Seconds for the next question; a little even at the end, so that one is always asked."""
        return _ANSWER if self._deadline is None else min(_ANSWER, max(0.05, self._deadline - time.monotonic()))

    def pause_after(self, error: SaeserveError) -> float:
        """Seconds to wait before asking again; raises what no waiting can mend, and DeadlineExceeded at the end."""
        if not isinstance(error, Unavailable | ResourceExhausted | DeadlineExceeded) or error.reason in _FOR_GOOD:
            raise error
        # Of two reasons the better one is kept: that a question went unanswered says less.
        if error.message and not (self._said and isinstance(error, DeadlineExceeded)):
            self._said = f"; it last said: {error.message}"
        if self._deadline is not None and time.monotonic() + _PAUSE >= self._deadline:
            message = f"{self._target} is not ready after {self._timeout:g} s{self._said}"
            raise DeadlineExceeded(message, code=StatusCode.DEADLINE_EXCEEDED, reason=error.reason) from error
        return _PAUSE
