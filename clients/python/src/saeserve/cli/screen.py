"""Where answers are drawn: width, colour, and lines that never wrap by surprise."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from saeserve.answers.activations import Floats
from saeserve.answers.types import Feature, Token, UsualToken
from saeserve.answers.wording import milliseconds as milliseconds
from saeserve.answers.wording import number as number
from saeserve.answers.wording import percent as percent
from saeserve.cli.printing import printable
from saeserve.cli.shading import around, column, fit, label, shaded, stretches

_LINES = 2
"""How many lines of a long text are shown round its peak."""

_NARROWEST = 40
"""Columns that a table takes at least, however narrow the terminal says it is."""
_WIDEST = 10_000


def columns() -> int:
    """Width of the terminal: `COLUMNS` where it holds a number above 0, else what the terminal says, else 80."""
    asked = shutil.get_terminal_size((0, 0)).columns  # heeds COLUMNS, asks standard output
    for stream in (2, 0):  # output into a pager: the terminal is still there
        with contextlib.suppress(OSError):
            asked = asked or os.get_terminal_size(stream).columns
    return min(asked or 80, _WIDEST)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the caller, who knows the exit code."""
        raise BrokenPipeError


class Screen:
    """A console, and whether tokens are shaded on it."""

    def __init__(self, full: bool = False) -> None:
        self.width = max(_NARROWEST, columns())
        # With both given, rich does not look at variables that may hold anything.
        self._console = _Console(width=self.width, height=25, highlight=False, markup=False, emoji=False)
        self.color = self._console.is_terminal and not self._console.no_color and bool(self._console.color_system)
        self._full = full

    def line(self, text: str = "", style: str = "") -> None:
        """One line, as it is."""
        self._console.print(Text(printable(text.rstrip()), style if self.color else ""), soft_wrap=True)

    def wrapped(self, text: str, style: str = "", *, indent: int = 0) -> None:
        """A paragraph."""
        self._block(Text(printable(text), style if self.color else ""), " " * indent, " " * indent)

    def tokens(
        self, tokens: Sequence[Token], activations: Floats, scale: float, peak: int | None, *, prefix: str = "     "
    ) -> None:
        """The shaded text beside a prefix; of a long text, what stands round the peak."""
        cells = (self.width - len(prefix)) * _LINES - 2
        shown = stretches(tokens, activations, peak)
        start, end = (0, len(shown)) if self._full else around(shown, cells)
        text = shaded(shown[start:end], scale, color=self.color)
        if start > 0:
            text = Text("…") + text
        if end < len(shown):
            text = text + Text("…")
        self._block(text, prefix, " " * len(prefix))

    def _block(self, text: Text, first: str, rest: str) -> None:
        prefix = first
        for part in text.wrap(self._console, max(20, self.width - len(first))):
            part.rstrip()
            self._console.print(Text(prefix) + part, soft_wrap=True)
            prefix = rest

    def pairs(self, rows: Sequence[tuple[str, object]]) -> None:
        """Names and values below each other."""
        names = max(len(name) for name, _ in rows)
        for name, value in rows:
            self._block(Text(printable(str(value))), f"{name:<{names}}  ", " " * (names + 2))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
        """Columns as wide as their content; the last takes what is left of the line."""
        lines = [[printable(cell) for cell in row] for row in (header, *rows)]
        widths = [max(cell_len(line[place]) for line in lines) for place in range(len(header))]
        widths[-1] = max(8, min(widths[-1], self.width - sum(widths[:-1]) - 2 * (len(header) - 1)))
        for place_, row in enumerate(lines):
            cells = [column(cell, widths[place], right=place in right) for place, cell in enumerate(row)]
            self.line("  ".join(cells), "bold" if place_ == 0 else "")


def usual(tokens: Sequence[UsualToken], width: int | None = None) -> str:
    """The tokens on which a feature usually peaks."""
    return fit("  ".join(label(usual.token) for usual in tokens), width)


def facts(feature: Feature) -> str:
    """A feature in one line."""
    known = f"{feature}  layer {feature.layer}  {feature.kind}  density {percent(feature.density)}"
    return known if feature.density is None else f"{known} ({feature.density_origin})"
