"""`python -m saeserve_server.healthcheck [HOST:PORT] [SERVICE]`: exit status 0 if the server says SERVING."""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT = 5.0


def main(arguments: list[str]) -> int:
    """Asks the health service; the address is the argument, else SAESERVE_BIND, else the default."""
    target = arguments[0] if arguments else os.environ.get("SAESERVE_BIND", "127.0.0.1:50051")
    for everywhere, here in (("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")):
        if target.startswith(everywhere):
            target = here + target.removeprefix(everywhere)
    request = health_pb2.HealthCheckRequest(service=arguments[1] if len(arguments) > 1 else "")
    with grpc.insecure_channel(target) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            print(f"{target}: {error.code().name}", file=sys.stderr)
            return 1
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    print(f"{target}: {state}")
    return 0 if response.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
