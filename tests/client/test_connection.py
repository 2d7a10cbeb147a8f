"""Token, caller's name and TLS: what is sent, and what is refused before anything is."""

import dataclasses

import pytest

from saeserve import Cache, Client
from saeserve.answers.types import Limits
from saeserve.transport.bearer import Bearer
from saeserve.v1 import feature_service_pb2 as service
from tests.client.fake import search_answer

FAR = "10.255.255.1:50051"


def test_token_and_name_go_with_every_call(connect, fake):
    client = connect(token="sesame", client_name="notebook 7")
    client.search("a")
    list(client.encode_stream(["a"], features="2:1"))
    for seen in fake.seen:
        assert seen.metadata["authorization"] == "Bearer sesame"
        assert seen.metadata["x-saeserve-client"] == "notebook 7"


def test_nothing_is_sent_that_was_not_given(client, fake):
    client.search("a")
    assert not {"authorization", "x-saeserve-client"} & set(fake.seen[0].metadata)


def test_a_call_s_own_authorization_stands_alone(connect, fake):
    connect(token="sesame").search("a", metadata={"Authorization": "Bearer other"})
    assert fake.seen[0].metadata["authorization"] == "Bearer other"


def test_a_token_file_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("saeserve.transport.bearer._LOOK_INTERVAL", 0.0)
    path = tmp_path / "token"
    path.write_text("one\n")
    bearer = Bearer(None, path)
    assert bearer.header == "Bearer one"
    for content, expected in (("three", "three"), ("", "three"), ("two words", "three"), ("four", "four")):
        path.write_text(content)
        assert bearer.header == f"Bearer {expected}"
    path.unlink()
    assert bearer.header == "Bearer four"


def test_a_token_goes_in_plain_text_to_this_machine_only():
    with pytest.raises(ValueError, match="plain text") as raised:
        Client(FAR, token="sesame")
    assert "sesame" not in str(raised.value)
    with pytest.raises(ValueError, match="plain text"):
        Client(["127.0.0.1:1", FAR], token="sesame")
    with pytest.raises(ValueError, match="plain text"):
        Client("dns:///saeserve:50051", token="sesame")
    for allowed in ({"allow_insecure_token": True}, {"tls": True}):
        Client(FAR, token="sesame", **allowed).close()
    Client("unix:/tmp/none", token="sesame").close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"token": "a", "token_file": "b"}, "not both"),
        ({"token": " "}, "token: the token is empty"),
        ({"token": "two words"}, "one word"),
        ({"token": "line\nbreak"}, "one word"),
        ({"token_file": "/nowhere/token"}, "token_file: /nowhere/token: No such file"),
        ({"client_name": "a" * 65}, "at most 64"),
        ({"client_name": "a\nb"}, "printable"),
        ({"client_cert": "/nowhere"}, "belong together"),
        ({"ca_cert": "/nowhere/ca"}, "ca_cert: /nowhere/ca: No such file"),
        ({"ca_cert": __file__}, "ca_cert: .*: no certificate"),
        ({"tls": False, "server_name": "a"}, "are for TLS"),
        ({"target": [FAR, "10.255.255.2:1"], "tls": True}, "need server_name"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(arguments, says):
    with pytest.raises(ValueError, match=says):
        Client(**{"target": FAR} | arguments)


def test_secrets_are_in_no_repr():
    client = Client(token="sesame")
    assert "sesame" not in repr(vars(client)) + repr(client._connection)
    client.close()


def test_cache_and_limits_are_read(client, fake):
    for number, expected in enumerate((None, Cache.NONE, Cache.LOCAL, Cache.SHARED, Cache.INNER, None)):
        answer = search_answer(service.SearchRequest())
        answer.call_info.cache = number
        fake.answers["Search"] = answer
        assert client.search("a").call_info.cache is expected
    limits = service.Limits(max_batch=1, queue_items=2, queue_gflop=3.5, queue_bytes=4, max_calls=5, max_streams=6)
    fake.answers["GetServerInfo"] = service.GetServerInfoResponse(limits=limits)
    limits = client.server_info().limits
    assert (limits.max_batch, limits.queue_items, limits.queue_gflop) == (1, 2, 3.5)
    assert (limits.queue_bytes, limits.max_calls, limits.max_streams) == (4, 5, 6)


def test_every_limit_of_the_contract_is_one_of_the_client_s():
    ours = {field.name for field in dataclasses.fields(Limits)} - {"request_bytes"}
    assert ours == {field.name for field in service.Limits.DESCRIPTOR.fields} - {"methods"}
