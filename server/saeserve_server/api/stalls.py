"""Calls that wait for their caller, to send or to read, and are ended when that takes too long."""

from __future__ import annotations

import asyncio
import time

from saeserve_server.api.rpc import Rpc
from saeserve_server.metrics import Metrics


class Stalls:
    """One timer for all of them: all may wait alike long, so who has waited longest stands first."""

    def __init__(self, patience: float, metrics: Metrics) -> None:
        """`patience` in seconds."""
        self._patience = patience
        self._stalled = metrics.stalled.labels("time")
        self._since: dict[Rpc, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._since)

    def waits(self, rpc: Rpc) -> None:
        """The call waits for its caller from now on."""
        self.works(rpc)
        if rpc.has_ended:
            return
        self._since[rpc] = time.monotonic()
        if self._timer is None:
            self._look_again(self._patience)

    def works(self, rpc: Rpc) -> None:
        """The call does not wait for its caller: he waits for it, or it has ended."""
        self._since.pop(rpc, None)

    def _look_again(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        while self._since:
            rpc, since = next(iter(self._since.items()))
            left = since + self._patience - now
            if left > 0:
                self._look_again(left)
                return
            self.works(rpc)
            self._stalled.inc()
            rpc.end()
