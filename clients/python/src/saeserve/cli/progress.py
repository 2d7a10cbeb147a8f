"""How a long run goes, on standard error: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from saeserve.cli import streams
from saeserve.cli.printing import sentence

EVERY = 30.0
"""Seconds between lines where there is no terminal."""
MOST_SKIPPED = 20
"""Texts left out that are told one by one; the others are counted."""


class Telling:
    """What `saeserve.files` tells of a run. Used in `with`."""

    def __init__(self, output: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = self._said = clock()
        self._texts = self._before = self._tokens = self._skipped = 0
        self._share = self._share_before = 0.0
        self._known = False
        self._bar = _bar(sys.stderr.isatty())
        self._task = self._bar.add_task(sentence(output), total=None, told="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begins(self, texts: int) -> None:
        """The first `texts` were encoded by an earlier run."""
        self._texts = self._before = texts
        if texts:
            self._line(f"goes on after {texts:,} texts that an earlier run has encoded")

    def goes_on(self, tokens: int, share: float | None) -> None:
        """A text was encoded."""
        if self._texts == self._before:
            # What was read past took no time worth speaking of; the clock of what is left begins here.
            self._since, self._share_before = self._clock(), share or 0.0
        self._texts += 1
        self._tokens += tokens
        self._known, self._share = share is not None, share or 0.0
        if not self._bar.disable:
            total = 1.0 if self._known else None
            self._bar.update(self._task, completed=self._share, total=total, told=self._how())
        elif self._clock() - self._said >= EVERY:
            self._said = self._clock()
            self._line(f"{100 * self._share:.0f}%, {self._how()}" if self._known else self._how())

    def skips(self, place: str, why: str) -> None:
        """A text was left out."""
        self._skipped += 1
        if self._skipped <= MOST_SKIPPED:
            self._line(f"skipped: {place}: {why}")
        elif self._skipped == MOST_SKIPPED + 1:
            self._line("skipped: more, which are only counted from here on")

    def writes(self) -> None:
        """The file is put together."""
        self._bar.update(self._task, told="writing the file")

    def _how(self) -> str:
        spent = max(self._clock() - self._since, 1e-3)
        rate = self._tokens / spent
        made = f"{self._texts:,} texts, {rate:,.0f} tokens/s"
        done = self._share - self._share_before
        if self._known and done > 0:
            made += f", {_time(spent * (1 - self._share) / done)} left"
        return made

    def _line(self, message: str) -> None:
        message = f"saeserve: {sentence(message)}"
        if self._bar.disable:
            streams.complain(message)
        else:
            self._bar.console.print(Text(message), soft_wrap=True)


def _bar(drawn: bool) -> Progress:
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), _Share(), _Told())
    return Progress(*columns, console=console, disable=not drawn, redirect_stdout=False, redirect_stderr=False)


class _Share(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{task.percentage:3.0f}%")


class _Told(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["told"]))


def _time(seconds: float) -> str:
    """A time in two of its units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
