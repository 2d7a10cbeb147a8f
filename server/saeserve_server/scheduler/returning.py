"""The callers of a batch who come back at once: the one thing that a next batch waits for, and how long.

In a closed loop each caller asks again when he has his answer. Were the first to return dispatched alone, the others
would find the worker busy: batches of one and of all others would take turns, and the fixed part of a batch be paid
twice. So who has just been answered is waited for; but only if nearly all will be back within a time that is small
beside the batch's, judged by those of the last batches, and if one batch holds them and what waits already.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence

PATIENCE = 0.02
"""Of a batch's time, how long after its last answer its callers are waited for."""
HANDING_BACK = 0.03
"""Of a batch's time, what handing back its answers may take; while it takes longer the worker had better go on."""
NEARLY_ALL = 0.9
"""Of a batch's callers. If fewer return, they would only overtake the others."""
REMEMBERED = 4
"""Batches by which it is judged who returns."""


class Round:
    """A batch that has ended, and who has come since."""

    def __init__(self, tokens: Sequence[int], seconds: float) -> None:
        self.callers = len(tokens)
        self.tokens = sum(tokens)
        self.patience = PATIENCE * seconds
        self.most = HANDING_BACK * seconds
        self.ended = time.monotonic()
        self.handed: float | None = None
        """When the last answer had left."""
        self.arrivals: list[float] = []

    @property
    def until(self) -> float:
        """Until when its callers may be waited for."""
        return (self.ended + self.most if self.handed is None else self.handed) + self.patience

    def came(self) -> None:
        """Somebody asks. Of more than it answered it cannot be told who they are."""
        if len(self.arrivals) < self.callers:
            self.arrivals.append(time.monotonic())

    def back_within(self, seconds: float) -> int:
        """How many came until so long after the last answer had left."""
        return 0 if self.handed is None else bisect_right(self.arrivals, self.handed + seconds)

    @property
    def handing(self) -> float:
        """Seconds that handing back an answer took; infinite if it went on until the next batch had ended."""
        return math.inf if self.handed is None else (self.handed - self.ended) / self.callers


class Returning:
    """Who is expected back."""

    def __init__(self) -> None:
        self._round: Round | None = None
        self._rounds: deque[Round] = deque(maxlen=REMEMBERED)
        self._news = asyncio.Event()

    def begin(self, tokens: Sequence[int], seconds: float) -> Round | None:
        """A batch that took so long has ended; its answers, of texts of so many tokens, are about to be handed back.

        None if nobody waits for them.
        """
        if self._round is not None:
            self._rounds.append(self._round)
        self._round = Round(tokens, seconds) if tokens else None
        return self._round

    def handed_back(self, ended: Round) -> None:
        """The last answer of a batch has left."""
        ended.handed = time.monotonic()
        self._news.set()

    def came(self) -> None:
        """Somebody asks."""
        if self._round is not None:
            self._round.came()
            self._news.set()

    async def wait(self, has_room: Callable[[int, float], bool]) -> float:
        """Waits until as many have come as are expected. Gives the seconds that it took.

        `has_room` tells whether one batch holds what waits already and so many items more, of so many tokens.
        """
        if self._round is None or not (expected := self._expected(self._round)):
            return 0.0
        began, current = time.monotonic(), self._round
        while (missing := expected - len(current.arrivals)) > 0 and (left := current.until - time.monotonic()) > 0:
            if not has_room(missing, missing * current.tokens / current.callers):
                break
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._news.wait()
        return time.monotonic() - began

    def _expected(self, ended: Round) -> int:
        """How many of a batch's callers will be back soon enough, if that is nearly all of them; else none."""
        if not self._rounds or max(one.handing for one in self._rounds) * ended.callers > ended.most:
            return 0
        back = sum(one.back_within(ended.patience) for one in self._rounds)
        share = back / sum(one.callers for one in self._rounds)
        return math.ceil(share * ended.callers) if share >= NEARLY_ALL else 0
