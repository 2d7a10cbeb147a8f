"""Signals that end a command let it clear up first: what it has half written goes."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Beside SIGINT, for which Python itself raises KeyboardInterrupt."""


@contextlib.contextmanager
def cleared_up() -> Iterator[None]:
    """Within, a signal that would end the process raises SystemExit; a second one ends it as it stands."""
    mine = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]  # not those that are ignored
    if threading.current_thread() is not threading.main_thread():
        mine = []
    for number in mine:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)
