"""A fake server as a process of its own, to be killed: `python -m tests.web.replica` prints its address."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from saeserve.transport.channel import SERVICE
from saeserve.v1 import feature_service_pb2_grpc as rpc
from tests.client.fake import new_service
from tests.service.servers import SERVING

ROOT = Path(__file__).parents[2]


def serve() -> None:
    """Until killed."""
    server = grpc.server(ThreadPoolExecutor(16))
    rpc.add_FeatureServiceServicer_to_server(new_service(), server)
    healthy = health.HealthServicer()
    healthy.set(SERVICE, SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


@contextmanager
def replicas(count: int) -> Iterator[list[tuple[str, subprocess.Popen[str]]]]:
    """So many of them: their addresses and processes."""
    command = [sys.executable, "-m", "tests.web.replica"]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        yield [(process.stdout.readline().strip(), process) for process in started]  # type: ignore[union-attr]
    finally:
        for process in started:
            process.kill()
            process.wait(10)
            process.stdout.close()  # type: ignore[union-attr]


if __name__ == "__main__":
    serve()
