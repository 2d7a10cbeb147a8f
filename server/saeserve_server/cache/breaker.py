"""Whether what keeps failing is worth asking again."""

from __future__ import annotations

import logging
import random
import time
from typing import Final

from saeserve_server.metrics import Metrics

log = logging.getLogger(__name__)

FAILURES: Final = 3
"""Failures in a row after which Redis is left alone."""
FIRST_DELAY: Final = 0.5
LAST_DELAY: Final = 30.0
"""Seconds for which it is: twice as long each time, from the first to the last."""


class Breaker:
    """Whether Redis is worth asking: not for a while once it has failed several times in a row.

    After each such while one look-up is let through as a probe; the first that succeeds ends it.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._gauge = metrics.shared_open
        self._gauge.set(0)
        self._failures = 0
        self._delay = 0.0
        self._probe_at: float | None = None

    @property
    def open(self) -> bool:
        """Whether Redis is being left alone."""
        return self._probe_at is not None

    def allows(self) -> bool:
        """Whether a look-up may be made now. While open, True is the permission for one probe."""
        if self._probe_at is None:
            return True
        if time.monotonic() < self._probe_at:
            return False
        # The next probe is fixed now, so that one whose outcome is never told costs no more than its turn.
        self._delay = min(2 * self._delay, LAST_DELAY)
        self._probe_at = self._after_delay()
        return True

    def succeeded(self) -> None:
        """A look-up was answered in time."""
        self._failures = 0
        if self._probe_at is not None:
            self._probe_at = None
            self._gauge.set(0)
            log.info("the shared cache is in use again")

    def failed(self, why: str) -> None:
        """A look-up or a write was not."""
        self._failures += 1
        if self._probe_at is None and self._failures >= FAILURES:
            self._delay = FIRST_DELAY
            self._probe_at = self._after_delay()
            self._gauge.set(1)
            log.warning("the shared cache is left alone until it answers again", extra={"failure": why})

    def _after_delay(self) -> float:
        # Replicas that lost the same Redis at the same moment do not return to it at the same moment.
        return time.monotonic() + self._delay * random.uniform(0.75, 1.25)  # noqa: S311
