"""How far a build is, on standard error: a line that is written over on a terminal, else one now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from saeserve_server.records.builder import Progress

SECONDS: Final = 1.0
SECONDS_IN_A_FILE: Final = 10.0
WIDTH: Final = 24


class ProgressLine:
    """Shows progress; `share` tells how much of the corpus has been read, 0 to 1."""

    def __init__(self, share: Callable[[], float]) -> None:
        self._share = share
        self._is_terminal = sys.stderr.isatty()
        self._began = self._shown = time.monotonic()
        self._first_tokens: int | None = None

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._first_tokens is None:
            self._first_tokens, self._began = progress.tokens, now  # a build that goes on begins with what was there
        if now - self._shown < (SECONDS if self._is_terminal else SECONDS_IN_A_FILE):
            return
        self._shown = now
        line = describe(progress, self._share(), now - self._began, progress.tokens - self._first_tokens)
        print(f"\r{line}\x1b[K" if self._is_terminal else line, file=sys.stderr, flush=True, end=self._end())

    def end(self) -> None:
        """Leaves the line."""
        if self._is_terminal:
            print(file=sys.stderr)

    def _end(self) -> str:
        return "" if self._is_terminal else "\n"


def describe(progress: Progress, share: float, seconds: float, tokens: int) -> str:
    """A line: a bar, the rate since the start, and how long it will take at that rate."""
    if progress.second_pass is not None:
        return f"{_bar(progress.second_pass)} second pass"
    rate = tokens / max(seconds, 1e-9)
    left = f", {_time(seconds * (1 - share) / share)} left" if share > 0 else ""
    return f"{_bar(share)} {progress.texts:,} texts, {progress.tokens:,} tokens, {rate:,.0f} tokens/s{left}"


def _bar(share: float) -> str:
    full = round(WIDTH * min(1.0, share))
    return f"[{'#' * full}{'.' * (WIDTH - full)}] {min(1.0, share):4.0%}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
