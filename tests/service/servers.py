"""Servers of a test's own, as child processes: started, watched, ended by their own process ids."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conftest import DEVICE, START_TIMEOUT
from tests.service.wire import TIMEOUT, connect, stub_of

COMMAND = [sys.executable, "-m", "saeserve_server"]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
FEW = 128
"""Descriptors of a server that has few."""
PATIENCE = 60.0
"""Seconds within which what must happen has happened, on a machine that is busy with other things."""


class Server:
    """`saeserve-server start` on a free port, with JSON log lines in a file. A setting of None stays at its default."""

    def __init__(self, folder: Path, *, few_descriptors: bool = False, **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port_file = folder / "port"
        self._log = folder / "log"
        chosen: dict[str, object] = {
            "bind": "127.0.0.1:0",
            "metrics_bind": "127.0.0.1:0",
            "port_file": self.port_file,
            "index": "none",
            "device": DEVICE,
            "log_format": "json",
        }
        chosen |= settings
        given = {name: value for name, value in chosen.items() if value is not None}
        flags = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), str(value))]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "start", *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        if few_descriptors:  # long before it has as much as begun to look
            resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (FEW - 10, FEW))
        self.target = ""

    def await_listening(self) -> str:
        """Its address, once it listens."""
        until(lambda: self.port_file.exists() or self.process.poll() is not None, "the server listens")
        assert self.port_file.exists(), self._log.read_text()
        self.target = self.port_file.read_text()
        return self.target

    def await_ready(self, channel: grpc.Channel) -> None:
        until(lambda: self.health(channel) == SERVING, "the server is ready", START_TIMEOUT)

    def health(self, channel: grpc.Channel, name: str = "") -> Any:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT, wait_for_ready=True).status

    def metrics(self) -> dict[str, float]:
        """The metrics page: sample → value."""
        found = re.search(r"metrics on (\S+:\d+)", self._log.read_text())
        assert found
        with urllib.request.urlopen(f"http://{found.group(1)}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def log(self) -> list[dict[str, object]]:
        """Its log lines. Raises ValueError for one that is not JSON."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def worker(self) -> int:
        """Process id of its worker."""
        (pid,) = [child for child in children(self.process.pid) if b"spawn_main" in command_line(child)]
        return pid

    def terminate(self, timeout: float = PATIENCE) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def end(self) -> None:
        """Whatever its state."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextmanager
def server(folder: Path, *, ready: bool = True, **settings: object) -> Iterator[tuple[Server, grpc.Channel, Any]]:
    """A server, a channel to it and a stub; ready unless told otherwise."""
    one = Server(folder, **settings)
    try:
        with connect(one.await_listening()) as channel:
            if ready:
                one.await_ready(channel)
            yield one, channel, stub_of(channel)
    finally:
        one.end()


def until(holds: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    """Waits until it holds; fails if it does not in time."""
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Child processes."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def descriptors(pid: int) -> int:
    """How many the process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def is_alive(pid: int) -> bool:
    """Whether the process runs: one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_to_end(*arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Runs the command until it ends by itself."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=timeout, check=False, env=dict(os.environ)
    )
