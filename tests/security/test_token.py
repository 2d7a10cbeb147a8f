"""The bearer token: which calls need it, what it is compared with, and that it stays secret."""

from __future__ import annotations

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from tests.security.conftest import TOKEN, Guarded
from tests.service.servers import SERVING, until
from tests.service.wire import TIMEOUT, config, item, read_refusal, refused, stub_of

WRONG = [
    (),
    (("authorization", "Bearer wrong"),),
    (("authorization", TOKEN),),
    (("authorization", f"Basic {TOKEN}"),),
    (("authorization", f"Bearer {TOKEN}x"),),
    (("authorization", f"Bearer {TOKEN[:-1]}"),),
    (("authorization", "Bearer "),),
    (("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer wrong")),
    (("x-authorization", f"Bearer {TOKEN}"),),
]


@pytest.mark.parametrize("metadata", WRONG)
def test_without_the_token_nothing_is_answered(guarded: Guarded, metadata: tuple[tuple[str, str], ...]) -> None:
    with guarded.channel() as channel:
        stub = stub_of(channel)
        empty, loud = service.GetServerInfoRequest(), service.SearchRequest(limit=0)
        for call in (
            lambda: stub.GetServerInfo(empty, timeout=TIMEOUT, metadata=metadata),
            lambda: stub.Search(loud, timeout=TIMEOUT, metadata=metadata),
            lambda: next(stub.EncodeStream(iter([config(), item(0, "red")]), timeout=TIMEOUT, metadata=metadata)),
        ):
            refusal = refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            assert refusal.retry_after is None
            assert TOKEN not in refusal.message


@pytest.mark.parametrize("data", [b"\xff\xff\xff", bytes(5 * 1024 * 1024)])
def test_it_is_asked_for_before_the_message_is_looked_at(guarded: Guarded, data: bytes) -> None:
    with guarded.channel() as channel:
        for method in ("/saeserve.v1.FeatureService/Search", "/saeserve.v1.FeatureService/Nothing", "/no.Service/At"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(data, timeout=TIMEOUT)
            assert read_refusal(caught.value).code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_with_the_token_every_call_is_answered(guarded: Guarded, scheme: str) -> None:
    metadata = (("authorization", f"{scheme} {TOKEN}"),)
    with guarded.channel() as channel:
        stub = stub_of(channel)
        assert stub.GetServerInfo(service.GetServerInfoRequest(), timeout=TIMEOUT, metadata=metadata).version
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/no.Service/At")(b"", timeout=TIMEOUT, metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_needs_it_and_health_does_not(guarded: Guarded) -> None:
    ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with guarded.channel() as channel:
        assert guarded.server.health(channel) == SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        assert refused(lambda: next(reflection(iter(ask), timeout=TIMEOUT))).reason == "UNAUTHENTICATED"
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        assert next(reflection(iter(ask), timeout=TIMEOUT, metadata=metadata)).list_services_response.service


def test_the_client_sends_it_from_a_text_or_a_file(guarded: Guarded) -> None:
    with guarded.client(token=TOKEN, token_file=None) as client:
        assert client.tokenize("red").tokens
        assert [one.error for one in client.encode_stream(["red"], features="0-demo:1")] == [None]
    with guarded.client(token_file=None) as client, pytest.raises(saeserve.Unauthenticated):
        client.tokenize("red")


def test_a_token_that_changes_is_read_by_server_and_client(guarded: Guarded) -> None:
    new = "another-token-987"
    with guarded.client() as follows, guarded.client(token=TOKEN, token_file=None) as old:

        def refuses(client: saeserve.Client) -> bool:
            try:
                client.server_info()
            except saeserve.Unauthenticated:
                return True
            return False

        assert not refuses(follows)
        try:
            guarded.token_file.write_text(new)
            until(lambda: refuses(old), "the old token is refused", 10)
            until(lambda: not refuses(follows), "the client has the new one", 10)
            guarded.token_file.write_text("")  # nothing to go by: the last one stays, for both
            until(
                lambda: any(
                    "stays in force" in str(line["message"]) for line in guarded.server.log() if not refuses(follows)
                ),
                "the empty file is seen",
                10,
            )
            assert not refuses(follows)
        finally:
            guarded.token_file.write_text(TOKEN)
        until(lambda: not refuses(old), "the old token is back", 10)
    written = guarded.server._log.read_text()
    assert new not in written
    assert TOKEN not in written


def test_unknown_methods_are_one_series_and_reasons_are_counted(guarded: Guarded) -> None:
    with guarded.channel() as channel:
        for number in range(5):
            with pytest.raises(grpc.RpcError):
                channel.unary_unary(f"/made.Up/Method{number}")(b"", timeout=TIMEOUT)
    metrics = guarded.server.metrics()
    assert not [sample for sample in metrics if "Method" in sample or "made" in sample]
    key = 'saeserve_requests_total{code="UNAUTHENTICATED",method="other",reason="UNAUTHENTICATED"}'
    assert metrics[key] >= 5
