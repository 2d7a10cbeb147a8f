"""What may be printed: no text of a server, a file or a model is a command to a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, with what is not seen spelled out: `\\n`, `\\x1b`, `\\u202e`.

    Escapes of terminals, the other control characters (C1 too), line breaks of every kind, marks that turn the
    direction of writing, and what is invisible. Letters of all scripts stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
