"""Makes every subprocess and every connection of a Python process an error. Standard library only: it is loaded before
anything else in the servers of `test_offline`."""

from __future__ import annotations

import json
import sys
from typing import Any

_FORBIDDEN = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "pty.spawn",
    "subprocess.Popen",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
)
_OURS = ("multiprocessing.spawn", "multiprocessing.resource_tracker")

_tried: list[str] | None = None
_file: str | None = None
_installed = False


def begin(file: str | None = None) -> list[str]:
    """From now on; what is tried goes into the list, and into `file` as lines of JSON.

    With a file, the process may start the worker's: `multiprocessing` does that without an audit event.
    """
    global _tried, _file, _installed
    _tried, _file = [], file
    if not _installed:
        _installed = True
        sys.addaudithook(_audit)
        _wrap_fork_exec()
    if file is not None:
        _note("watched")
    return _tried


def end() -> None:
    """No longer."""
    global _tried
    _tried = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _tried is not None and event in _FORBIDDEN:
        _note(f"{event} {arguments!r}")
        raise PermissionError(f"{event} {arguments!r}: not while this is watched")


def _wrap_fork_exec() -> None:
    import _posixsubprocess

    whole = _posixsubprocess.fork_exec

    def fork_exec(arguments: Any, *rest: Any) -> int:
        if _tried is not None:
            text = " ".join(part.decode() if isinstance(part, bytes) else part for part in arguments)
            ours = next((one for one in _OURS if f"from {one} import" in text), None)
            _note(ours or f"fork_exec {text}")
            if ours is None or _file is None or _role() == "worker":
                raise PermissionError(f"{text}: not while this is watched")
        return whole(arguments, *rest)

    _posixsubprocess.fork_exec = fork_exec


def _role() -> str:
    command = " ".join(sys.orig_argv)
    if "multiprocessing.resource_tracker" in command:
        return "tracker"
    return "worker" if "--multiprocessing-fork" in command else "front end"


def _note(what: str) -> None:
    if _tried is not None:
        _tried.append(what)
    if _file is not None:
        with open(_file, "a") as out:  # noqa: PTH123 - nothing but builtins while Python starts
            out.write(json.dumps({"by": _role(), "what": what}) + "\n")
