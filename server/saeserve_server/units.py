"""Amounts and tables as people read them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from saeserve_server.errors import printable


def readable_bytes(count: int) -> str:
    """`512 B`, `3.9 KiB`, `7.3 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def parse_bytes(text: str) -> int:
    """`512 MiB`, `8GB`, `1000` as bytes. Raises ValueError."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if match is None or (match[3] and not match[2]):
        raise ValueError("expected a size such as 8GiB")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def table(rows: Sequence[Sequence[str]], numbers: Collection[str]) -> list[str]:
    """Lines of aligned columns; the first row is the headers, and those in `numbers` are aligned to the right.

    What cannot be printed is spelled out: cells hold names out of files.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if header in numbers else cell.ljust(width)
            for header, cell, width in zip(rows[0], row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
