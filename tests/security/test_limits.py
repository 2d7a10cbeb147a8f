"""Calls and connections at a time, and peers that have died."""

from __future__ import annotations

import contextlib
import socket

import grpc
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from tests.security.conftest import MAX_CALLS, MAX_CONNECTIONS, Keys, known
from tests.service.servers import SERVING, Server, until
from tests.service.wire import TIMEOUT, Slowly, config, item, refused, stub_of


def open_channel(own: Server, keys: Keys) -> grpc.Channel:
    """Without retries, and with a connection of its own."""
    pair = keys.client
    credentials = grpc.ssl_channel_credentials(keys.ca.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes())
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(own.target, credentials, options=options)


def test_calls_beyond_the_limit_are_refused_at_once_and_health_is_not(mutual: Server, keys: Keys) -> None:
    with open_channel(mutual, keys) as channel, known(mutual, keys) as client:
        stub = stub_of(channel)
        streams = [Slowly(stub, config(features=[{"source": "0-demo", "index": 1}])) for _ in range(MAX_CALLS)]
        for number, stream in enumerate(streams):
            stream.send(item(number, "red"))
            assert next(stream.call).sequence == number
        for call in (
            lambda: stub.GetServerInfo(service.GetServerInfoRequest(), timeout=TIMEOUT),
            lambda: next(stub.EncodeStream(iter([config()]), timeout=TIMEOUT)),
        ):
            refusal = refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
            assert (refusal.retry_after, refusal.pushback) == (1.0, "1000")
        assert mutual.health(channel) == SERVING
        for stream in streams:  # the client tries again by itself, and by then there is room
            stream.call.cancel()
        assert client.server_info().limits.max_calls == MAX_CALLS
        for stream in streams:
            stream.close()
        assert stub.GetServerInfo(service.GetServerInfoRequest(), timeout=TIMEOUT).version


def test_places_are_given_back_however_calls_end(mutual: Server, keys: Keys) -> None:
    with known(mutual, keys) as client:
        for _ in range(MAX_CALLS):
            with pytest.raises(saeserve.NotFound):
                client.search("red", sources="9-none")
            with contextlib.suppress(saeserve.DeadlineExceeded):
                client.search("red", timeout=0.001)
        until(lambda: bool(client.search("red").results), "calls are taken", 10)


def test_connections_beyond_the_limit_are_closed(mutual: Server, keys: Keys) -> None:
    host, _, port = mutual.target.rpartition(":")
    with open_channel(mutual, keys) as before, contextlib.ExitStack() as held:
        assert mutual.health(before) == SERVING
        for _ in range(MAX_CONNECTIONS + 5):
            held.enter_context(socket.create_connection((host, int(port)), 5))
        with open_channel(mutual, keys) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=3)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert mutual.health(before) == SERVING  # who is in stays in
    with open_channel(mutual, keys) as channel:
        assert mutual.health(channel) == SERVING
