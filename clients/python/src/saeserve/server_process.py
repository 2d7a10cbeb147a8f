"""The process of a server of one's own: started, heard, and gone when whoever started it is."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from grpc import StatusCode

from saeserve.arguments.printable import printable
from saeserve.arguments.timeouts import Seconds, seconds
from saeserve.client import Client
from saeserve.transport.errors import DeadlineExceeded

log = logging.getLogger("saeserve.local")

_TAIL_LINES = 20
_STOP_SECONDS = 15.0
"""How long a server may take to end before it is killed."""


class LocalServerError(RuntimeError):
    """The server could not be started, or ended before it was ready; the message has the end of what it said."""


class ServerProcess:
    """A `saeserve-server`. It ends with `stop`, and at once when this process does, whatever ends this process.

    Nothing of it lies in files: its address comes over its standard output, its log over its standard error, and its
    standard input is a pipe that is never written to: its end tells the server that its caller is gone.
    """

    def __init__(self, arguments: Sequence[str], timeout: Seconds, token: str | None = None) -> None:
        """arguments: of `saeserve-server start`. timeout: seconds until it must answer. token: what callers send."""
        self._arguments = list(arguments)
        self._timeout = seconds(timeout)
        self._token = token
        self._began = time.monotonic()
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._listeners: list[threading.Thread] = []
        self._address = ""
        self._addressed = threading.Event()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        # `stop` may come from another thread before `start` got as far as a process.
        self._lock = threading.Lock()
        self._stopped = False

    def start(self) -> str:
        """Start it; returns its address once it listens. Raises LocalServerError and DeadlineExceeded."""
        self._began = time.monotonic()
        command = [*_command(), "start", *self._arguments, "--port-file=-", "--end-with-caller"]
        with contextlib.ExitStack() as opened, self._lock:
            if self._stopped:
                raise LocalServerError("stopped before it was started")
            inherited = []
            if self._token is not None:
                file = opened.enter_context(tempfile.TemporaryFile())  # without a name: nobody else can open it
                file.write(self._token.encode())
                file.flush()
                file.seek(0)
                inherited.append(file.fileno())
                command.append(f"--auth-token-file=/dev/fd/{file.fileno()}")
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(),
                pass_fds=inherited,
                # So that Ctrl-C reaches only the caller, who then ends the server in order.
                start_new_session=True,
            )
            _running.add(self)
        log.info("starting saeserve-server, process %d", process.pid)
        self._listen(process.stdout, self._hear_address)
        self._listen(process.stderr, self._hear_log)
        while not self._addressed.wait(min(0.1, self._left())):
            self._check("does not listen")
        self._check("does not listen")
        return self._address

    def await_ready(self, client: Client) -> None:
        """Wait until it answers this client. Raises LocalServerError, DeadlineExceeded, and what no waiting mends."""
        said = ""
        while True:
            self._check("was not ready", said)
            try:
                client.wait_ready(timeout=min(1.0, max(0.05, self._left())))
            except DeadlineExceeded as error:
                said = f"; {error.message}"
            else:
                log.info("ready at %s after %.1f s", client.target, time.monotonic() - self._began)
                return

    def stop(self) -> None:
        """End it and wait for it: SIGTERM, then, if it does not heed that, SIGKILL. Safe to call twice."""
        if os.getpid() != self._owner:
            return  # a forked child: the server is its parent's
        with self._lock:
            self._stopped = True
            process = self._process
        if process is None:
            return
        _running.discard(self)
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.let_go()
        for thread in self._listeners:
            thread.join(1.0)

    def let_go(self) -> None:
        """Close this process's end of the server's standard input."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _left(self) -> float:
        """Seconds until it must answer."""
        return 1e6 if self._timeout is None else max(0.0, self._began + self._timeout - time.monotonic())

    def _check(self, what: str, said: str = "") -> None:
        """Raises LocalServerError if it has ended, DeadlineExceeded if the time is up and it `does not listen`, say."""
        status = self._process.poll() if self._process else None
        waited = time.monotonic() - self._began
        if status is not None:
            for thread in self._listeners:
                thread.join(1.0)
            ended = f"ended with status {status} after {waited:.1f} s, before it was ready"
            raise LocalServerError(f"saeserve-server {ended}{self._last_lines()}")
        if self._left() <= 0 and not (what == "does not listen" and self._address):
            message = f"saeserve-server {what} after {waited:.1f} s{said}{self._last_lines()}"
            raise DeadlineExceeded(message, code=StatusCode.DEADLINE_EXCEEDED)

    def _last_lines(self) -> str:
        lines = list(self._tail)
        return "; the last that it said:\n" + "\n".join(lines) if lines else "; it said nothing"

    def _listen(self, stream: IO[bytes] | None, hear: Callable[[str], None]) -> None:
        """Hear each line, in a thread: a pipe that nobody reads would block the server."""

        def listen() -> None:
            with contextlib.suppress(ValueError, OSError):  # closed meanwhile
                for line in stream or ():
                    with contextlib.suppress(Exception):  # a handler of the caller's that fails ends no reading
                        hear(line.decode(errors="replace").rstrip("\r\n"))

        thread = threading.Thread(target=listen, name="saeserve-local", daemon=True)
        thread.start()
        self._listeners.append(thread)

    def _hear_address(self, line: str) -> None:
        if self._addressed.is_set():
            self._hear_log(line)  # whatever a library prints
        else:
            self._address = line
            self._addressed.set()

    def _hear_log(self, line: str) -> None:
        level, text = _read_line(line)
        if level > logging.DEBUG:
            self._tail.append(text)
        log.log(level, "%s", text)


def _read_line(line: str) -> tuple[int, str]:
    """Level and text of a line of its log; what is no JSON, such as a library's warning, is as it stands."""
    try:
        record = json.loads(line)
        level = logging.getLevelNamesMapping()[record.pop("level").upper()]
        text = str(record.pop("message"))
    except (ValueError, TypeError, KeyError, AttributeError):
        return logging.INFO, printable(line)
    if record.get("reason") == "LOADING":
        level = logging.DEBUG  # our own questions whether it is ready
    exception = str(record.pop("exception", ""))
    more = "".join(f" {key}={value}" for key, value in record.items() if key not in ("time", "logger"))
    return level, printable(text + more) + "".join(f"\n  | {printable(one)}" for one in exception.splitlines())


def _command() -> list[str]:
    """The server's command: beside this interpreter, on the path, or as a module. Raises LocalServerError."""
    beside = shutil.which("saeserve-server", path=str(Path(sys.executable).parent)) if sys.executable else None
    found = beside or shutil.which("saeserve-server")
    if found:
        return [found]
    if sys.executable and importlib.util.find_spec("saeserve_server"):
        return [sys.executable, "-m", "saeserve_server"]
    raise LocalServerError("the server is not installed here: pip install saeserve-server")


def _environment() -> dict[str, str]:
    """Without the variables of a server: they were set for another, and what this one is to know it is told."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SAESERVE_")}


_running: weakref.WeakSet[ServerProcess] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """A forked child that lived on would keep the servers of its parent."""
    for process in list(_running):
        process.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
