"""Amounts as people read them."""

from __future__ import annotations


def readable_bytes(count: int) -> str:
    """`512 B`, `3.9 KiB`, `7.3 GiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
