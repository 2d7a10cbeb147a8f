"""TLS and mutual TLS: who gets a connection."""

from __future__ import annotations

import asyncio

import grpc
import pytest

import saeserve
from tests.security.conftest import Guarded, Keys, known
from tests.service.servers import Server, until

SHORT = {"timeout": 3, "options": [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]}


def test_a_client_that_trusts_the_authority_is_answered(guarded: Guarded) -> None:
    with guarded.client() as client:
        assert client.server_info().model.name == "demo"
        items = list(client.encode_stream(["red", "blue"], features="0-demo:1"))
        assert [item.error for item in items] == [None, None]


def test_the_asyncio_client_connects_too(guarded: Guarded) -> None:
    async def ask() -> list[saeserve.StreamItem]:
        files = {"ca_cert": guarded.keys.ca, "token_file": guarded.token_file}
        async with saeserve.AsyncClient(guarded.target, server_name="localhost", timeout=20, **files) as client:
            assert (await client.tokenize("red")).tokens
            return [item async for item in client.encode_stream(["red"], features="0-demo:1")]

    assert [item.error for item in asyncio.run(ask())] == [None]


def test_a_plain_connection_gets_nothing(guarded: Guarded) -> None:
    with saeserve.Client(guarded.target, **SHORT) as client, pytest.raises(saeserve.Unavailable):
        client.server_info()


@pytest.mark.parametrize("trusted", ["other", "public"])
def test_a_client_that_trusts_another_authority_does_not_connect(guarded: Guarded, trusted: str) -> None:
    trust = {"ca_cert": guarded.keys.other_ca} if trusted == "other" else {"ca_cert": None, "tls": True}
    with guarded.client(**SHORT | trust) as client, pytest.raises(saeserve.Unavailable, match="CERTIFICATE_VERIFY"):
        client.server_info()


def test_the_certificate_s_name_is_checked(guarded: Guarded) -> None:
    with guarded.client(server_name="localhost") as client:
        client.server_info()
    with guarded.client(server_name="elsewhere.example", **SHORT) as client, pytest.raises(saeserve.Unavailable):
        client.server_info()


def test_a_certificate_that_changes_is_used_for_new_connections(guarded: Guarded) -> None:
    keys = guarded.keys

    def answered(trusted: object) -> bool:
        try:
            with guarded.client(ca_cert=trusted, **SHORT) as client:
                client.server_info()
        except saeserve.Unavailable:
            return False
        return True

    with guarded.client() as before:
        before.server_info()
        try:
            guarded.cert.write_bytes(keys.other_server.cert.read_bytes())  # half of a change: not taken
            until(
                lambda: (
                    "the certificate before stays in use" in guarded.server._log.read_text() or not answered(keys.ca)
                ),
                "the change is seen",
            )
            assert answered(keys.ca)
            guarded.key.write_bytes(keys.other_server.key.read_bytes())
            until(lambda: answered(keys.other_ca), "the new certificate is shown")
            assert not answered(keys.ca)
            before.server_info()  # a connection that is there stays
        finally:
            guarded.cert.write_bytes(keys.server.cert.read_bytes())
            guarded.key.write_bytes(keys.server.key.read_bytes())
        until(lambda: answered(keys.ca), "the old certificate is back")


def test_mutual_tls_asks_for_a_certificate_of_the_authority(mutual: Server, keys: Keys) -> None:
    with known(mutual, keys) as client:
        assert client.server_info().model.name == "demo"
    with saeserve.Client(mutual.target, ca_cert=keys.ca, **SHORT) as client, pytest.raises(saeserve.Unavailable):
        client.server_info()
    stranger = {"client_cert": keys.other_server.cert, "client_key": keys.other_server.key}
    with known(mutual, keys, **SHORT | stranger) as client, pytest.raises(saeserve.Unavailable):
        client.server_info()


def test_health_over_mutual_tls_needs_the_certificate_too(mutual: Server, keys: Keys) -> None:
    pair = keys.client
    for credentials, ready in (
        (grpc.ssl_channel_credentials(keys.ca.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()), True),
        (grpc.ssl_channel_credentials(keys.ca.read_bytes()), False),
    ):
        with grpc.secure_channel(mutual.target, credentials, options=SHORT["options"]) as channel:
            call = channel.unary_unary("/grpc.health.v1.Health/Check")
            if ready:
                assert call(b"", timeout=10) == b"\x08\x01"
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    call(b"", timeout=3)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
