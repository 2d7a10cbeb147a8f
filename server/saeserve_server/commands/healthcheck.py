"""`python -m saeserve_server.commands.healthcheck [HOST:PORT] [SERVICE]`: exit status 0 if the server says SERVING.

It needs no token: health checks are answered without one.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from saeserve_server.addresses import check_address
from saeserve_server.config import GRPC_PORT
from saeserve_server.errors import printable

if TYPE_CHECKING:
    import grpc

TIMEOUT = 5.0
NOT_SERVING = 1
USAGE = 2


def main(arguments: list[str]) -> int:
    """Asks the health service; prints the answer."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before grpc is loaded: what goes wrong is said by us, in a line
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    options = _parser().parse_args(arguments)
    target: str = options.target
    for everywhere, here in (("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")):
        if target.startswith(everywhere):
            target = here + target.removeprefix(everywhere)
    try:
        if ":///" not in target:  # a name that gRPC looks up in a way of its own
            check_address(target, default_port=GRPC_PORT)
        channel = _connect(target, options)
    except ValueError as error:
        print(printable(f"{target}: {error}"), file=sys.stderr)
        return USAGE
    request = health_pb2.HealthCheckRequest(service=options.service)
    with channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            print(printable(f"{target}: {error.code().name}: {error.details()}"), file=sys.stderr)
            return NOT_SERVING
    state = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    print(printable(f"{target}: {state}"))
    return 0 if response.status == health_pb2.HealthCheckResponse.SERVING else NOT_SERVING


def _connect(target: str, options: argparse.Namespace) -> grpc.Channel:
    """Raises ValueError for files that cannot be used."""
    import grpc

    from saeserve.transport.tls import channel_credentials

    local = [("grpc.enable_http_proxy", 0)]
    files = (options.ca_cert, options.client_cert, options.client_key)
    if not (options.tls or any(files) or options.server_name):
        return grpc.insecure_channel(target, options=local)
    if options.server_name:
        local.append(("grpc.ssl_target_name_override", options.server_name))
    return grpc.secure_channel(target, channel_credentials(*files), options=local)


def _parser() -> argparse.ArgumentParser:
    def variable(name: str) -> str | None:
        return os.environ.get(f"SAESERVE_{name}") or None

    # A certificate that the server shows by its own setting says that it speaks TLS.
    tls = bool(variable("TLS_CERT")) or (variable("TLS") or "0").lower() not in ("0", "false", "no")
    parser = argparse.ArgumentParser(
        prog="python -m saeserve_server.commands.healthcheck",
        description="Asks a server whether it is ready; exit status 0 if it is, 1 if not, 2 for wrong usage.",
    )
    parser.add_argument(
        "target", nargs="?", default=variable("BIND") or "127.0.0.1:50051", help="HOST:PORT [SAESERVE_BIND]"
    )
    parser.add_argument("service", nargs="?", default="", help="a service; by default the whole server")
    parser.add_argument(
        "--tls", action="store_true", default=tls, help="use TLS [SAESERVE_TLS, or where SAESERVE_TLS_CERT is set]"
    )
    for name, text in (
        ("CA_CERT", "PEM file of the authorities to trust"),
        ("CLIENT_CERT", "PEM file to be known by, for mutual TLS"),
        ("CLIENT_KEY", "PEM file of its private key"),
        ("SERVER_NAME", "name in the server's certificate, if it is not that of the target"),
    ):
        flag = "--" + name.lower().replace("_", "-")
        parser.add_argument(flag, default=variable(name), metavar="VALUE", help=f"{text} [SAESERVE_{name}]")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
