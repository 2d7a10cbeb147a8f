"""The call that is being answered: its id, its caller and its clock, known to whatever runs inside it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

REQUEST_ID_KEY = "x-request-id"
LONGEST_REQUEST_ID = 128
CLIENT_KEY = "x-saeserve-client"
LONGEST_CLIENT = 64


@dataclass(slots=True)
class Call:
    """One RPC in progress."""

    request_id: str
    client: str = ""
    """Who calls, as the caller says: nobody has checked it. Empty where none is named."""
    peer: str = ""
    """The connection, as gRPC names it."""
    deadline: float | None = None
    """When its caller stops waiting, in the time of `time.monotonic`; None for one who waits for ever."""
    began: float = field(default_factory=time.monotonic)

    @property
    def lane(self) -> str:
        """Whose turn it takes: the caller's by name, else that of its connection."""
        return self.client or self.peer

    def elapsed(self) -> float:
        """Seconds since the call arrived."""
        return time.monotonic() - self.began


_current: ContextVar[Call] = ContextVar("saeserve_call")


def enter_call(metadata: Iterable[tuple[str, str | bytes]], remaining: float | None, peer: str = "") -> Call:
    """Makes the call that the current task answers; what the caller sent is kept if it is fit to be printed.

    `remaining` are the seconds that its caller goes on waiting, None for ever.
    """
    request_id = client = ""
    for key, value in metadata:
        if key == REQUEST_ID_KEY:
            request_id = request_id or _printable(value, LONGEST_REQUEST_ID)
        elif key == CLIENT_KEY:
            client = client or _printable(value, LONGEST_CLIENT)
    deadline = None if remaining is None else time.monotonic() + remaining
    call = Call(request_id or f"{random.getrandbits(128):032x}", client, peer, deadline)
    _current.set(call)
    return call


def current_call() -> Call:
    """The call that the current task answers."""
    return _current.get()


def _printable(value: str | bytes, longest: int) -> str:
    """The value of a header if it is printable ASCII of at most so many characters, else nothing."""
    fit = isinstance(value, str) and len(value) <= longest and value.isascii() and value.isprintable()
    return str(value) if fit else ""
