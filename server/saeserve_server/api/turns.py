"""How long the event loop's turns are.

gRPC lets in one call of a method in a turn, before anything of ours sees it. So what a call waits in front of its
handler is turns, and the server can tell their length though not the wait.
"""

from __future__ import annotations

import asyncio
import time

from saeserve_server.metrics import Metrics

INTERVAL = 0.05
"""Seconds from one turn that is measured to the next."""


class Turns:
    """Measures a turn of the running event loop now and then."""

    def __init__(self, metrics: Metrics) -> None:
        self._seconds = metrics.loop_turn_seconds
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_soon(self._begin)

    def close(self) -> None:
        """Measures no more."""
        self._next.cancel()

    def _begin(self) -> None:
        began = time.perf_counter()
        self._next = self._loop.call_soon(self._end, began)

    def _end(self, began: float) -> None:
        self._seconds.observe(time.perf_counter() - began)
        self._next = self._loop.call_later(INTERVAL, self._begin)
