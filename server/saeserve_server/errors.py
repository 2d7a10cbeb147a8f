"""The one error hierarchy. `api/errors.py` maps it to status codes and rich details; nothing else does.

Messages of `ServeError` reach callers: they name what was asked and what was expected, never a path or a stack.
`ConfigError` reaches whoever starts the server, and names the file, the key and what was expected.
"""

from __future__ import annotations

import copy
import difflib
import json
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Self

LONGEST_LINE = 2000
"""Characters of a line of a ConfigError."""


class ConfigError(Exception):
    """The server cannot be started with this configuration: a line for each thing that is wrong with it.

    Lines quote names and values out of files that anybody may have made. So each stays one line: what cannot be printed
    (a line break, a terminal's escape) is spelled out, and of a line that is too long the middle is left out.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(_one_line(line) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class Status(Enum):
    """The status codes that are ours to give, by the names that gRPC gives them."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request, by its path in the message, and what was expected of it."""

    field: str
    description: str


class ServeError(Exception):
    """A request that was not answered: status, upper-case reason, and a message for its caller."""

    status = Status.INTERNAL
    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Iterable[Violation] = (),
        metadata: dict[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.violations = tuple(violations)
        self.metadata = metadata or {}
        self.retry_after = retry_after
        """Seconds after which a retry may succeed; None where no retry can mend it."""

    def again(self) -> Self:
        """The same error anew, for another who waits for the same: raised once for each, one grows with every time."""
        return copy.copy(self)


class InvalidArgument(ServeError):
    """The request is wrong whatever the server's state."""

    status = Status.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    @classmethod
    def field(cls, field: str, description: str, *, reason: str | None = None) -> InvalidArgument:
        """An error about one field; `description` says what was given and what was expected."""
        return cls(f"{field}: {description}", reason=reason, violations=[Violation(field, description)])


class NotFound(ServeError):
    """The request names something that is not served."""

    status = Status.NOT_FOUND
    reason = "NOT_FOUND"


class FailedPrecondition(ServeError):
    """The server as it is configured cannot answer this."""

    status = Status.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class Aborted(ServeError):
    """What the request refers to has changed: start again."""

    status = Status.ABORTED
    reason = "ABORTED"


class Overloaded(ServeError):
    """The server has more to do than it may take on; a retry after the delay is likely to be taken."""

    status = Status.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"


class Unauthenticated(ServeError):
    """The call does not carry the credentials that the server asks for."""

    status = Status.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class Unavailable(ServeError):
    """The server cannot answer now and will later."""

    status = Status.UNAVAILABLE
    reason = "UNAVAILABLE"


class Internal(ServeError):
    """A fault of the server. Its message is for the log; callers get a request id and nothing else."""

    logged = False
    """Whether it stands in the log already, with its cause."""


COMPARED = 80
"""Characters of a name."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint for an unknown name: the nearest known ones, or a few of them. Empty if nothing is known.

    Of a name of any length its beginning is compared: each comparison takes its length times that of the known one.
    """
    names = list(known)
    near = difflib.get_close_matches(name[:COMPARED], names, n=count, cutoff=0.4)
    if near:
        return "; did you mean " + ", ".join(near) + "?"
    if not names:
        return ""
    more = ", …" if len(names) > count else ""
    return "; known: " + ", ".join(names[:count]) + more


def printable(text: str) -> str:
    """The text with what cannot be printed as `\\n` or `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(text: str) -> str:
    """The text as a string of TOML, with what cannot be printed in escapes."""
    return "".join(
        char if char.isprintable() else f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
        for char in json.dumps(text, ensure_ascii=False)
    )


def shown(value: object) -> str:
    """A value out of a file, for an error message: its repr, cut short however long or deep it is."""
    return _SHORT.repr(value)


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Long ones may not even be written out: Python refuses."""
        return repr(x) if x.bit_length() <= 128 else f"a whole number of {x.bit_length()} bits"


_SHORT = _Short()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = 80


def _one_line(text: str) -> str:
    if len(text) > LONGEST_LINE:
        text = _without_middle(text)
    text = printable(text)
    return text if len(text) <= LONGEST_LINE else _without_middle(text)


def _without_middle(text: str) -> str:
    """What stands at the ends matters: the place, and what to do."""
    return f"{text[: LONGEST_LINE * 2 // 3]} … {text[-LONGEST_LINE // 4 :]}"
