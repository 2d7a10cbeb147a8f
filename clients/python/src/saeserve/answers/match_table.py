"""How many of the features that fire most on a text do so on a token on which they usually fire: by layer and kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

from saeserve.answers.results import SearchResult
from saeserve.answers.seen import Brief, Tabular
from saeserve.answers.types import Kind, Match

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True, repr=False)
class MatchRow(Brief):
    """The features of one kind in one layer that fire most on a text."""

    text: int
    """Which of the texts, from 0."""
    layer: int
    kind: Kind
    features: int
    """How many fire at all, at most the limit."""
    exact: int
    """Of these, on a token that is one of their usual ones."""
    folded: int
    """On one that is but for case and white space."""
    unknown: int
    """Of how many no usual token is known: without an index of their source of all."""

    @property
    def matched(self) -> int:
        """Exact and folded."""
        return self.exact + self.folded

    @property
    def share(self) -> float | None:
        """`matched` of the features whose usual tokens are known; None where there are none."""
        known = self.features - self.unknown
        return self.matched / known if known else None


@dataclass(frozen=True, slots=True, repr=False)
class MatchTable(Tabular):
    """Rows by text, layer, and kind. Iterating gives the rows; `print` gives a table for each text."""

    texts: tuple[str, ...]
    """What the texts are called."""
    ranking: str
    limit: int
    """How many features of each layer and kind were asked for."""
    rows: tuple[MatchRow, ...]

    def __iter__(self) -> Iterator[MatchRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds that there are, latents first."""
        return tuple(kind for kind in Kind if any(row.kind is kind for row in self.rows))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that there are, ascending."""
        return tuple(sorted({row.layer for row in self.rows}))

    def row(self, layer: int, kind: Kind | str, text: int = 0) -> MatchRow:
        """One row. Raises KeyError where there is none."""
        for row in self.rows:
            if (row.text, row.layer, row.kind) == (text, layer, Kind(kind)):
                return row
        raise KeyError(f"no {kind}s of layer {layer} for text {text}")

    def as_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        return {
            "texts": list(self.texts),
            "ranking": self.ranking,
            "limit": self.limit,
            "rows": [
                {
                    "text": row.text,
                    "layer": row.layer,
                    "kind": row.kind.value,
                    "features": row.features,
                    "matched": row.matched,
                    "exact": row.exact,
                    "folded": row.folded,
                    "unknown": row.unknown,
                }
                for row in self.rows
            ],
        }

    def lines(self, text: int = 0) -> list[list[str]]:
        """The table of one text as cells, the header first: a line for each layer, a column for each kind."""
        header = ["layer", *(f"{kind.value}s" for kind in self.kinds)]
        return [
            header,
            *([str(layer), *(self._cell(text, layer, kind) for kind in self.kinds)] for layer in self.layers),
        ]

    def _cell(self, text: int, layer: int, kind: Kind) -> str:
        try:
            row = self.row(layer, kind, text)
        except KeyError:
            return "-"
        return f"{row.matched}/{row.features}" if row.share is not None or not row.features else f"?/{row.features}"

    def __str__(self) -> str:
        tables = []
        for text, name in enumerate(self.texts):
            cells = self.lines(text)
            widths = [max(len(line[place]) for line in cells) for place in range(len(cells[0]))]
            body = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]
            tables.append("\n".join([name, *body] if len(self.texts) > 1 else body))
        return "\n\n".join(tables)

    @overload
    def plot(self, path: str | PathLike[str]) -> None: ...
    @overload
    def plot(self, path: None = None, *, text: int = 0, ax: Axes | None = None) -> Axes: ...
    def plot(self, path: str | PathLike[str] | None = None, *, text: int = 0, ax: Axes | None = None) -> Axes | None:
        """Draw the shares by layer: of one text into `ax`, or new Axes, which are returned; or of all into a file.

        path: the file; its ending says its format: .png, .svg, .pdf.
        text: which of the texts, from 0.

        Needs matplotlib: raises ImportError, which says how to install it; ValueError for an ending that it does not
        know, OSError where the file cannot be written, IndexError for a text that is not there.
        """
        from saeserve.plots import match

        if path is None:
            return match.draw(self, text, ax)
        match.save(self, path)
        return None


def count(text: int, layer: int, kind: Kind, found: SearchResult) -> MatchRow:
    """A row from a search among the features of one layer and kind."""
    matches = [hit.match for hit in found]
    return MatchRow(
        text=text,
        layer=layer,
        kind=kind,
        features=len(matches),
        exact=matches.count(Match.EXACT),
        folded=matches.count(Match.FOLDED),
        unknown=matches.count(Match.UNKNOWN),
    )
