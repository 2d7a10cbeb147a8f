"""What every answer in a notebook is made of: a style sheet of its own, tables, and notes on what is left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from saeserve.answers.wording import counted
from saeserve.notebook.markup import Html, joined, tag

T = TypeVar("T")

# Colours are the page's own (currentColor) or translucent: no theme has to be known. Only what is in .saeserve is
# touched; written twice it comes before Jupyter's rules for tables, which put every cell to the right.
_RULES = {
    "": "font-size:13px;line-height:1.45;max-width:100%;overflow-x:auto",
    "p": "margin:.3em 0",
    "table": "border-collapse:collapse;table-layout:auto;margin:.3em 0",
    "th,td": "text-align:left;vertical-align:top;white-space:nowrap;padding:.15em .6em;border:0;max-width:none",
    "table .n": "text-align:right;font-variant-numeric:tabular-nums",
    "table .w": "white-space:normal;min-width:12em;max-width:56em",
    ".t": "white-space:pre-wrap;overflow-wrap:anywhere",
    "thead th": "border-bottom:1px solid currentColor",
    "tbody tr+tr>*": "border-top:1px solid rgba(128,128,128,.25)",
    ".d": "opacity:.75",
    "tbody tr .x": "border-bottom:2px solid currentColor",
}


def _selector(within: str) -> str:
    return ",".join(f".saeserve.saeserve {one}".strip() for one in within.split(","))


_STYLE = Html(f"<style>{''.join(f'{_selector(within)}{{{rule}}}' for within, rule in _RULES.items())}</style>")


def page(*parts: object) -> str:
    """The parts below each other, complete with their style."""
    return tag("div", _STYLE, *parts, class_="saeserve")


def note(*content: object) -> Html:
    """A line in smaller print; nothing for nothing."""
    line = joined(content)
    return tag("p", line, class_="d") if line else Html()


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Collection[str] = (), wide: str = ""
) -> Html:
    """Rows of cells. `right` are columns of numbers, `wide` the column of texts that may wrap."""
    kinds = ["n" if name in right else "w" if name == wide else "" for name in header]
    head = joined(tag("th", name, class_=kind, scope="col") for name, kind in zip(header, kinds, strict=True))
    body = joined(
        tag("tr", *(tag("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows
    )
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", body))


def facts(rows: Iterable[tuple[str, object]]) -> Html:
    """Names and values below each other."""
    return tag(
        "table",
        tag("tbody", *(tag("tr", tag("th", name, scope="row"), tag("td", value, class_="w")) for name, value in rows)),
    )


def first(many: Sequence[T], most: int, what: str, draw: Callable[[Sequence[T]], Html]) -> Html:
    """The first of many drawn, and how many are not."""
    left = len(many) - most
    return joined([draw(many[:most]), note(f"{counted(left, what)} more not shown here") if left > 0 else Html()])
