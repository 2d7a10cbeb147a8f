"""A server of one's own: a child process for the length of a `with` block, on a free port of this machine."""

# ruff: noqa: ASYNC109 (the timeout is for starting, not for the whole)

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from grpc import StatusCode

from saeserve.aio import AsyncClient
from saeserve.client import Client
from saeserve.transport.errors import DeadlineExceeded

_TAIL_LINES = 20
_STOP_SECONDS = 15.0
"""How long a server may take to end before it is killed."""


class LocalServerError(RuntimeError):
    """The child could not be started, or ended before it was ready; the message has the end of what it printed."""


@contextmanager
def local(
    model: str | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    device: str | None = None,
    timeout: float = 120.0,
    **settings: object,
) -> Iterator[Client]:
    """Start a server and give a Client that is ready; end the server with the block.

        with saeserve.local() as client:
            print(client.search("red").results[0].name)

    model: `demo`, `synthetic:NAME`, a local Hugging Face folder or a hub name; None: what `config` says, else `demo`.
    config: the server's TOML file.
    device: `auto`, `cpu` or `cuda[:n]`.
    timeout: seconds until the server must answer.
    settings: any other setting of the server, by its name in the configuration: `max_tokens=64`, `neurons=False`.

    Raises LocalServerError if `saeserve-server` is not installed, or if it ends before it is ready (a wrong
    configuration, say), and DeadlineExceeded if it is not ready in time.
    """
    with _Child(_arguments(model, config, device, settings), timeout) as child, Client(child.target()) as client:
        child.await_ready(client)
        yield client


@asynccontextmanager
async def local_async(
    model: str | None = None,
    *,
    config: str | os.PathLike[str] | None = None,
    device: str | None = None,
    timeout: float = 120.0,
    **settings: object,
) -> AsyncIterator[AsyncClient]:
    """`local` for asyncio: gives an AsyncClient. Starting and ending run in a thread."""
    child = _Child(_arguments(model, config, device, settings), timeout)
    try:
        target = await asyncio.to_thread(child.start_and_await)
        async with AsyncClient(target) as client:
            yield client
    finally:
        # Shielded: the child must end also where this task is cancelled while it waits.
        await asyncio.shield(asyncio.to_thread(child.stop))


def _command() -> list[str]:
    """The server's command: beside this interpreter, on the path, or as a module. Raises LocalServerError."""
    beside = shutil.which("saeserve-server", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("saeserve-server")
    if found:
        return [found]
    if importlib.util.find_spec("saeserve_server"):
        return [sys.executable, "-m", "saeserve_server"]
    raise LocalServerError("the server is not installed here: pip install saeserve-server")


def _arguments(
    model: str | None, config: str | os.PathLike[str] | None, device: str | None, settings: dict[str, object]
) -> list[str]:
    """Flags of `saeserve-server start`, except the port."""
    chosen: dict[str, object] = {"bind": "127.0.0.1:0", "metrics_bind": "none"}
    if model is None and config is None:
        model = "demo"
    # Nobody else calls this server: there is nothing to drain.
    chosen |= {"model": model, "config": config, "device": device, "drain_delay": 0} | settings
    arguments = []
    for name, value in chosen.items():
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ["--" + name.replace("_", "-"), text]
    return arguments


class _Child:
    """The server's process. Its output goes to a file, because a pipe that nobody reads would block it."""

    def __init__(self, arguments: list[str], timeout: float) -> None:
        self._arguments = arguments
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        # `stop` may come from another thread before `_start` got as far as a process.
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> _Child:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_and_await(self) -> str:
        """Start, wait until it answers, and return its address."""
        self._start()
        with Client(self.target()) as client:
            self.await_ready(client)
            return client.target

    def _start(self) -> None:
        self._deadline = time.monotonic() + self._timeout
        self._folder = tempfile.TemporaryDirectory(prefix="saeserve-local-", ignore_cleanup_errors=True)
        self._output = Path(self._folder.name) / "output"
        self._port_file = Path(self._folder.name) / "port"
        command = [*_command(), "start", *self._arguments, "--port-file", str(self._port_file)]
        with self._output.open("wb") as output, self._lock:
            if self._stopped:
                raise LocalServerError("stopped before it was started")
            # In a session of its own, so that Ctrl-C reaches only the caller, who then ends the child in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def target(self) -> str:
        """The address that the child listens on, once it does."""
        while not self._port_file.exists():
            self._check()
            time.sleep(0.02)
        return self._port_file.read_text().strip()

    def await_ready(self, client: Client) -> None:
        """Wait until the child answers."""
        while True:
            self._check()
            try:
                client.wait_ready(timeout=min(1.0, max(0.1, self._deadline - time.monotonic())))
                return
            except DeadlineExceeded as error:
                if time.monotonic() >= self._deadline:
                    raise DeadlineExceeded(f"{error.message}\n{self._tail()}", code=error.code) from error

    def _check(self) -> None:
        status = self._process.poll() if self._process else None
        if status is not None:
            raise LocalServerError(f"saeserve-server ended with status {status} before it was ready\n{self._tail()}")
        if time.monotonic() >= self._deadline and not self._port_file.exists():
            message = f"saeserve-server does not listen after {self._timeout:g} s\n{self._tail()}"
            raise DeadlineExceeded(message, code=StatusCode.DEADLINE_EXCEEDED)

    def _tail(self) -> str:
        """The end of what the child printed."""
        lines = self._output.read_bytes().decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def stop(self) -> None:
        """End the child and wait for it: SIGTERM, then, if it does not heed that, SIGKILL. Safe to call twice."""
        with self._lock:
            self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._folder is not None:
            self._folder.cleanup()
