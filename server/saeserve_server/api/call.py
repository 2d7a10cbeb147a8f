"""The call that is being answered: its id and its clock, known to whatever runs inside it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

REQUEST_ID_KEY = "x-request-id"
LONGEST_REQUEST_ID = 128


@dataclass(slots=True)
class Call:
    """One RPC in progress."""

    request_id: str
    began: float = field(default_factory=time.monotonic)

    def elapsed(self) -> float:
        """Seconds since the call arrived."""
        return time.monotonic() - self.began


_current: ContextVar[Call] = ContextVar("saeserve_call")


def enter_call(metadata: Iterable[tuple[str, str | bytes]]) -> Call:
    """Makes the call that the current task answers; the caller's request id is kept if it is fit to be printed."""
    call = Call(_given_id(metadata) or uuid.uuid4().hex)
    _current.set(call)
    return call


def current_call() -> Call:
    """The call that the current task answers."""
    return _current.get()


def _given_id(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    for key, value in metadata:
        if key == REQUEST_ID_KEY and isinstance(value, str):
            fit = 0 < len(value) <= LONGEST_REQUEST_ID and value.isascii() and value.isprintable()
            return value if fit else None
    return None
