"""gRPC in programs whose threads are green: gevent's and eventlet's monkey patches replace threads and sockets."""

from __future__ import annotations

import sys
from typing import Any

_PATCHED = ("threading", "thread", "_thread", "socket")
_begun = False


def prepare() -> None:
    """Make gRPC go along with gevent where that has patched this program: otherwise a stream would stop it for ever.

    The same as `grpc.experimental.gevent.init_gevent()`, which may be called before, and again. Raises RuntimeError
    under eventlet, for which gRPC has nothing.
    """
    global _begun
    if "eventlet.patcher" in sys.modules and sys.modules["eventlet.patcher"].is_monkey_patched("thread"):
        raise RuntimeError(
            "eventlet has patched this program's threads, and gRPC would hang: use gevent, threads or processes "
            "(gunicorn -k gthread, celery --pool threads)"
        )
    if _begun or not gevent_patched():
        return
    from grpc.experimental import gevent

    gevent.init_gevent()
    _begun = True


def refuse_asyncio() -> None:
    """Raises RuntimeError where gevent has patched this program: gRPC's asyncio side hangs there."""
    if gevent_patched():
        raise RuntimeError("gevent has patched this program's threads, and grpc.aio would hang: use saeserve.Client")


def gevent_patched() -> bool:
    """Whether threads or sockets are gevent's."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and any(monkey.is_module_patched(name) for name in _PATCHED)
