"""From words as people write them to an expression of SQLite's FTS5, which never sees what they wrote unquoted."""

from __future__ import annotations

from typing import Final

from saeserve_server.errors import InvalidArgument

MOST_BYTES: Final = 1024
"""Of a query."""
MOST_TERMS: Final = 64


def match_expression(query: str) -> str:
    """Words, all of which must be there, and "phrases" in quotes. Raises InvalidArgument for what holds no word."""
    size = len(query.encode())
    if size > MOST_BYTES:
        raise InvalidArgument.field("query", f"{size} bytes; at most {MOST_BYTES} are taken", reason="TEXT_TOO_LARGE")
    parts = query.split('"')
    if len(parts) % 2 == 0:
        raise InvalidArgument.field("query", 'a quotation mark without its partner; phrases stand "in quotes"')
    terms = [term for place, part in enumerate(parts) for term in ([part] if place % 2 else part.split())]
    # What holds neither letter nor digit is no word to FTS5 either, and matches nothing.
    terms = [term.replace("\0", " ") for term in terms if any(char.isalnum() for char in term)]
    if not terms:
        raise InvalidArgument.field("query", "no words; at least one is expected")
    if len(terms) > MOST_TERMS:
        raise InvalidArgument.field("query", f"{len(terms)} words; at most {MOST_TERMS} are taken")
    return " ".join(f'"{term}"' for term in terms)
