"""What ties a worker to its front end: it ends when the front end does, or lets go of it, whatever it is doing.

Two ties, since neither holds alone. A thread waits for the end of a pipe that nobody writes to: it can tidy up first,
but cannot run while an extension holds the interpreter's lock, as torch does for seconds while it is loaded. On Linux
the kernel, too, kills the worker when its parent is gone, always, and without tidying.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2). It is sent when the thread that started this process ends: see Link."""


def tie(lifeline: Connection, tidy: Callable[[], None]) -> None:
    """From now on this process ends with its parent; where the parent merely closes its end, after `tidy`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it was gone before that took hold
        os._exit(0)

    def wait() -> None:
        try:
            lifeline.recv_bytes()
        except (EOFError, OSError):
            tidy()
        finally:
            leave()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def leave(status: int = 0) -> None:
    """Ends this process as it stands: nothing is left to save, and taking torch down in order takes seconds, or over a
    device that is lost forever."""
    logging.shutdown()
    os._exit(status)
