"""The callers of a batch who come back at once: the one thing that a next batch waits for, and how long.

In a closed loop each caller asks again when he has his answer. Were the first to return dispatched alone, the others
would find the worker busy: batches of one and of all others would take turns, and the fixed part of a batch's time be
paid twice. So who has just been answered is waited for; but only if nearly all will be back before that has cost half
of what it saves, judged by the last batches, and if one batch holds them and what waits already.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

SPENT_OF_SAVED = 0.5
"""Of what one batch less saves, the time that may be spent on it."""
NEARLY_ALL = 0.9
"""Of a batch's callers. If fewer return, they would only overtake the others."""
REMEMBERED = 4
"""Batches by which it is judged who returns."""
APART = 1.5
"""Batches differ enough to tell what is fixed of their time if the one is so many times the other's work."""
MEMORY = 0.7
"""Weight of the past in that."""


class FixedPart:
    """What a batch takes however small it is: of two batches, one after the other, the line through both at no work."""

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._last: tuple[float, float] | None = None
        self._texts = 1

    @property
    def seconds(self) -> float:
        """Until two different batches have been seen half of a text's share of a batch, so that they will be."""
        if self._seconds is None:
            return 0.0 if self._last is None else self._last[1] / self._texts / 2
        return self._seconds

    def measured(self, work: float, seconds: float, texts: int = 1) -> None:
        """A batch of so much work, of so many texts, took so long."""
        self._texts = max(1, texts)
        if self._last is not None:
            (small, quick), (large, slow) = sorted([self._last, (work, seconds)])
            if 0 < small * APART <= large:
                now = min(max(0.0, (quick * large - slow * small) / (large - small)), quick)
                self._seconds = now if self._seconds is None else MEMORY * self._seconds + (1 - MEMORY) * now
        self._last = work, seconds


@dataclass(slots=True, eq=False)
class _Round:
    """A batch that has ended, and how long after that so many came."""

    callers: int
    tokens: int
    ended: float
    lags: list[float] = field(default_factory=list)


class Returning:
    """Who is expected back."""

    def __init__(self) -> None:
        self._round: _Round | None = None
        self._rounds: deque[_Round] = deque(maxlen=REMEMBERED)
        self._fixed = FixedPart()
        self._arrival = asyncio.Event()

    @property
    def patience(self) -> float:
        """For how long after the end of a batch its callers may be waited for, in seconds."""
        return SPENT_OF_SAVED * self._fixed.seconds

    def ended(self, work: float, seconds: float, tokens: Sequence[int]) -> None:
        """A batch has been computed, so much work in so long. Its texts that are waited for have so many tokens."""
        self._fixed.measured(work, seconds, len(tokens))
        if self._round is not None:
            self._rounds.append(self._round)
        self._round = _Round(len(tokens), sum(tokens), time.monotonic()) if tokens else None

    def came(self) -> None:
        """Somebody asks. Who it is is not known: of more than have been answered, the others are strangers."""
        if (last := self._round) is not None and len(last.lags) < last.callers:
            last.lags.append(time.monotonic() - last.ended)
            self._arrival.set()

    async def wait(self, has_room: Callable[[int, float], bool]) -> float:
        """Waits until as many have come as are expected. Gives the seconds that it took.

        `has_room` tells whether one batch holds what waits already and so many items more, of so many tokens.
        """
        if (last := self._round) is None or not (expected := self._expected(last)):
            return 0.0
        began, until = time.monotonic(), last.ended + self.patience
        while (missing := expected - len(last.lags)) > 0 and (left := until - time.monotonic()) > 0:
            if not has_room(missing, missing * last.tokens / last.callers):
                break
            self._arrival.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._arrival.wait()
        return time.monotonic() - began

    def _expected(self, last: _Round) -> int:
        """How many of a batch's callers will be back in time, if that is nearly all of them; else none."""
        callers = sum(one.callers for one in self._rounds)
        back = sum(bisect_right(one.lags, self.patience) for one in self._rounds)
        return math.ceil(back / callers * last.callers) if callers and back >= NEARLY_ALL * callers else 0
