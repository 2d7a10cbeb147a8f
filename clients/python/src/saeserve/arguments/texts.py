"""What a text is."""

from __future__ import annotations

from typing import Any

from saeserve.arguments.shown import shown


def text(value: Any, what: str = "text") -> str:
    """A text that UTF-8 can carry, as a plain `str`. `what` names it in errors.

    Takes str, its subclasses (also NumPy's) and arrays of no dimension that hold one. Raises TypeError for anything
    else, and ValueError for half of a surrogate pair, saying where it stands.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if not isinstance(value, str):
        raise TypeError(f"{what} is {described(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} is not UTF-8: {_half(value, error.start)}") from None
    return str(value)


def described(value: Any) -> str:
    """What was given instead of a text, and what to do about it."""
    if value is None:
        return "None, not a text"
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes, not a text: decode them first, for example with .decode()"
    if type(value).__name__ in ("NAType", "NaTType") or (hasattr(value, "is_integer") and str(value) == "nan"):
        return f"{value}, not a text: a missing value?"
    return f"{shown(value)}, not a text"


def _half(value: str, place: int) -> str:
    code = ord(value[place])
    # Bytes that were no UTF-8 where Python read a file name, an argument or standard input (PEP 383).
    if 0xDC80 <= code <= 0xDCFF:
        before = len(value[:place].encode(errors="surrogateescape"))
        return f"byte 0x{code - 0xDC00:02x} at {before}, where it was read"
    return f"character {place} is U+{code:04X}, half of a surrogate pair"
