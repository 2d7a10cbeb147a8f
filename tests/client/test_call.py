"""A ready protobuf request goes the way of every call."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from saeserve.transport.errors import Unavailable
from saeserve.v1 import feature_service_pb2 as service
from tests.client.fake import Failure, status

REQUEST = service.SearchRequest()


def test_it_gives_the_message_that_was_answered(client, fake):
    answer = client.call("Search", REQUEST, request_id="mine", metadata={"x-one": "1"}, timeout=5)
    assert isinstance(answer, service.SearchResponse)
    assert answer.call_info.request_id == "mine"
    assert fake.seen[-1].metadata["x-one"] == "1"
    assert fake.seen[-1].seconds_left < 6


def test_it_is_sent_again_but_for_reasons_that_are_told_at_once(client, fake):
    fake.failures.append(Failure(status(StatusCode.UNAVAILABLE, "wait", reason="LOADING", retry_seconds=0.01)))
    assert client.call("Search", REQUEST).results
    assert len(fake.seen) == 2
    fake.failures.append(Failure(status(StatusCode.UNAVAILABLE, "wait", reason="LOADING", retry_seconds=0.01)))
    with pytest.raises(Unavailable, match="LOADING"):
        client.call("Search", REQUEST, at_once=("LOADING",))
    assert len(fake.seen) == 3


def test_a_token_of_the_call_goes_before_the_clients(connect, fake):
    client = connect(token="ours")
    client.call("Search", REQUEST)
    assert fake.seen[-1].metadata["authorization"] == "Bearer ours"
    client.call("Search", REQUEST, token="theirs")
    assert fake.seen[-1].metadata["authorization"] == "Bearer theirs"


def test_a_token_does_not_go_to_another_machine_in_plain_text(connect):
    for token, words in (("secret", "in plain text"), ("two words", "in plain text")):
        with pytest.raises(ValueError, match=words):
            connect("192.0.2.1:50051").call("Search", REQUEST, token=token)
    with pytest.raises(ValueError, match="one word"):
        connect().call("Search", REQUEST, token="two words")


@pytest.mark.parametrize(
    ("method", "message", "error", "words"),
    [
        ("Nope", REQUEST, ValueError, "'Nope' is none"),
        ("EncodeStream", [service.EncodeStreamRequest()], ValueError, "answered once"),
        ("Search", service.TokenizeRequest(), TypeError, "takes SearchRequest, not TokenizeRequest"),
        ("Search", [REQUEST], TypeError, "not list"),
        ("Contrast", [REQUEST], TypeError, "takes ContrastRequest"),
    ],
)
def test_what_cannot_be_sent(client, method, message, error, words):
    with pytest.raises(error, match=words):
        client.call(method, message)
