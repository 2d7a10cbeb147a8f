"""Nothing of a server, a file or a model reaches a terminal as a command to it: all that is printed passes here."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from saeserve.arguments.printable import printable as printable

_NOT_PLAIN = re.compile(r"[^\n -~]")


def sentence(message: str) -> str:
    """A message on one line: its line breaks are spaces."""
    return printable(" ".join(message.split()))


def json_text(value: Any, encoding: str) -> str:
    """JSON that any parser reads and no terminal obeys, in what the encoding has; else in `\\u` escapes.

    Numbers that JSON has not are texts, as in ProtoJSON: "NaN", "Infinity".
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    # Outside of texts JSON is plain ASCII, and inside of them json has escaped line breaks itself.
    return _NOT_PLAIN.sub(lambda found: _shown(found[0], encoding), text)


def _shown(char: str, encoding: str) -> str:
    if char.isprintable():
        try:
            char.encode(encoding)
        except UnicodeEncodeError:
            pass
        else:
            return char
    return f"\\u{ord(char):04x}" if char.isascii() else json.dumps(char)[1:-1]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
