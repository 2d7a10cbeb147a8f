"""How an error shows what it was given: short, and with its type."""

from __future__ import annotations

import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 3


def shown(value: Any) -> str:
    """One line, cut where it is long."""
    if value is None or isinstance(value, bool | int):
        return str(value)
    if hasattr(value, "__array__"):
        return f"an array of shape {tuple(getattr(value, 'shape', ()))} ({type(value).__name__})"
    return f"{' '.join(_SHORT.repr(value).split())} ({type(value).__name__})"
