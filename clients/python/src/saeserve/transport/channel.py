"""How both clients connect: balancing, pauses between attempts, keepalive and size limits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

from saeserve._version import __version__

SERVICE = "saeserve.v1.FeatureService"
DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 30.0
DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024

MAX_ATTEMPTS = 5
"""How often a unary call is sent in all before its error is raised."""
INITIAL_BACKOFF = 0.1
"""Seconds before the first retry where the server names no delay; doubles with each."""
MAX_BACKOFF = 2.0

ChannelOptions: TypeAlias = list[tuple[str, str | int]]

# Without a retryPolicy: unary calls are repeated by `attempts`, and streams, which gRPC could only repeat from their
# start, resume with the items not yet answered. A second loop below would multiply attempts.
SERVICE_CONFIG: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}

# Of several servers, one that loads or drains gets no calls. A single server gets them, and says why it cannot answer.
HEALTH_CHECK = {"healthCheckConfig": {"serviceName": SERVICE}}


def options(
    several: bool,
    direct: bool,
    server_name: str | None,
    max_message_bytes: int,
    extra: Iterable[tuple[str, str | int]],
) -> ChannelOptions:
    """Options of a channel to one server or several; `extra` come last and win."""
    chosen: dict[str, str | int] = {
        "grpc.service_config": json.dumps(SERVICE_CONFIG | (HEALTH_CHECK if several else {})),
        "grpc.enable_retries": 1,  # for what never left this machine
        "grpc.max_receive_message_length": max_message_bytes,
        "grpc.primary_user_agent": f"saeserve-python/{__version__}",
        # The server permits a ping every 10 s, also without calls; more often would bring GOAWAY.
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        # gRPC's own defaults wait up to two minutes for a server that restarts in seconds.
        "grpc.initial_reconnect_backoff_ms": 200,
        "grpc.max_reconnect_backoff_ms": 5_000,
    }
    if server_name is not None:
        chosen["grpc.ssl_target_name_override"] = server_name
        chosen["grpc.default_authority"] = server_name
    if direct:
        # A proxy from the environment cannot reach this machine's own ports.
        chosen["grpc.enable_http_proxy"] = 0
    return list((chosen | dict(extra)).items())
