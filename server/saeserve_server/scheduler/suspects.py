"""Requests that were being computed when a worker died: run alone once, refused after a second death."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence

from saeserve_server.errors import Internal
from saeserve_server.ranking.similar import AnyWork

HELD_SECONDS = 600.0
MOST_SUSPECTS = 4096
"""Of more, the oldest are forgotten: they would be found again."""


class Suspects:
    """What is held against requests."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[AnyWork, tuple[int, float]] = OrderedDict()  # how many, and when the last

    def died(self, works: Sequence[AnyWork]) -> None:
        """A worker died over these."""
        now = time.monotonic()
        for work in dict.fromkeys(works):
            self._deaths[work] = (self._count(work) + 1, now)
            self._deaths.move_to_end(work)
        while len(self._deaths) > MOST_SUSPECTS:
            self._deaths.popitem(last=False)

    def survived(self, works: Sequence[AnyWork]) -> None:
        """A worker lived through these: nothing is held against them any more."""
        if self._deaths:
            for work in works:
                self._deaths.pop(work, None)

    def is_suspect(self, work: AnyWork) -> bool:
        """Whether it must run alone."""
        return self._count(work) == 1

    def verdict(self, work: AnyWork) -> Internal | None:
        """The error for what was present at two deaths, reason REQUEST_CRASHED; None for all else."""
        if self._count(work) < 2:
            return None
        return Internal("present at two deaths of the worker", reason="REQUEST_CRASHED")

    def check(self, work: AnyWork) -> None:
        """Raises the verdict, if there is one."""
        if (verdict := self.verdict(work)) is not None:
            raise verdict

    def _count(self, work: AnyWork) -> int:
        deaths, last = self._deaths.get(work, (0, 0.0))
        if deaths and time.monotonic() - last > HELD_SECONDS:
            del self._deaths[work]
            return 0
        return deaths
