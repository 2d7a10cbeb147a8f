"""Start a server, load it with Locust for some seconds, stop it. Exit 1 when a search failed or none was made."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
SERVICE = "saeserve.v1.FeatureService"


@contextmanager
def served(model: str, folder: Path, start_s: float) -> Iterator[str]:
    """A server of our own on a free port, ready; yields its address and stops it by its own process."""
    port_file, log = folder / "port", folder / "server.log"
    command = [str(Path(sys.executable).with_name("saeserve-server")), "start", "--model", model]
    command += ["--bind", "127.0.0.1:0", "--metrics-bind", "none", "--port-file", str(port_file)]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as server:
        try:
            deadline = time.monotonic() + start_s
            while not (port_file.exists() and (target := port_file.read_text().strip())):
                give_up_if(server, deadline, log)
                time.sleep(0.1)
            while not ready(target):
                give_up_if(server, deadline, log)
                time.sleep(0.1)
            yield target
            if server.poll() is not None:
                sys.exit(f"the server ended with {server.returncode} under load:\n{log.read_text()[-4000:]}")
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


def give_up_if(server: subprocess.Popen[bytes], deadline: float, log: Path) -> None:
    """Exit with the server's log if it has ended or takes too long."""
    if server.poll() is not None or time.monotonic() > deadline:
        sys.exit(f"the server did not become ready:\n{log.read_text()[-4000:]}")


def ready(target: str) -> bool:
    """Whether the server answers that it serves."""
    with grpc.insecure_channel(target) as channel:
        try:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=2)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def load(target: str, users: int, seconds: int, folder: Path) -> str | None:
    """Run Locust; what went wrong in one line, or nothing."""
    table = folder / "load"
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", target, "--headless", "--only-summary"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s", "--stop-timeout", "30"]
    command += ["--loglevel", "WARNING", "--json-file", str(table), "--exit-code-on-error", "0"]
    if subprocess.run(command, check=False).returncode:
        return "Locust itself failed"
    entries = json.loads(table.with_name(f"{table.name}.json").read_text())
    made, failed = (sum(entry[count] for entry in entries) for count in ("num_requests", "num_failures"))
    if failed or not made:
        return f"{failed} of {made} searches failed"
    print(f"{made} searches by {users} users in {seconds} s, none failed: {made / seconds:.0f} a second")
    return None


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=8, help="searches at a time (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=10, help="how long (default %(default)s)")
    parser.add_argument("--model", default="demo", help="model of the server started here (default %(default)s)")
    parser.add_argument(
        "--start-timeout", type=float, default=180, help="seconds to become ready (default %(default)s)"
    )
    parser.add_argument("--target", help="HOST:PORT of a running server; none is started then")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeserve-load-") as name:
        folder = Path(name)
        if arguments.target:
            problem = load(arguments.target, arguments.users, arguments.seconds, folder)
        else:
            with served(arguments.model, folder, arguments.start_timeout) as target:
                problem = load(target, arguments.users, arguments.seconds, folder)
    if problem:
        sys.exit(problem)


if __name__ == "__main__":
    main()
